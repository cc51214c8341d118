"""The deprecated initial syncs: all rooms of a user, or a snapshot of one room.

Spec: client-server API, `GET /initialSync` and `GET /rooms/{roomId}/initialSync`.
"""

from typing import Any, Final

import attrs
import orjson

from hs.core.errors import Forbidden
from hs.core.events import event_types
from hs.core.filters import NO_FILTER
from hs.core.ids import RoomID, UserID
from hs.core.requester import Requester
from hs.services.ephemeral.presence import PresenceService
from hs.services.ephemeral.receipts import Receipts
from hs.services.rooms.read.event_serializer import EventSerializer
from hs.services.rooms.read.rendering import json_array
from hs.services.rooms.read.room_snapshot import RoomSnapshots
from hs.services.rooms.read.visibility import VisibleEvent
from hs.services.rooms.store.memberships import LocalMembership, RoomsOf
from hs.services.sync.account_data_section import MAX_PRESENCE_USERS, with_content_user_id
from hs.services.sync.lazy_members import NOTHING_SENT
from hs.services.sync.positions import SyncPosition, SyncPositions
from hs.services.sync.room_ephemeral import account_data_event, receipts_event, with_room_id
from hs.services.sync.room_readers import RoomReaders
from hs.services.sync.sync_context import (
    DEFAULT_TIMELINE_LIMIT,
    CompiledFilter,
    SyncContext,
    SyncRequest,
)
from hs.services.sync.sync_gate import SyncGate
from hs.services.sync.sync_service import SyncSections

_NO_FILTER: Final = CompiledFilter(NO_FILTER, 0, DEFAULT_TIMELINE_LIMIT)
_LEFT: Final = frozenset({event_types.LEAVE, event_types.BAN})


@attrs.frozen(eq=False)
class InitialSync:
    """The service of both `initialSync` endpoints."""

    _readers: RoomReaders
    _positions: SyncPositions
    _receipts: Receipts
    _presence: PresenceService
    _snapshots: RoomSnapshots
    _showing: EventSerializer
    _sections: SyncSections
    _gate: SyncGate

    async def all_rooms(self, requester: Requester, limit: int, with_left: bool) -> dict[str, Any]:
        """Return all rooms with their latest messages, and presence, receipts and account data.

        `with_left` includes rooms that the user left but did not forget.

        Raises: LimitExceeded if too many requests are being computed.
        """
        user_id = requester.user_id
        async with self._gate.of_user(user_id):
            ignored = await self._readers.visibility.ignored_by(user_id)
            rooms = await self._readers.memberships.rooms_of(user_id)
            position = self._positions.now()
            entries: list[dict[str, Any]] = []
            for room_id, own in rooms.items():
                is_wanted = own.membership not in _LEFT or (with_left and not own.forgotten)
                if own.membership != event_types.KNOCK and is_wanted:
                    entries.append(await self._entry(requester, room_id, own, limit, position))
            viewer = self._readers.rendering.viewer(requester, ignored)
            request = SyncRequest(requester)
            context = SyncContext(
                request=request,
                compiled_filter=_NO_FILTER,
                since=None,
                position=position,
                rooms=rooms,
                ignored=ignored,
                viewer=viewer,
                sent_members=NOTHING_SENT,
            )
            sections = self._sections
            # Without push rules: these clients request them from /pushrules.
            account_data = [
                account_data_event(event_type, content)
                for in_room_id, event_type, content in await sections.account_data.load(context, ())
                if in_room_id is None
            ]
            return {
                "end": position.text,
                "rooms": entries,
                "presence": json_array(await self._presence_for(context)),
                "receipts": json_array(await self._receipts_in(user_id, _joined(rooms), position)),
                "account_data": json_array(account_data),
            }

    async def one_room(self, requester: Requester, room_id: RoomID, limit: int) -> dict[str, Any]:
        """Return a snapshot of one room, with presence and receipts unless the user left it.

        Raises: Forbidden if the user may not read the room.
        """
        position = self._positions.now()
        entry = await self._snapshot(requester, room_id, limit, position)
        presence: list[bytes] = []
        receipts: list[bytes] = []
        if entry.get("membership") not in _LEFT:
            joined = await self._readers.memberships.joined(room_id)
            presence_by_user = await self._presence.of(sorted(joined)[:MAX_PRESENCE_USERS])
            presence = [with_content_user_id(event) for event in presence_by_user.values()]
            receipts = await self._receipts_in(requester.user_id, {room_id}, position)
        entry["presence"] = json_array(presence)
        entry["receipts"] = json_array(receipts)
        return entry

    async def _presence_for(self, context: SyncContext) -> list[bytes]:
        """Return the presence of all visible users; the requester is online in any case."""
        user_id = context.user_id
        events = await self._sections.presence.render(context, ())
        senders = {orjson.loads(event)["sender"] for event in events}
        if user_id not in senders and await self._presence.of([user_id]):
            # The presence service may not have recorded this request yet.
            online = {"presence": "online", "last_active_ago": 0, "currently_active": True}
            own = {"type": "m.presence", "sender": user_id, "content": online}
            events.append(orjson.dumps(own))
        return [with_content_user_id(event) for event in events]

    async def _entry(
        self,
        requester: Requester,
        room_id: RoomID,
        own: LocalMembership,
        limit: int,
        position: SyncPosition,
    ) -> dict[str, Any]:
        if own.membership == event_types.INVITE:
            return await self._invite(requester, room_id, own)
        try:
            return await self._snapshot(requester, room_id, limit, position)
        except Forbidden:
            # The user declined an invite and was never joined.
            return {"room_id": room_id, "membership": own.membership}

    async def _snapshot(
        self, requester: Requester, room_id: RoomID, limit: int, position: SyncPosition
    ) -> dict[str, Any]:
        snapshot = await self._snapshots.of(requester, room_id, limit)
        messages = snapshot.messages
        if snapshot.membership not in _LEFT:
            # The client continues from here with /events.
            messages = attrs.evolve(messages, end=position.text)
        entry = {
            "room_id": room_id,
            "messages": messages,
            "state": _with_user_ids(snapshot.state),
            "visibility": snapshot.visibility,
            "account_data": snapshot.account_data,
        }
        if snapshot.membership is not None:
            entry["membership"] = snapshot.membership
        return entry

    async def _invite(
        self, requester: Requester, room_id: RoomID, own: LocalMembership
    ) -> dict[str, Any]:
        entry: dict[str, Any] = {"room_id": room_id, "membership": own.membership}
        stored = await self._readers.events.get_one(own.event_id)
        if stored is not None:
            entry["inviter"] = stored.event.sender
            (rendered,) = await self._showing.timeline(
                requester, (VisibleEvent(stored, own.membership),)
            )
            entry["invite"] = orjson.Fragment(rendered)
        return entry

    async def _receipts_in(
        self, user_id: UserID, room_ids: set[RoomID], position: SyncPosition
    ) -> list[bytes]:
        upto = position.token.receipts.most()
        contents = await self._receipts.in_rooms(user_id, room_ids, 0, upto)
        return [
            with_room_id(room_id, receipts_event(content)) for room_id, content in contents.items()
        ]


def _with_user_ids(events: orjson.Fragment) -> list[dict[str, Any]]:
    """Return state events with a `user_id` member, as these clients expect it."""
    return [{**event, "user_id": event["sender"]} for event in orjson.loads(orjson.dumps(events))]


def _joined(rooms: RoomsOf) -> set[RoomID]:
    return {room_id for room_id, own in rooms.items() if own.membership == event_types.JOIN}
