"""Registrations of application services, right and wrong."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from hs.settings.errors import SettingsError
from hs.settings.sections.appservices import KEY, AppserviceRegistration
from tests.settings.conftest import Load

GOOD: dict[str, Any] = {
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


def written(folder: Path, *registrations: dict[str, Any]) -> str:
    """Write registration files; give the line that names them."""
    paths = []
    for number, one in enumerate(registrations):
        path = folder / f"service{number}.yaml"
        path.write_text(yaml.safe_dump(one))
        paths.append(str(path))
    return yaml.safe_dump({"app_service_config_files": paths})


def read(load: Load, folder: Path, **more: Any) -> AppserviceRegistration:
    """Read one registration."""
    (one,) = load(written(folder, {**GOOD, **more})).appservices.registrations
    return one


def test_a_registration_is_read(load: Load, tmp_path: Path) -> None:
    one = read(load, tmp_path, protocols=["irc"], rate_limited=False)

    assert (one.id, one.url) == ("irc", "http://127.0.0.1:1234")
    assert (one.protocols, one.rate_limited) == (("irc",), False)
    assert one.namespaces.users[0].exclusive
    assert one.namespaces.users[0].pattern.match("@_irc_somebody:hs.test")
    assert not one.receives_ephemeral


def test_nothing_is_sent_without_an_address(load: Load, tmp_path: Path) -> None:
    assert read(load, tmp_path, url=None).url is None


@pytest.mark.parametrize(
    "key", ["receive_ephemeral", "push_ephemeral", "de.sorunome.msc2409.push_ephemeral"]
)
def test_what_passes_is_asked_for_by_old_and_new_names(
    load: Load, tmp_path: Path, key: str
) -> None:
    assert read(load, tmp_path, **{key: True}).receives_ephemeral


def test_null_says_nothing(load: Load, tmp_path: Path) -> None:
    nothing = dict.fromkeys(("rate_limited", "protocols", "receive_ephemeral"))

    assert read(load, tmp_path, **nothing) == read(load, tmp_path)


def test_flags_of_proposals_are_read(load: Load, tmp_path: Path) -> None:
    one = read(load, tmp_path, **{"org.matrix.msc3202": True, "io.element.msc4190": True})

    assert one.receives_encryption


@pytest.mark.parametrize(
    ("change", "key", "message"),
    [
        ({"id": 5}, "id", "expected a string"),
        ({"as_token": ""}, "as_token", "is empty"),
        ({"url": "irc.example.org"}, "url", "is not an address"),
        ({"sender_localpart": "@bot:hs.test"}, "sender_localpart", "a whole user ID"),
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
            "repeats what repeats already",
        ),
        (
            {"namespaces": {"rooms": [{"exclusive": True, "regex": "!" * 2000}]}},
            "namespaces.rooms.0.regex",
            "longer than",
        ),
    ],
)
def test_mistakes_are_told_with_file_key_and_remedy(
    load: Load, tmp_path: Path, change: dict[str, Any], key: str, message: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load(written(tmp_path, {**GOOD, **change}))

    (problem,) = caught.value.problems
    assert problem.key == key
    assert message in problem.message
    assert problem.remedy
    assert problem.origin.file == tmp_path / "service0.yaml"


@pytest.mark.parametrize("key", ["id", "url", "as_token", "hs_token", "sender_localpart"])
def test_what_is_missing_is_told(load: Load, tmp_path: Path, key: str) -> None:
    given = {name: value for name, value in GOOD.items() if name != key}

    with pytest.raises(SettingsError, match=f"{key}: the registration lacks it"):
        load(written(tmp_path, given))


def test_services_have_ids_and_tokens_of_their_own(load: Load, tmp_path: Path) -> None:
    other = {**GOOD, "hs_token": "another"}

    with pytest.raises(SettingsError) as caught:
        load(written(tmp_path, GOOD, other))

    assert {one.key for one in caught.value.problems} == {"id", "as_token"}


def test_a_file_that_is_not_there_is_told(load: Load, tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"

    with pytest.raises(SettingsError, match=rf"none\.yaml: {KEY}: .*does not exist"):
        load(yaml.safe_dump({"app_service_config_files": [str(missing)]}))
