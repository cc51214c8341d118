"""A key that is said to have an effect is read by something."""

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
# Their descriptions say so.
ACCEPTED = {"macaroon_secret_key", "worker_main_http_uri"}
# What follows from these is worked out while settings are read, and used under other names.
WORKED_OUT_GROUPS = {"WorkerKeys", "AppserviceKeys"}
WORKED_OUT = {
    "account_threepid_delegates",
    "auto_accept_invites",
    "contacts",
    "enable_registration_without_verification",
    "global_factor",
    "jwt_config",
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
    """Find it as an attribute, or as the key of a duty (hs/settings/worker_duties.py)."""
    return bool(re.search(rf"\.{re.escape(name)}\b|_key=\"{re.escape(name)}\"", SOURCE))


def attributes_read(folder: Path) -> set[str]:
    """List the names of all attributes that code reads."""
    return {
        node.attr
        for path in folder.rglob("*.py")
        if "settings" not in path.relative_to(ROOT).parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }


READ_OUTSIDE = attributes_read(ROOT)


@pytest.mark.parametrize(
    "group",
    [cls for _, cls, _ in GROUPS if cls.__name__ not in WORKED_OUT_GROUPS],
    ids=lambda cls: cls.__name__,
)
def test_effective_keys_are_read_by_what_they_are_for(group: type) -> None:
    """Not only where settings are read and checked."""
    unread = {key.name for key in effective(group) if key.name not in READ_OUTSIDE}

    assert unread <= ACCEPTED | WORKED_OUT


@pytest.mark.parametrize("group", [cls for _, cls, _ in GROUPS], ids=lambda cls: cls.__name__)
def test_effective_keys_are_read(group: type) -> None:
    unread = {key.name for key in effective(group) if not is_read(key.name)}

    assert unread <= ACCEPTED


def test_what_is_accepted_only_says_so() -> None:
    assert all("Accepted and not needed" in REGISTRY[name].doc for name in ACCEPTED)


def test_keys_and_parts_of_blocks_without_effect_are_told(tmp_path: Path) -> None:
    path = tmp_path / "homeserver.yaml"
    path.write_text(
        "server_name: example.org\n"
        "metrics_flags: {known_servers: true}\n"
        "caches: {global_factor: 1.0, expire_caches: false}\n"
    )

    settings = settings_from(read_documents([path]), {})

    assert [(one.key, one.message) for one in settings.notices] == [
        ("metrics_flags", "not yet effective"),
        ("caches.expire_caches", "not yet effective"),
    ]


def test_a_mistake_in_a_key_without_effect_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "homeserver.yaml"
    path.write_text("server_name: example.org\nmetrics_flags: 5\n")

    with pytest.raises(SettingsError) as refused:
        settings_from(read_documents([path]), {})

    assert [one.key for one in refused.value.problems] == ["metrics_flags"]
