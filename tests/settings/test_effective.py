"""Every key that claims to have an effect is read by some code."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

import hs
from hs.settings.documents import read_documents
from hs.settings.errors import SettingsError
from hs.settings.fields import Key, keys_of
from hs.settings.load import settings_from
from hs.settings.registry import REGISTRY
from hs.settings.settings import GROUPS

ROOT = Path(hs.__file__).parent
SOURCE = "\n".join(path.read_text() for path in ROOT.rglob("*.py"))
# Their descriptions say that they have no effect.
ACCEPTED_ONLY = {"macaroon_secret_key", "worker_main_http_uri"}
# These are evaluated while settings are loaded, and their results have other names.
DERIVED_GROUPS = {"WorkerKeys", "AppserviceKeys"}
DERIVED = {
    "account_threepid_delegates",
    "auto_accept_invites",
    "contacts",
    "databases",
    "enable_registration_without_verification",
    "global_factor",
    "jwt_config",
    "limit_remote_rooms",
    "login_via_existing_session",
    "password_config",
    "per_cache_factors",
    "room_prejoin_state",
    "smtp_port",
    "stats",
    "support_page",
    "ui_auth",
    "user_consent",
}


def effective(cls: type) -> Iterator[Key]:
    for key in keys_of(cls):
        if not key.is_effective:
            continue
        yield key
        if key.block is not None and attrs.has(key.block):
            yield from effective(key.block)


def is_read(name: str) -> bool:
    """Return whether a name is an attribute in the code, or the key of a duty (worker_duties)."""
    return bool(re.search(rf"\.{re.escape(name)}\b|_key=\"{re.escape(name)}\"", SOURCE))


def attributes_read(folder: Path) -> set[str]:
    """Return the names of all attributes that code outside of settings reads."""
    return {
        node.attr
        for path in folder.rglob("*.py")
        if "settings" not in path.relative_to(ROOT).parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }


READ_ATTRIBUTES = attributes_read(ROOT)


@pytest.mark.parametrize(
    "group",
    [cls for _, cls, _ in GROUPS if cls.__name__ not in DERIVED_GROUPS],
    ids=lambda cls: cls.__name__,
)
def test_effective_keys_are_read_outside_of_settings(group: type) -> None:
    """Checking a key while it is loaded does not count."""
    unread = {key.name for key in effective(group) if key.name not in READ_ATTRIBUTES}

    assert unread <= ACCEPTED_ONLY | DERIVED


@pytest.mark.parametrize("group", [cls for _, cls, _ in GROUPS], ids=lambda cls: cls.__name__)
def test_effective_keys_are_read(group: type) -> None:
    unread = {key.name for key in effective(group) if not is_read(key.name)}

    assert unread <= ACCEPTED_ONLY


def test_keys_without_effect_say_so_in_their_description() -> None:
    assert all("Accepted and not needed" in REGISTRY[name].doc for name in ACCEPTED_ONLY)


def test_keys_without_effect_are_noted_once_each(tmp_path: Path) -> None:
    path = tmp_path / "homeserver.yaml"
    path.write_text(
        "server_name: example.org\n"
        "metrics_flags: {known_servers: true}\n"
        "caches: {global_factor: 1.0, expire_caches: false}\n"
    )

    settings = settings_from(read_documents([path]), {})

    assert [(notice.key, notice.message) for notice in settings.notices] == [
        ("metrics_flags", "has no effect in this version"),
        ("caches.expire_caches", "has no effect in this version"),
    ]


def test_mistake_in_a_key_without_effect_is_reported_once(tmp_path: Path) -> None:
    path = tmp_path / "homeserver.yaml"
    path.write_text("server_name: example.org\nmetrics_flags: 5\n")

    with pytest.raises(SettingsError) as error:
        settings_from(read_documents([path]), {})

    assert [problem.key for problem in error.value.problems] == ["metrics_flags"]
