"""The generated reference pages match the registry."""

from pathlib import Path

from hs.settings.reference import json_schema, json_schema_text, markdown
from hs.settings.registry import REGISTRY
from hs.settings.settings import GROUPS, Settings
from tests.settings.conftest import Load

DOCS = Path(__file__).parent.parent.parent / "docs"
REMEDY = "regenerate it with: hs reference docs"


def test_reference_page_is_up_to_date() -> None:
    assert (DOCS / "configuration.md").read_text() == markdown(), REMEDY


def test_schema_file_is_up_to_date() -> None:
    assert (DOCS / "configuration.schema.json").read_text() == json_schema_text(), REMEDY


def test_every_key_has_a_description() -> None:
    undocumented = [key.name for key in REGISTRY.values() if not key.doc.endswith(".")]

    assert undocumented == []


def test_all_documented_keys_of_synapse_are_known() -> None:
    documented = 226

    assert len(REGISTRY) >= documented


def test_schema_contains_every_key() -> None:
    assert set(json_schema()["properties"]) == set(REGISTRY)


def test_empty_file_gives_the_defaults_of_the_classes(load: Load) -> None:
    loaded, defaults = load(""), Settings()

    for name in ("rate_limits", "registration", "rooms", "presence", "passwords", "turn", "redis"):
        assert getattr(loaded, name) == getattr(defaults, name)
    assert len(GROUPS) > 10
