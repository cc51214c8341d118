"""The servers through which a room may be reached, and trying them in turn.

Rules:

- At most MAX_SERVERS are tried, one after the other, within the caller's deadline.
- The servers that the client named come first, then the server that invited the user, then those
  of users named in the stripped state of an invite or knock, then those known to be in the room,
  then the one named in the room ID.
- If MAX_REFUSALS servers refuse because of a ban or the join rules, no other server is asked. One
  refusal is not enough: anybody can name a server that is not in the room, and it may say anything.
  After any other failure, also an invalid response, the next server is tried.
"""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar

import attrs
import trio

from hs.core.errors import MatrixError, RemoteFault, may_be_relayed
from hs.core.ids import RoomID, ServerName, UserID, parse_server_name, server_in, server_of
from hs.services.rooms.read.stripped_state import StrippedState
from hs.services.rooms.store.memberships import Memberships

MAX_SERVERS: Final = 20
MAX_REFUSALS: Final = 3

_FINAL: Final = frozenset({"M_FORBIDDEN", "M_INCOMPATIBLE_ROOM_VERSION"})
_MALFORMED: Final = frozenset({"M_MISSING_PARAM", "M_INVALID_PARAM", "M_BAD_JSON", "M_NOT_JSON"})

log = logging.getLogger(__name__)

T = TypeVar("T")


@attrs.frozen(eq=False)
class ServerCandidates:
    """Finds servers through which a room may be reached."""

    _server_name: ServerName
    _memberships: Memberships
    _stripped: StrippedState

    async def of(
        self, room_id: RoomID, user_id: UserID, via: Sequence[ServerName]
    ) -> list[ServerName]:
        """Return the servers to try, the best first."""
        own = await self._memberships.look_again(room_id, user_id)
        present = await self._memberships.present(room_id)
        counts = Counter(server_of(member) for member in present.joined)
        named = server_in(room_id)
        stripped = (
            () if own is None else (await self._stripped.of(user_id, {room_id: own}))[room_id]
        )

        def all_candidates() -> Iterator[str]:
            yield from via
            if own is not None:
                yield server_of(own.sender)
            yield from (event["sender"].partition(":")[2] for event in stripped)
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
    refusals = 0
    for server in servers:
        try:
            return await attempt(server)
        except RemoteFault as fault:
            log.info("could not reach a room through %s: %.300s", server, fault.message)
            is_refusal = fault.error is not None and fault.error.errcode in _FINAL
            # A refusal says more than another response, and that more than none.
            is_better = last is None or fault.error is not None or last.error is None
            if is_refusal or (is_better and not refusals):
                last = fault
            refusals += is_refusal
            if refusals == MAX_REFUSALS:
                break
    if last is None:
        raise MatrixError("M_UNKNOWN", 404, "No server in this room can be reached")
    raise error_for_client(last)


@contextmanager
def in_time(deadline_s: float) -> Iterator[None]:
    """Cancel the body after a time. Raises: MatrixError 504, if that happens."""
    try:
        with trio.fail_after(deadline_s):
            yield
    except trio.TooSlowError:
        raise MatrixError(
            "M_UNKNOWN", 504, "The servers in the room did not respond in time"
        ) from None


def error_for_client(fault: RemoteFault) -> Exception:
    """Return the error for the client: the other server's, if it is about the client's request.

    Spec: server-server API, PUT send_join: malformed requests are this server's fault.
    """
    error = fault.error
    if error is None or error.errcode in _MALFORMED or not may_be_relayed(error):
        return fault
    return error
