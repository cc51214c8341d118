"""Secrets are not printed, whatever mistake was made in them."""

import json
from pathlib import Path
from typing import Any

import pytest

from hs.settings.errors import SettingsError
from hs.settings.fields import keys_of
from hs.settings.load import load_settings
from hs.settings.registry import REGISTRY
from hs.settings.sections.appservices import read_registration
from tests.settings.conftest import Load, Refused

HUSH = 7355608
WRONG = [HUSH, float(HUSH), [str(HUSH)], {"key": str(HUSH)}]
INLINE = [
    "turn_password",
    "signing_key",
    "email.smtp_pass",
    "password_config.pepper",
    "database.args.password",
    "database.args.sslpassword",
    "databases.master.args.password",
    "media_storage_providers.config.secret_access_key",
    "media_storage_providers.config.session_token",
]
WITH_FILE = [
    name + (f".{inner.name}" if inner else "")
    for name, key in REGISTRY.items()
    for inner in (None, *(keys_of(key.block) if key.block else ()))
    if (inner or key).path_key
]
BESIDE: dict[str, dict[str, Any]] = {
    "args": {"database": "d"},
    "database": {"name": "psycopg2"},
    "master": {"name": "psycopg2"},
    "config": {"bucket": "b", "access_key_id": "a", "secret_access_key": "s"},
    "email": {"notif_from": "hs@example.org"},
    "media_storage_providers": {"module": "s3_storage_provider.S3StorageProviderBackend"},
}


def nested(path: str, value: Any) -> dict[str, Any]:
    """Return the configuration with a value at a path, and what else its blocks need."""
    name, _, rest = path.partition(".")
    if rest:
        value = {**BESIDE.get(name, {}), **nested(rest, value)}
    return {name: [value] if name == "media_storage_providers" else value}


# psycopg2 takes passwords of digits only, which YAML reads as integers.
DIGITS_ALLOWED = ("database.args.password", "databases.master.args.password")
CASES = [
    pytest.param(path, wrong, id=f"{path}-{type(wrong).__name__}")
    for path in (*WITH_FILE, *INLINE)
    for wrong in WRONG
    if not (path in DIGITS_ALLOWED and type(wrong) is int)
]


@pytest.mark.parametrize(("path", "wrong"), CASES)
def test_secret_of_wrong_type_is_not_printed(refused: Refused, path: str, wrong: Any) -> None:
    message = refused(json.dumps({"server_name": "a.org", **nested(path, wrong)}))

    assert f"{path.rpartition('.')[2]}: expected a string, found a" in message
    assert str(HUSH) not in message


@pytest.mark.parametrize(
    "path", sorted({path.rpartition(".")[0] for path in [*WITH_FILE, *INLINE]} - {""})
)
def test_string_in_place_of_a_block_with_secrets_is_not_printed(
    refused: Refused, path: str
) -> None:
    message = refused(json.dumps({"server_name": "a.org", **nested(path, f"a:{HUSH}@b")}))

    assert "found a string" in message
    assert str(HUSH) not in message


@pytest.mark.parametrize("text", ["*7355608", "!7355608", "!7355608!x y"])
def test_unquoted_secret_that_is_no_yaml_is_not_printed(refused: Refused, text: str) -> None:
    message = refused(f"form_secret: {text}\n")

    assert "0.yaml:2: not valid YAML: a value that begins with" in message
    assert str(HUSH) not in message


@pytest.mark.parametrize("path", INLINE)
def test_secret_is_not_in_the_repr_of_settings(load: Load, path: str) -> None:
    settings = load(json.dumps({"server_name": "a.org", **nested(path, str(HUSH))}))

    assert str(HUSH) not in repr(settings)


@pytest.mark.parametrize("name", ["as_token", "hs_token"])
def test_token_of_wrong_type_in_a_registration_is_not_printed(tmp_path: Path, name: str) -> None:
    file = tmp_path / "service.yaml"
    tokens = {"as_token": "a", "hs_token": "h", name: HUSH}
    file.write_text(json.dumps({"id": "i", "url": None, "sender_localpart": "s", **tokens}))

    with pytest.raises(SettingsError) as error:
        read_registration(file)

    assert name in str(error.value)
    assert str(HUSH) not in str(error.value)


@pytest.mark.parametrize("path", WITH_FILE)
def test_empty_secret_is_not_set(load: Load, path: str) -> None:
    settings = load(json.dumps({"server_name": "a.org", **nested(path, "")}))

    assert [(notice.key, notice.message) for notice in settings.notices] == [
        (path, "is empty, so it is not set")
    ]


def test_empty_secret_of_json_web_tokens_is_rejected(refused: Refused) -> None:
    """An empty secret verifies tokens that anybody signs."""
    message = refused("jwt_config: {enabled: true, secret: '', algorithm: HS256}")

    assert "jwt_config.secret: missing" in message


@pytest.mark.parametrize(("content", "message"), [(b"\n", "is empty"), (b"\xff", "UTF-8")])
def test_file_without_secret_is_rejected(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "secret").write_bytes(content)
    (tmp_path / "0.yaml").write_text("server_name: a.org\nregistration_shared_secret_path: secret")

    with pytest.raises(SettingsError, match=message):
        load_settings([tmp_path / "0.yaml"], {})


@pytest.mark.parametrize(
    "written",
    [
        "account_threepid_delegates: {{msisdn: 'user:{0}@sms.example.org'}}",
        "recaptcha_siteverify_api: 'ftp://user:{0}@verify.example.org'",
    ],
)
def test_password_in_a_url_is_not_printed(refused: Refused, written: str) -> None:
    message = refused(written.format(HUSH))

    assert "not an http or https URL" in message
    assert str(HUSH) not in message


@pytest.mark.parametrize("written", ["${SECRET}", "$SECRET", "{{ secret }}"])
def test_placeholder_is_reported_and_not_printed(load: Load, written: str) -> None:
    [notice] = load(f"registration_shared_secret: '{written}'").notices

    assert (notice.key, notice.is_warning) == ("registration_shared_secret", True)
    assert written not in str(notice)
