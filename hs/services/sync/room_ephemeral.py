"""Receipts, typing notifications and account data of the rooms in a sync response.

A room in which any of these changed is part of the response even if no event arrived in it.
"""

from collections.abc import Iterable, Sequence

import attrs
import orjson

from hs.core.events import event_types
from hs.core.ids import RoomID, UserID
from hs.core.streams import RECEIPTS, TYPING, ReceiptRow, TypingRow
from hs.repl.feed import Feed
from hs.repl.recent_keys import RecentKeys
from hs.services.accounts.account_data.account_data import AccountDataEntry
from hs.services.ephemeral.receipts import Receipts
from hs.services.ephemeral.typing_notifications import TypingUsers
from hs.services.sync.sync_context import MembershipSection, RoomSyncContext, SyncContext

EventsByRoom = dict[RoomID, list[bytes]]


@attrs.frozen(eq=False)
class RoomEphemeralEvents:
    """The rendered ephemeral and account data events of each room."""

    ephemeral: EventsByRoom
    account_data: EventsByRoom

    def rooms(self) -> set[RoomID]:
        """Return the rooms that have any such event."""
        return self.ephemeral.keys() | self.account_data.keys()


class RoomEphemeralSection:
    """The reader of the ephemeral events and account data of rooms."""

    def __init__(self, feed: Feed, receipts: Receipts, typing: TypingUsers) -> None:
        self._receipts = receipts
        self._typing = typing
        self._recent_receipts: RecentKeys[RoomID, ReceiptRow] = RecentKeys(
            feed, RECEIPTS, lambda row: (RoomID(row.room_id),)
        )
        self._recent_typing: RecentKeys[RoomID, TypingRow] = RecentKeys(
            feed, TYPING, lambda row: (RoomID(row.room_id),)
        )

    async def load(
        self,
        context: SyncContext,
        room_contexts: Sequence[RoomSyncContext],
        account_data: Iterable[AccountDataEntry],
    ) -> RoomEphemeralEvents:
        """Return the changes since the token, and everything in rooms new to the client."""
        new_rooms = {
            room.room_id
            for room in room_contexts
            if room.is_new and room.section is MembershipSection.JOIN
        }
        ephemeral: EventsByRoom = {}
        await self._add_receipts(context, new_rooms, ephemeral)
        self._add_typing(context, new_rooms, ephemeral)
        return RoomEphemeralEvents(
            ephemeral, self._account_data(context, room_contexts, account_data)
        )

    async def _add_receipts(
        self, context: SyncContext, new_rooms: set[RoomID], parts: EventsByRoom
    ) -> None:
        if not context.compiled_filter.shows_receipts:
            return
        user_id, now = context.user_id, context.position.token.receipts
        contents: dict[RoomID, bytes] = {}
        if context.since is not None and not context.since.receipts.covers_all(now):
            since = context.since.receipts
            rooms = _joined(context, self._recent_receipts.since(since)) - new_rooms
            if rooms:
                contents.update(
                    await self._receipts.in_rooms(user_id, rooms, since.floor, now.most())
                )
        if new_rooms:
            contents.update(await self._receipts.in_rooms(user_id, new_rooms, 0, now.most()))
        for room_id, content in contents.items():
            if context.compiled_filter.filter.room.ephemeral.allows_room(room_id):
                parts.setdefault(room_id, []).append(receipts_event(content))

    def _add_typing(
        self, context: SyncContext, new_rooms: set[RoomID], parts: EventsByRoom
    ) -> None:
        ephemeral = context.compiled_filter.filter.room.ephemeral
        if not context.compiled_filter.shows_typing:
            return
        changed_rooms: set[RoomID] | None = set()
        # An empty list is sent only if the recent changes say that typing stopped. If they do
        # not reach back to the token, sending one for every room would be wasteful. A client that
        # begins anew may still show who typed.
        known_changed = {each for each in new_rooms if self._recent_typing.remembers(each)}
        # The vector of a stream that has not moved is the same object in both tokens.
        now = context.position.token.typing.vector
        if context.since is not None and context.since.typing.vector is not now:
            changed_rooms = self._recent_typing.since(context.since.typing.vector)
            known_changed |= self._recent_typing.known_since(context.since.typing.vector)
        if changed_rooms is None or changed_rooms:
            changed_rooms = _joined(context, changed_rooms)
        for room_id in changed_rooms | new_rooms:
            user_ids = [
                user_id
                for user_id in self._typing.typing_users(room_id)
                if user_id not in context.ignored
            ]
            if (user_ids or room_id in known_changed) and ephemeral.allows_room(room_id):
                parts.setdefault(room_id, []).append(_typing_event(user_ids))

    def _account_data(
        self,
        context: SyncContext,
        room_contexts: Sequence[RoomSyncContext],
        entries: Iterable[AccountDataEntry],
    ) -> EventsByRoom:
        event_filter = context.compiled_filter.filter.room.account_data
        left = {room.room_id for room in room_contexts if room.section is MembershipSection.LEAVE}
        parts: EventsByRoom = {}
        for room_id, event_type, content in entries:
            if room_id is None or not event_filter.allows(event_type, None, {}):
                continue
            if not event_filter.allows_room(room_id):
                continue
            if room_id in left or _joined(context, {room_id}):
                parts.setdefault(room_id, []).append(account_data_event(event_type, content))
        return parts


def account_data_event(event_type: str, content: bytes) -> bytes:
    """Encode an account data event."""
    return b'{"type":%b,"content":%b}' % (orjson.dumps(event_type), content)


def receipts_event(content: bytes) -> bytes:
    """Encode an `m.receipt` event."""
    return b'{"type":"m.receipt","content":%b}' % content


def with_room_id(room_id: RoomID, event: bytes) -> bytes:
    """Return an encoded event with a `room_id` member added."""
    return b'{"room_id":%b,%b' % (orjson.dumps(room_id), event[1:])


def _joined(context: SyncContext, room_ids: set[RoomID] | None) -> set[RoomID]:
    rooms = context.rooms
    allows = context.compiled_filter.filter.room.allows_room
    candidates: Iterable[RoomID] = rooms if room_ids is None else room_ids
    return {
        room_id
        for room_id in candidates
        if room_id in rooms and rooms[room_id].membership == event_types.JOIN and allows(room_id)
    }


def _typing_event(user_ids: list[UserID]) -> bytes:
    return b'{"type":"m.typing","content":{"user_ids":%b}}' % orjson.dumps(user_ids)
