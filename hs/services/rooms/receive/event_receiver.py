"""The interface for receiving events of other servers, served by the owner of each room."""

import enum
from typing import Final, Protocol

import attrs

from hs.core.ids import EventID, RoomID
from hs.repl.rpc import rpc

SEED_TIMEOUT_S: Final = 300.0  # for rooms of 100,000 members
BACKFILL_TIMEOUT_S: Final = 60.0


class PduOutcome(enum.Enum):
    """The result of processing a PDU."""

    ACCEPTED = "accepted"
    SOFT_FAILED = "soft_failed"  # stored, but not sent to clients and not cited by our events
    REJECTED = "rejected"  # stored, so that it is not fetched again
    REFUSED = "refused"  # dropped: malformed, of another room, or not signed correctly
    KNOWN = "known"  # already stored
    WAITING = "waiting"  # dropped: events that it cites are missing


@attrs.frozen
class PduVerdict:
    """The outcome of one PDU; `event_id` is None if the PDU has no event ID."""

    event_id: EventID | None
    outcome: PduOutcome
    reason: str = ""


@attrs.frozen
class MissingEvents:
    """Events that are cited but not stored.

    The state after each of `prev_events` is needed: either receive them first, or pass the state
    before the event that cites them. `auth_events` may be received as outliers.
    """

    prev_events: tuple[EventID, ...] = ()
    auth_events: tuple[EventID, ...] = ()


@attrs.frozen
class ReceiveResult:
    """The outcomes of PDUs, in the order of the call."""

    verdicts: tuple[PduVerdict, ...]
    missing: MissingEvents


class RoomReceiver(Protocol):
    """Adds events of other servers to rooms.

    When a call returns, the events are committed and this process's feed has delivered them.
    """

    @rpc
    async def receive(
        self,
        room_id: RoomID,
        pdus: list[bytes],
        outliers: list[bytes],
        states: dict[EventID, list[EventID]],
        relay: bool = False,
    ) -> ReceiveResult:
        """Receive PDUs of a room, in any order; each has its own outcome.

        `outliers` are stored first, without the state before them: auth events, and the state at a
        gap. `states` maps some of the PDUs to the IDs of the state events before them, which are
        stored or among the outliers; the prev_events of those PDUs may be missing. It also maps
        missing prev_events to the state after them; of events with the same key the last one
        counts. With `relay`, this server sends the accepted PDUs to all servers in the room.
        Idempotent.
        Raises: NotFound, if this server has no state of the room; MatrixError 503, may be retried.
        """

    @rpc(timeout_s=BACKFILL_TIMEOUT_S)
    async def backfill(
        self,
        room_id: RoomID,
        pdus: list[bytes],
        outliers: list[bytes],
        states: dict[EventID, list[EventID]],
        asked_for: list[EventID],
    ) -> ReceiveResult:
        """Receive events from before the stored part of a room's history; see `receive`.

        They are new to nobody: sync does not show them, and the room's state and its end stay the
        same. PDUs are refused that no stored event follows, unless they are in `asked_for`, or
        before such an event. Idempotent.
        Raises: NotFound, if this server has no state of the room; MatrixError 503, may be retried.
        """

    @rpc
    async def expect_room(self, room_id: RoomID, version: str) -> None:
        """Expect a room, which a local user is joining: its events may arrive before it does.

        Raises: UnsupportedRoomVersion.
        """

    @rpc(timeout_s=SEED_TIMEOUT_S)
    async def seed_room(
        self,
        room_id: RoomID,
        version: str,
        state: list[bytes],
        auth_chain: list[bytes],
        event: bytes,
    ) -> ReceiveResult:
        """Import a room, or import it again, from an event and the state before it.

        If a local user is in the room, the event is received, and the state is used at a gap only.
        PDUs of the state and its auth chain that fail their checks are left out. The result has one
        verdict, for the event, which is in the room if the outcome is ACCEPTED or KNOWN.
        Raises: UnsupportedRoomVersion; Forbidden, if the state does not allow the event or does not
        belong to this room; MatrixError 503, may be retried.
        """
