"""The servers through which a room may be reached, and trying them in turn.

Rules:

- At most MAX_SERVERS are tried, one after the other, within the caller's deadline.
- The servers that the client named come first, then the server that invited the user, then those
  known to be in the room, then the one named in the room ID.
- A server that refuses, because of a ban or the join rules, speaks for the room: no other server is
  asked. All other failures, also a response that violates the protocol, concern this server only.
"""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final, TypeVar

import attrs

from hs.core.errors import MatrixError, RemoteFault
from hs.core.ids import RoomID, ServerName, UserID, parse_server_name, server_in, server_of
from hs.services.rooms.store.memberships import Memberships

MAX_SERVERS: Final = 20

_FINAL: Final = frozenset({"M_FORBIDDEN", "M_INCOMPATIBLE_ROOM_VERSION"})
_MALFORMED: Final = frozenset({"M_MISSING_PARAM", "M_INVALID_PARAM", "M_BAD_JSON", "M_NOT_JSON"})

log = logging.getLogger(__name__)

T = TypeVar("T")


@attrs.frozen(eq=False)
class ServerCandidates:
    """Finds servers through which a room may be reached."""

    _server_name: ServerName
    _memberships: Memberships

    async def of(
        self, room_id: RoomID, user_id: UserID, via: Sequence[ServerName]
    ) -> list[ServerName]:
        """Return the servers to try, the best first."""
        own = await self._memberships.look_again(room_id, user_id)
        present = await self._memberships.present(room_id)
        counts = Counter(server_of(member) for member in present.joined)
        named = server_in(room_id)

        def all_candidates() -> Iterator[str]:
            yield from via
            if own is not None:
                yield server_of(own.sender)
            yield from (server for server, _ in counts.most_common(MAX_SERVERS))
            if named is not None:
                yield named

        found: dict[ServerName, None] = {}
        for candidate in all_candidates():
            try:
                found[parse_server_name(candidate)] = None
            except MatrixError:
                continue
        found.pop(self._server_name, None)
        return list(found)[:MAX_SERVERS]


async def try_in_turn(
    servers: Sequence[ServerName], attempt: Callable[[ServerName], Awaitable[T]]
) -> T:
    """Return the result of the first attempt that succeeds.

    Raises: MatrixError, if the room refuses; RemoteFault, of the server that failed last.
    """
    last: RemoteFault | None = None
    for server in servers:
        try:
            return await attempt(server)
        except RemoteFault as fault:
            log.info("could not reach a room through %s: %s", server, fault.message)
            # What a server responded says more than that another did not respond.
            if last is None or fault.error is not None or last.error is None:
                last = fault
            if fault.error is not None and fault.error.errcode in _FINAL:
                break
    if last is None:
        raise MatrixError("M_UNKNOWN", 404, "No server in this room can be reached")
    raise error_for_client(last)


def error_for_client(fault: RemoteFault) -> Exception:
    """Return what a client is told about a failed server: that server's error, if it concerns it.

    Spec: server-server API, PUT send_join: malformed requests are this server's fault.
    """
    error = fault.error
    if error is None or not 400 <= error.status < 500 or error.errcode in _MALFORMED:
        return fault
    if error.status in (401, 429):
        return fault
    return error
