"""Every key that is known, effective or not, by name."""

from collections.abc import Mapping
from types import MappingProxyType

from hs.settings.fields import Key, twin_of
from hs.settings.planned import PLANNED_KEYS
from hs.settings.settings import keys_with_fields


def _all_keys() -> dict[str, Key]:
    found: dict[str, Key] = {}
    for key in (*keys_with_fields(), *PLANNED_KEYS):
        assert key.name not in found, f"{key.name} is declared twice"
        found[key.name] = key
        if key.path_twin:
            found[key.path_twin] = twin_of(key)
    return found


REGISTRY: Mapping[str, Key] = MappingProxyType(_all_keys())
