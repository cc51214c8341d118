"""The registry of all known keys by name, including those without effect."""

from collections.abc import Mapping
from types import MappingProxyType

from hs.settings.fields import Key, path_key_of
from hs.settings.planned import PLANNED_KEYS
from hs.settings.settings import keys_with_fields


def _all_keys() -> dict[str, Key]:
    registry: dict[str, Key] = {}
    for key in (*keys_with_fields(), *PLANNED_KEYS):
        assert key.name not in registry, f"{key.name} is declared twice"
        registry[key.name] = key
        if key.path_key:
            registry[key.path_key] = path_key_of(key)
    return registry


REGISTRY: Mapping[str, Key] = MappingProxyType(_all_keys())
