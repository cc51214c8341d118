"""The interface to application services that keep the keys of their users themselves.

Spec: MSC3983; MSC3984.
"""

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Protocol

from hs.core.canonical_json import JsonObject
from hs.core.ids import UserID


class AppserviceKeys(Protocol):
    """Asks application services for the keys of users in their exclusive namespaces."""

    def users_to_claim_from(self, user_ids: Collection[str]) -> AbstractSet[str]:
        """Return those users whose service can be asked for one-time keys."""
        ...

    async def claim(
        self, requested: Mapping[str, Mapping[str, str]]
    ) -> dict[str, dict[str, JsonObject]]:
        """Return a key of each device that a service has one for, as `{key ID: key}`."""
        ...

    async def query(
        self, requested: Mapping[UserID, Sequence[str]]
    ) -> Mapping[str, Mapping[UserID, Any]]:
        """Return sections of a response to `/keys/query`, with requested users and devices only."""
        ...


class NoAppserviceKeys:
    """The implementation for servers whose services upload all keys."""

    def users_to_claim_from(self, user_ids: Collection[str]) -> AbstractSet[str]:
        """Return no user."""
        return frozenset()

    async def claim(
        self, requested: Mapping[str, Mapping[str, str]]
    ) -> dict[str, dict[str, JsonObject]]:
        """Return no key."""
        return {}

    async def query(
        self, requested: Mapping[UserID, Sequence[str]]
    ) -> Mapping[str, Mapping[UserID, Any]]:
        """Return nothing."""
        return {}
