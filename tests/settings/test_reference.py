"""The written reference agrees with the registry."""

from pathlib import Path

from hs.settings.reference import json_schema, json_schema_text, markdown
from hs.settings.registry import REGISTRY
from hs.settings.settings import GROUPS, Settings
from tests.settings.conftest import Load

DOCS = Path(__file__).parent.parent.parent / "docs"
REMEDY = "write it anew: hs reference docs"


def test_the_page_is_current() -> None:
    assert (DOCS / "configuration.md").read_text() == markdown(), REMEDY


def test_the_schema_is_current() -> None:
    assert (DOCS / "configuration.schema.json").read_text() == json_schema_text(), REMEDY


def test_every_key_says_what_it_is_for() -> None:
    silent = [key.name for key in REGISTRY.values() if not key.doc.endswith(".")]

    assert silent == []


def test_the_dialect_is_known_whole() -> None:
    documented = 226

    assert len(REGISTRY) >= documented


def test_the_schema_names_every_key() -> None:
    assert set(json_schema()["properties"]) == set(REGISTRY)


def test_the_defaults_of_the_classes_are_those_of_an_empty_file(load: Load) -> None:
    loaded, fresh = load(""), Settings()

    for name in ("rate_limits", "registration", "rooms", "presence", "passwords", "turn", "redis"):
        assert getattr(loaded, name) == getattr(fresh, name)
    assert len(GROUPS) > 10
