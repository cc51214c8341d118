"""What devices need to know of other servers and of rooms, as narrow as they need it."""

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple, Protocol

from hs.core.canonical_json import JsonObject
from hs.core.errors import RemoteFault
from hs.core.ids import ServerName, UserID
from hs.core.positions import VectorPosition


class MetAndParted(NamedTuple):
    """Who shares a room with a user only since a moment, and who does not any more."""

    met: AbstractSet[UserID] = frozenset()
    parted: AbstractSet[UserID] = frozenset()


class Neighbours(Protocol):
    """Knows who shares rooms with whom: both are joined to it."""

    async def sharing(self, user_id: UserID, among: Collection[UserID]) -> AbstractSet[UserID]:
        """Give those who share a room with one of our users now."""
        ...

    async def met_and_parted(self, user_id: UserID, since: VectorPosition) -> MetAndParted:
        """Compare now with a position of the stream of events."""
        ...


class OutgoingMessage(NamedTuple):
    """A message to a device of another server; `device_id` may be "*"."""

    user_id: UserID
    device_id: str
    content: JsonObject


class RemoteDevices(Protocol):
    """The devices of other servers' users."""

    async def query(
        self, server: ServerName, wanted: Mapping[UserID, Sequence[str]], timeout_s: float
    ) -> JsonObject:
        """Give an answer of `/keys/query`, trusted to speak only of those users.

        Raises: RemoteFault.
        """
        ...

    async def claim(
        self, server: ServerName, wanted: Mapping[UserID, Mapping[str, str]], timeout_s: float
    ) -> JsonObject:
        """Give the `one_time_keys` of an answer of `/keys/claim`. Raises: RemoteFault."""
        ...

    async def send(
        self, sender: UserID, event_type: str, messages: Sequence[OutgoingMessage]
    ) -> None:
        """Take messages, to be delivered when their servers can be reached."""
        ...

    async def cross_signing_keys(self, user_id: UserID) -> Mapping[str, Any]:
        """Give a user's cross-signing keys by usage, as far as they are known."""
        ...


class NoRemoteDevices:
    """The answers of a server that talks to no other."""

    async def query(
        self, server: ServerName, wanted: Mapping[UserID, Sequence[str]], timeout_s: float
    ) -> JsonObject:
        raise RemoteFault(server, "this server does not talk to others")

    async def claim(
        self, server: ServerName, wanted: Mapping[UserID, Mapping[str, str]], timeout_s: float
    ) -> JsonObject:
        raise RemoteFault(server, "this server does not talk to others")

    async def send(
        self, sender: UserID, event_type: str, messages: Sequence[OutgoingMessage]
    ) -> None:
        return

    async def cross_signing_keys(self, user_id: UserID) -> Mapping[str, Any]:
        return {}
