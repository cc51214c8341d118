"""What users may do with receipts and read markers.

Spec: client-server API, Receipts; Read and unread markers.
"""

from typing import Any, Final, Protocol

import attrs

from hs.core.errors import Forbidden, InvalidParam
from hs.core.ids import EventID, RoomID, UserID, parse_event_id
from hs.core.relations import MAIN_TIMELINE, MAX_HOPS, THREAD
from hs.core.requester import Requester
from hs.lib.clock import Clock
from hs.services.ephemeral.member_protocols import Activity, Joined
from hs.services.ephemeral.receipts import Move, Receipts, ReceiptWriter
from hs.services.ephemeral.room_receipts import FULLY_READ, READ, READ_PRIVATE, UNTHREADED
from hs.storage.database import Database
from hs.storage.ephemeral import receipts as storage

RECEIPT_TYPES: Final = (READ, READ_PRIVATE, FULLY_READ)


class FullyReadMarkers(Protocol):
    """Where m.fully_read is kept: the user's account data of the room."""

    async def fully_read(self, user_id: UserID, room_id: RoomID) -> EventID | None:
        """Give the event that the marker is at."""
        ...

    async def set_fully_read(self, user_id: UserID, room_id: RoomID, event_id: EventID) -> None:
        """Put the marker at an event."""
        ...


@attrs.frozen(eq=False)
class ReadingService:
    """Moves receipts and read markers for clients."""

    database: Database
    members: Joined
    receipts: Receipts
    writer: ReceiptWriter
    markers: FullyReadMarkers
    clock: Clock
    activity: Activity

    async def set_receipt(
        self,
        requester: Requester,
        room_id: RoomID,
        receipt_type: str,
        event_id: EventID,
        thread_id: Any = None,
    ) -> None:
        """Note that the requester has read up to an event, in a thread or everywhere.

        Raises: InvalidParam, Forbidden.
        """
        if receipt_type not in RECEIPT_TYPES:
            raise InvalidParam(f"Receipt type must be one of {', '.join(RECEIPT_TYPES)}")
        thread = _thread_of(receipt_type, thread_id)
        await self._check_joined(room_id, requester.user_id)
        self.activity.note_active(requester.user_id)
        stream_id = await self._place(room_id, event_id)
        if stream_id is None:
            return
        if thread != UNTHREADED:
            await self._check_thread(event_id, thread)
        if receipt_type == FULLY_READ:
            await self._mark(requester.user_id, room_id, event_id, stream_id)
        else:
            await self._move(requester.user_id, room_id, receipt_type, event_id, stream_id, thread)

    async def set_markers(
        self, requester: Requester, room_id: RoomID, markers: dict[str, Any]
    ) -> None:
        """Move the read marker, and receipts with it.

        Raises: InvalidParam, Forbidden.
        """
        wanted = {
            name: parse_event_id(markers[name])
            for name in RECEIPT_TYPES
            if markers.get(name) is not None
        }
        await self._check_joined(room_id, requester.user_id)
        for receipt_type, event_id in wanted.items():
            await self.set_receipt(requester, room_id, receipt_type, event_id)

    async def _check_joined(self, room_id: RoomID, user_id: UserID) -> None:
        if not await self.members.is_joined(room_id, user_id):
            raise Forbidden("You are not joined to this room")

    async def _place(self, room_id: RoomID, event_id: EventID) -> int | None:
        # An event that is unknown, or of another room, is nothing that one could have read here.
        place = await self.database.read(storage.place_of, event_id)
        return None if place is None or place[0] != room_id else place[1]

    async def _check_thread(self, event_id: EventID, thread_id: str) -> None:
        steps = await self.database.read(storage.ancestry, event_id, MAX_HOPS)
        root = next((parent for parent, rel_type in steps if rel_type == THREAD), None)
        if thread_id == MAIN_TIMELINE:
            fits = root is None
        else:
            # The root, and what relates to it, may be read in its own thread as well.
            seen = {event_id, *(parent for parent, _ in steps)}
            fits = root == thread_id or (root is None and thread_id in seen)
        if not fits:
            raise InvalidParam(f"event_id {event_id} is not related to thread {thread_id}")

    async def _mark(
        self, user_id: UserID, room_id: RoomID, event_id: EventID, stream_id: int
    ) -> None:
        old = await self.markers.fully_read(user_id, room_id)
        if old is not None:
            place = await self.database.read(storage.place_of, old)
            if place is not None and place[1] >= stream_id:
                return
        await self.markers.set_fully_read(user_id, room_id, event_id)

    async def _move(
        self,
        user_id: UserID,
        room_id: RoomID,
        receipt_type: str,
        event_id: EventID,
        stream_id: int,
        thread_id: str,
    ) -> None:
        held = self.receipts.of_room_nowait(room_id)
        old = None if held is None else held.find(receipt_type, user_id, thread_id)
        stands_at = None if old is None else old.event_stream_id
        if stands_at is not None and stands_at >= stream_id:
            return
        now_ms = self.clock.now_ms()
        move = Move(room_id, receipt_type, user_id, event_id, stream_id, thread_id, now_ms)
        await self.writer.move([move])


def _thread_of(receipt_type: str, thread_id: Any) -> str:
    if thread_id is None:
        return UNTHREADED
    if receipt_type == FULLY_READ:
        raise InvalidParam("thread_id is not compatible with m.fully_read")
    if not isinstance(thread_id, str) or not thread_id:
        raise InvalidParam("thread_id must be a non-empty string")
    if thread_id != MAIN_TIMELINE:
        parse_event_id(thread_id)
    return thread_id
