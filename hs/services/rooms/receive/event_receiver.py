"""The door for events of other servers: an interface, served by the owner of each room."""

import enum
from collections.abc import Mapping
from typing import Protocol

import attrs

from hs.core.ids import EventID, RoomID
from hs.repl.ownership import Ownership
from hs.repl.rpc import rpc
from hs.repl.streams import EVENTS


class Outcome(enum.Enum):
    """What became of a PDU."""

    ACCEPTED = "accepted"
    SOFT_FAILED = "soft_failed"  # kept, but not shown and not built upon
    REJECTED = "rejected"  # kept, so that it is not asked for again
    REFUSED = "refused"  # dropped: no event, of another room, or not signed
    KNOWN = "known"  # was here before
    WAITING = "waiting"  # dropped: it cites events that are missing


@attrs.frozen
class Verdict:
    """What became of one PDU; `event_id` is None if it is no event."""

    event_id: EventID | None
    outcome: Outcome
    reason: str = ""


@attrs.frozen
class Missing:
    """Events that are cited and not here.

    Of `prev_events` the state is needed, either by receiving them first or by a given state
    before the event that cites them; `auth_events` may be received as outliers.
    """

    prev_events: tuple[EventID, ...] = ()
    auth_events: tuple[EventID, ...] = ()


@attrs.frozen
class Received:
    """What became of PDUs, in the order in which they were given."""

    verdicts: tuple[Verdict, ...]
    missing: Missing


class RoomReceiver(Protocol):
    """Puts events of other servers into rooms; on return they are on disk and in the feed."""

    @rpc
    async def receive(
        self,
        room_id: RoomID,
        pdus: list[bytes],
        outliers: list[bytes],
        states: dict[EventID, list[EventID]],
    ) -> Received:
        """Receive PDUs of a room, in any order; each stands for itself.

        `outliers` are put in first, as events without a place in the graph, such as auth events
        and the state at a gap. `states` gives the state before some of the PDUs, by the IDs of
        events that are here or among the outliers; what those PDUs cite may be missing.
        Idempotent.
        Raises: NotFound for a room without state here; MatrixError 503, which may be retried.
        """

    @rpc
    async def seed_room(
        self,
        room_id: RoomID,
        version: str,
        state: list[bytes],
        auth_chain: list[bytes],
        event: bytes,
    ) -> Received:
        """Begin a room, or begin it anew, with an event and the state before it.

        Of the PDUs of the state and its auth chain, those that fail their checks are left out.
        The answer has one verdict, on the event; it is in the room if that is ACCEPTED or KNOWN.
        Raises: UnsupportedRoomVersion; Forbidden, if that state does not allow the event or is no
        state of this room; MatrixError 503, which may be retried.
        """


@attrs.frozen(eq=False)
class ShardedReceiver:
    """The RoomReceiver of any process: the call goes to the process that owns the room.

    `receivers` holds one for every instance that writes the events stream.
    """

    _ownership: Ownership
    _receivers: Mapping[str, RoomReceiver]

    async def receive(
        self,
        room_id: RoomID,
        pdus: list[bytes],
        outliers: list[bytes],
        states: dict[EventID, list[EventID]],
    ) -> Received:
        """Receive PDUs of a room; see RoomReceiver."""
        return await self._of(room_id).receive(room_id, pdus, outliers, states)

    async def seed_room(
        self,
        room_id: RoomID,
        version: str,
        state: list[bytes],
        auth_chain: list[bytes],
        event: bytes,
    ) -> Received:
        """Begin a room; see RoomReceiver."""
        return await self._of(room_id).seed_room(room_id, version, state, auth_chain, event)

    def _of(self, room_id: RoomID) -> RoomReceiver:
        return self._receivers[self._ownership.owner(EVENTS, room_id)]
