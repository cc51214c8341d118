"""The interfaces of devices to other servers and to room memberships."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, NamedTuple, Protocol

import attrs
import orjson
import trio

from hs.core.canonical_json import JsonObject
from hs.core.errors import RemoteFault
from hs.core.ids import ServerName, UserID
from hs.core.positions import VectorPosition
from hs.core.requester import Requester

MAX_SERVERS_AT_ONCE: Final = 50
MAX_ANSWER_BYTES: Final = 64 << 20
"""Keys of other servers in one response; a client may name any number of malicious servers."""


class SharedRoomChanges(NamedTuple):
    """Users who share a room with a user since a position, and users who no longer do.

    `invited` are users who share none, and were invited to a room of the user since then.
    """

    began: AbstractSet[UserID] = frozenset()
    ceased: AbstractSet[UserID] = frozenset()
    invited: AbstractSet[UserID] = frozenset()


class SharedRoomUsers(Protocol):
    """Queries for users in shared rooms, in which both users are joined."""

    async def sharing(self, user_id: UserID, among: Collection[UserID]) -> AbstractSet[UserID]:
        """Return the users in `among` who share a room with a local user now."""
        ...

    async def sharing_changes(self, user_id: UserID, since: VectorPosition) -> SharedRoomChanges:
        """Compare the current memberships with those at a position of the stream `events`."""
        ...


class OutgoingMessage(NamedTuple):
    """A message to a device of another server; `device_id` may be "*"."""

    user_id: UserID
    device_id: str
    content: JsonObject


class OutgoingEdu(NamedTuple):
    """An EDU (JSON) that waits for a federation sender."""

    destination: str
    edu: bytes


class RemoteDevices(Protocol):
    """A client for the devices of users of other servers."""

    async def query(
        self, server: ServerName, requested: Mapping[UserID, Sequence[str]], timeout_s: float
    ) -> JsonObject:
        """Return a response to `/keys/query`; the caller uses only the requested users in it.

        Raises: RemoteFault.
        """
        ...

    async def claim(
        self, server: ServerName, requested: Mapping[UserID, Mapping[str, str]], timeout_s: float
    ) -> JsonObject:
        """Return `one_time_keys` of a response to `/keys/claim`. Raises: RemoteFault."""
        ...

    async def check_destinations(
        self, requester: Requester, servers: Collection[ServerName]
    ) -> None:
        """Raise LimitExceeded if a user sends messages to too many unknown servers."""
        ...

    def encode_messages(
        self, sender: UserID, event_type: str, messages: Sequence[OutgoingMessage]
    ) -> tuple[OutgoingEdu, ...]:
        """Return the EDUs to be stored, one for each server. Raises: BadJson."""
        ...

    def announce_messages(self, outgoing: Sequence[OutgoingEdu]) -> None:
        """Wake the senders of EDUs that were stored."""
        ...

    async def cross_signing_keys(self, user_id: UserID) -> Mapping[str, Any]:
        """Return the known cross-signing keys of a user, by usage."""
        ...


async def ask_servers(
    servers: Iterable[ServerName], ask: Callable[[ServerName], Awaitable[None]]
) -> None:
    """Call `ask` for each server, for some of them at once."""
    waiting = iter(servers)

    async def ask_in_turn() -> None:
        for server in waiting:
            await ask(server)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for _ in range(MAX_SERVERS_AT_ONCE):
            nursery.start_soon(ask_in_turn)


@attrs.define(eq=False)
class AnswerBudget:
    """The bytes that other servers may still add to a response."""

    left: int = attrs.field(factory=lambda: MAX_ANSWER_BYTES)

    def take(self, server: ServerName, keys_of_users: Mapping[str, Any]) -> None:
        """Count the keys of users. Raises: RemoteFault, if they are too many."""
        try:
            self.left -= len(orjson.dumps(keys_of_users))
        except orjson.JSONEncodeError as fault:
            raise RemoteFault(server, f"its keys are malformed: {fault}") from None
        if self.left < 0:
            raise RemoteFault(server, "the keys of all servers are too large for one response")

    def check(self, server: ServerName) -> None:
        """Raise RemoteFault if nothing is left."""
        if self.left < 0:
            raise RemoteFault(server, "it was not asked: the keys of the others are too large")


class NoRemoteDevices:
    """The implementation for a server without federation."""

    async def query(
        self, server: ServerName, requested: Mapping[UserID, Sequence[str]], timeout_s: float
    ) -> JsonObject:
        raise RemoteFault(server, "federation is disabled")

    async def claim(
        self, server: ServerName, requested: Mapping[UserID, Mapping[str, str]], timeout_s: float
    ) -> JsonObject:
        raise RemoteFault(server, "federation is disabled")

    async def check_destinations(
        self, requester: Requester, servers: Collection[ServerName]
    ) -> None:
        return

    def encode_messages(
        self, sender: UserID, event_type: str, messages: Sequence[OutgoingMessage]
    ) -> tuple[OutgoingEdu, ...]:
        return ()

    def announce_messages(self, outgoing: Sequence[OutgoingEdu]) -> None:
        return

    async def cross_signing_keys(self, user_id: UserID) -> Mapping[str, Any]:
        return {}
