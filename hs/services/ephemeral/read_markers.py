"""Receipts and fully-read markers as clients set them.

Spec: client-server API, Receipts; Read and unread markers.
"""

from typing import Any, Final

import attrs

from hs.core.errors import Forbidden, InvalidParam, NotFound
from hs.core.ids import EventID, RoomID, UserID, parse_event_id
from hs.core.relations import MAIN_TIMELINE, MAX_HOPS, THREAD
from hs.core.requester import Requester
from hs.lib.clock import Clock
from hs.services.accounts.account_data.account_data import AccountDataService
from hs.services.accounts.limits.account_restrictions import check_may_signal
from hs.services.ephemeral.member_protocols import JoinedMembers
from hs.services.ephemeral.presence_tracking import SyncingDevices
from hs.services.ephemeral.receipts import Move, Receipts, ReceiptWriter
from hs.services.ephemeral.room_receipts import FULLY_READ, READ, READ_PRIVATE, UNTHREADED
from hs.storage.database import Database
from hs.storage.ephemeral import receipts as storage

RECEIPT_TYPES: Final = (READ, READ_PRIVATE, FULLY_READ)


@attrs.frozen(eq=False)
class ReadingService:
    """The service for receipts and read markers; both only move forward."""

    database: Database
    members: JoinedMembers
    receipts: Receipts
    writer: ReceiptWriter
    markers: AccountDataService
    clock: Clock
    activity: SyncingDevices

    async def set_receipt(
        self,
        requester: Requester,
        room_id: RoomID,
        receipt_type: str,
        event_id: EventID,
        thread_id: Any = None,
    ) -> None:
        """Set a receipt or the fully-read marker of the requester, in a thread or unthreaded.

        Raises: InvalidParam, Forbidden; UserSuspended, for public receipts.
        """
        if receipt_type not in RECEIPT_TYPES:
            raise InvalidParam(f"receipt_type must be one of {', '.join(RECEIPT_TYPES)}")
        thread = _thread_of(receipt_type, thread_id)
        if receipt_type == READ:
            check_may_signal(requester)
        await self._check_joined(room_id, requester.user_id)
        self.activity.note_active(requester.user_id)
        stream_id = await self._stream_id_in_room(room_id, event_id)
        if stream_id is None:
            # Receipts for unknown events, and events of other rooms, are ignored.
            return
        if thread != UNTHREADED:
            await self._check_thread(event_id, thread)
        if receipt_type == FULLY_READ:
            await self.markers.move_fully_read(requester.user_id, room_id, event_id, stream_id)
        else:
            await self._move_receipt(
                requester.user_id, room_id, receipt_type, event_id, stream_id, thread
            )

    async def set_markers(
        self, requester: Requester, room_id: RoomID, markers: dict[str, Any]
    ) -> None:
        """Move the fully-read marker, and optionally receipts.

        Raises: InvalidParam, Forbidden; NotFound, if an event is not in the room; UserSuspended, if
            one is a public receipt.
        """
        events = {
            name: parse_event_id(markers[name])
            for name in RECEIPT_TYPES
            if markers.get(name) is not None
        }
        if READ in events:
            check_may_signal(requester)
        await self._check_joined(room_id, requester.user_id)
        for event_id in events.values():
            if await self._stream_id_in_room(room_id, event_id) is None:
                raise NotFound(f"The room has no event {event_id}")
        for receipt_type, event_id in events.items():
            await self.set_receipt(requester, room_id, receipt_type, event_id)

    async def _check_joined(self, room_id: RoomID, user_id: UserID) -> None:
        if not await self.members.is_joined(room_id, user_id):
            raise Forbidden("You are not joined to this room")

    async def _stream_id_in_room(self, room_id: RoomID, event_id: EventID) -> int | None:
        location = await self.database.read(storage.event_position, event_id)
        return None if location is None or location[0] != room_id else location[1]

    async def _check_thread(self, event_id: EventID, thread_id: str) -> None:
        ancestors = await self.database.read(storage.list_ancestors, event_id, MAX_HOPS)
        root = next((parent for parent, rel_type in ancestors if rel_type == THREAD), None)
        if thread_id == MAIN_TIMELINE:
            is_in_thread = root is None
        else:
            # The root of a thread, and events related to it, are also part of the thread. If every
            # event counted as a root, a user could have as many receipts as a room has events.
            event_ids = {event_id, *(parent for parent, _ in ancestors)}
            is_in_thread = root == thread_id or (
                root is None
                and thread_id in event_ids
                and await self.database.read(storage.is_thread, thread_id)
            )
        if not is_in_thread:
            raise InvalidParam(f"event_id {event_id} is not related to thread {thread_id}")

    async def _move_receipt(
        self,
        user_id: UserID,
        room_id: RoomID,
        receipt_type: str,
        event_id: EventID,
        stream_id: int,
        thread_id: str,
    ) -> None:
        room_receipts = self.receipts.of_room_nowait(room_id)
        current = (
            None if room_receipts is None else room_receipts.find(receipt_type, user_id, thread_id)
        )
        current_stream_id = None if current is None else current.event_stream_id
        if current_stream_id is not None and current_stream_id >= stream_id:
            return
        now_ms = self.clock.now_ms()
        move = Move(
            room_id=room_id,
            receipt_type=receipt_type,
            user_id=user_id,
            event_id=event_id,
            event_stream_id=stream_id,
            thread_id=thread_id,
            ts=now_ms,
        )
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
