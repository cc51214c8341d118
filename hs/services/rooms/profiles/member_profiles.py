"""What member events show of a user, of what the accounts know."""

from collections.abc import Mapping
from typing import Any, Final, Protocol

from hs.core.ids import UserID

SHOWN_FIELDS: Final = ("displayname", "avatar_url")


class LocalProfiles(Protocol):
    """Knows the profiles of this server's users."""

    async def of_local(self, user_id: UserID) -> Mapping[str, Any]:
        """Give a user's profile; empty for other servers' users."""
        ...


def shown(profile: Mapping[str, Any]) -> dict[str, str]:
    """Give the part of a profile that member events repeat."""
    fields = {name: profile.get(name) for name in SHOWN_FIELDS}
    return {name: value for name, value in fields.items() if isinstance(value, str) and value}
