"""The profile fields in member events."""

from collections.abc import Mapping
from typing import Any, Final

PROFILE_FIELDS: Final = ("displayname", "avatar_url")


def member_profile(profile: Mapping[str, Any]) -> dict[str, str]:
    """Return the part of a profile that member events contain."""
    fields = {name: profile.get(name) for name in PROFILE_FIELDS}
    return {name: value for name, value in fields.items() if isinstance(value, str) and value}
