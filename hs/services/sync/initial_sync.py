"""Everything at once, for old clients; and one room at a glance, for those who look into it.

Spec: client-server API, `GET /initialSync` and `GET /rooms/{roomId}/initialSync`.
"""

from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import attrs
import orjson

from hs.core.errors import Forbidden
from hs.core.events import event_types
from hs.core.filters import NO_FILTER
from hs.core.ids import RoomID, UserID
from hs.core.requester import Requester
from hs.services.rooms.read.event_serializer import Showing
from hs.services.rooms.read.rendering import json_array
from hs.services.rooms.read.room_snapshot import RoomSnapshots
from hs.services.rooms.read.visibility import Seen
from hs.services.rooms.store.memberships import LocalMembership, RoomsOf
from hs.services.sync.account_data_section import MAX_MET, with_user_id
from hs.services.sync.lazy_members import SentMembers
from hs.services.sync.positions import Moment, Positions
from hs.services.sync.room_ephemeral import account_data_event, in_room, receipts_event
from hs.services.sync.room_readers import RoomReaders
from hs.services.sync.sources import Presence, Receipts
from hs.services.sync.sync_context import DEFAULT_LIMIT, Plan, SyncRequest, Turn
from hs.services.sync.sync_service import Sections

_PLAN: Final = Plan(NO_FILTER, 0, DEFAULT_LIMIT)
_GONE: Final = frozenset({event_types.LEAVE, event_types.BAN})


@attrs.frozen(eq=False)
class InitialSync:
    """Answers both."""

    _readers: RoomReaders
    _positions: Positions
    _receipts: Receipts
    _presence: Presence
    _snapshots: RoomSnapshots
    _showing: Showing
    _sections: Sections
    _gate: AbstractAsyncContextManager[None]

    async def everything(self, requester: Requester, limit: int, with_left: bool) -> dict[str, Any]:
        """Give all rooms with their last messages, presence, receipts, account data.

        Raises: LimitExceeded, when too many ask.
        """
        user_id = requester.user_id
        async with self._gate:
            ignored = await self._readers.visibility.ignored_by(user_id)
            rooms = await self._readers.memberships.rooms_of(user_id)
            moment = self._positions.now()
            entries: list[dict[str, Any]] = []
            for room_id, own in rooms.items():
                is_wanted = own.membership not in _GONE or (with_left and not own.forgotten)
                if own.membership != event_types.KNOCK and is_wanted:
                    entries.append(await self._entry(requester, room_id, own, limit, moment))
            viewer = self._readers.rendering.viewer(requester, ignored)
            request = SyncRequest(requester)
            turn = Turn(request, _PLAN, None, moment, rooms, ignored, viewer, SentMembers())
            sections = self._sections
            # Without push rules: clients of that time ask for those apart.
            account_data = [
                account_data_event(event_type, content)
                for in_room_id, event_type, content in await sections.accounts.entries(turn, ())
                if in_room_id is None
            ]
            return {
                "end": moment.text,
                "rooms": entries,
                "presence": json_array(await self._presence_for(turn)),
                "receipts": json_array(await self._receipts_in(user_id, _joined(rooms), moment)),
                "account_data": json_array(account_data),
            }

    async def room(self, requester: Requester, room_id: RoomID, limit: int) -> dict[str, Any]:
        """Give one room at a glance.

        Raises: Forbidden.
        """
        moment = self._positions.now()
        entry = await self._snapshot(requester, room_id, limit, moment)
        presence: list[bytes] = []
        receipts: list[bytes] = []
        if entry.get("membership") not in _GONE:
            joined = await self._readers.memberships.joined(room_id)
            known = await self._presence.of(sorted(joined)[:MAX_MET])
            presence = [with_user_id(event) for event in known.values()]
            receipts = await self._receipts_in(requester.user_id, {room_id}, moment)
        entry["presence"] = json_array(presence)
        entry["receipts"] = json_array(receipts)
        return entry

    async def _presence_for(self, turn: Turn) -> list[bytes]:
        """Give the presence of everyone; users are told that they are here themselves."""
        user_id = turn.user_id
        events = await self._sections.presence.render(turn, ())
        shown = {orjson.loads(event)["sender"] for event in events}
        if user_id not in shown and await self._presence.of([user_id]):
            # That they are here may not be noted yet.
            here = {"presence": "online", "last_active_ago": 0, "currently_active": True}
            own = {"type": "m.presence", "sender": user_id, "content": here}
            events.append(orjson.dumps(own))
        return [with_user_id(event) for event in events]

    async def _entry(
        self,
        requester: Requester,
        room_id: RoomID,
        own: LocalMembership,
        limit: int,
        moment: Moment,
    ) -> dict[str, Any]:
        if own.membership == event_types.INVITE:
            return await self._invite(requester, room_id, own)
        try:
            return await self._snapshot(requester, room_id, limit, moment)
        except Forbidden:
            # The user was never in the room: they declined an invite.
            return {"room_id": room_id, "membership": own.membership}

    async def _snapshot(
        self, requester: Requester, room_id: RoomID, limit: int, moment: Moment
    ) -> dict[str, Any]:
        snapshot = await self._snapshots.of(requester, room_id, limit)
        messages = snapshot.messages
        if snapshot.membership not in _GONE:
            # From here on the client may ask for what happens next.
            messages = attrs.evolve(messages, end=moment.text)
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
            (rendered,) = await self._showing.timeline(requester, (Seen(stored, own.membership),))
            entry["invite"] = orjson.Fragment(rendered)
        return entry

    async def _receipts_in(
        self, user_id: UserID, room_ids: set[RoomID], moment: Moment
    ) -> list[bytes]:
        upto = moment.token.receipts.most()
        found = await self._receipts.in_rooms(user_id, room_ids, 0, upto)
        return [in_room(room_id, receipts_event(content)) for room_id, content in found.items()]


def _with_user_ids(events: orjson.Fragment) -> list[dict[str, Any]]:
    """Name senders as clients from before /sync know them."""
    return [{**event, "user_id": event["sender"]} for event in orjson.loads(orjson.dumps(events))]


def _joined(rooms: RoomsOf) -> set[RoomID]:
    return {room_id for room_id, own in rooms.items() if own.membership == event_types.JOIN}
