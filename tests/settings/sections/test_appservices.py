"""Registration files of application services, valid and invalid."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from hs.settings.errors import SettingsError
from hs.settings.sections.appservices import KEY, AppserviceRegistration
from tests.settings.conftest import Load

VALID: dict[str, Any] = {
    "id": "irc",
    "url": "http://127.0.0.1:1234/",
    "as_token": "as",
    "hs_token": "hs",
    "sender_localpart": "_irc_bot",
    "namespaces": {
        "users": [{"exclusive": True, "regex": "@_irc_.*"}],
        "aliases": [{"exclusive": False, "regex": "#_irc_.*"}],
        "rooms": [],
    },
}


def write_registrations(folder: Path, *registrations: dict[str, Any]) -> str:
    """Write registration files; return the configuration that names them."""
    paths = []
    for number, registration in enumerate(registrations):
        path = folder / f"service{number}.yaml"
        path.write_text(yaml.safe_dump(registration))
        paths.append(str(path))
    return yaml.safe_dump({"app_service_config_files": paths})


def read(load: Load, folder: Path, **changes: Any) -> AppserviceRegistration:
    """Load one registration with some keys changed."""
    (registration,) = load(
        write_registrations(folder, {**VALID, **changes})
    ).appservices.registrations
    return registration


def test_registration_is_loaded(load: Load, tmp_path: Path) -> None:
    registration = read(load, tmp_path, protocols=["irc"], rate_limited=False)

    assert (registration.id, registration.url) == ("irc", "http://127.0.0.1:1234")
    assert (registration.protocols, registration.rate_limited) == (("irc",), False)
    assert registration.namespaces.users[0].exclusive
    assert registration.namespaces.users[0].pattern.match("@_irc_somebody:hs.test")
    assert not registration.receives_ephemeral


def test_url_may_be_null(load: Load, tmp_path: Path) -> None:
    assert read(load, tmp_path, url=None).url is None


@pytest.mark.parametrize(
    "key", ["receive_ephemeral", "push_ephemeral", "de.sorunome.msc2409.push_ephemeral"]
)
def test_ephemeral_events_are_requested_by_old_and_new_keys(
    load: Load, tmp_path: Path, key: str
) -> None:
    assert read(load, tmp_path, **{key: True}).receives_ephemeral


def test_null_means_the_default(load: Load, tmp_path: Path) -> None:
    nulls = dict.fromkeys(("rate_limited", "protocols", "receive_ephemeral"))

    assert read(load, tmp_path, **nulls) == read(load, tmp_path)


def test_unstable_flags_are_read(load: Load, tmp_path: Path) -> None:
    registration = read(load, tmp_path, **{"org.matrix.msc3202": True, "io.element.msc4190": True})

    assert registration.receives_encryption


@pytest.mark.parametrize(
    ("change", "key", "message"),
    [
        ({"id": 5}, "id", "expected a string"),
        ({"as_token": ""}, "as_token", "must not be empty"),
        ({"url": "irc.example.org"}, "url", "is not a URL"),
        ({"sender_localpart": "@bot:hs.test"}, "sender_localpart", "a full user ID"),
        ({"rate_limited": "maybe"}, "rate_limited", "expected true or false"),
        ({"namespaces": []}, "namespaces", "expected a map"),
        (
            {"namespaces": {"users": [{"exclusive": True, "regex": "@_irc_("}]}},
            "namespaces.users.0.regex",
            "is not a regular expression",
        ),
        (
            {"namespaces": {"aliases": [{"exclusive": True, "regex": "#(a+)+$"}]}},
            "namespaces.aliases.0.regex",
            "contains a nested repetition",
        ),
        (
            {"namespaces": {"rooms": [{"exclusive": True, "regex": "!" * 2000}]}},
            "namespaces.rooms.0.regex",
            "longer than",
        ),
    ],
)
def test_mistake_is_reported_with_file_key_and_remedy(
    load: Load, tmp_path: Path, change: dict[str, Any], key: str, message: str
) -> None:
    with pytest.raises(SettingsError) as error:
        load(write_registrations(tmp_path, {**VALID, **change}))

    (problem,) = error.value.problems
    assert problem.key == key
    assert message in problem.message
    assert problem.remedy
    assert problem.origin.file == tmp_path / "service0.yaml"


@pytest.mark.parametrize("key", ["id", "url", "as_token", "hs_token", "sender_localpart"])
def test_missing_key_is_reported(load: Load, tmp_path: Path, key: str) -> None:
    incomplete = {name: value for name, value in VALID.items() if name != key}

    with pytest.raises(SettingsError, match=f"{key}: missing"):
        load(write_registrations(tmp_path, incomplete))


def test_ids_and_tokens_used_twice_are_rejected(load: Load, tmp_path: Path) -> None:
    second = {**VALID, "hs_token": "another"}

    with pytest.raises(SettingsError) as error:
        load(write_registrations(tmp_path, VALID, second))

    assert {problem.key for problem in error.value.problems} == {"id", "as_token"}


def test_missing_registration_file_is_reported(load: Load, tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"

    with pytest.raises(SettingsError, match=rf"none\.yaml: {KEY}: .*does not exist"):
        load(yaml.safe_dump({"app_service_config_files": [str(missing)]}))
