"""What belongs to a room beside its events: receipts, typing, the user's account data.

Rooms in which any of these changed get a part in the answer, even if no event arrived there.
"""

from collections.abc import Iterable, Sequence

import attrs
import orjson

from hs.core.events import event_types
from hs.core.ids import RoomID, UserID
from hs.repl.feed import Feed
from hs.repl.rows import ReceiptRow, TypingRow
from hs.repl.streams import RECEIPTS, TYPING
from hs.services.sync.recent_changes import Recent
from hs.services.sync.sources import AccountDataEntry, Receipts, Typing
from hs.services.sync.sync_context import RoomTurn, Section, Turn

Parts = dict[RoomID, list[bytes]]

_RECEIPT = "m.receipt"
_TYPING = "m.typing"


@attrs.frozen(eq=False)
class Extras:
    """Rendered events by room."""

    ephemeral: Parts
    account_data: Parts

    def rooms(self) -> set[RoomID]:
        """Give the rooms with something in them."""
        return self.ephemeral.keys() | self.account_data.keys()


class RoomExtras:
    """Gathers them."""

    def __init__(self, feed: Feed, receipts: Receipts, typing: Typing) -> None:
        self._receipts = receipts
        self._typing = typing
        self._read: Recent[RoomID, ReceiptRow] = Recent(
            feed, RECEIPTS, lambda row: (RoomID(row.room_id),)
        )
        self._typed: Recent[RoomID, TypingRow] = Recent(
            feed, TYPING, lambda row: (RoomID(row.room_id),)
        )

    async def gather(
        self, turn: Turn, turns: Sequence[RoomTurn], account_data: Iterable[AccountDataEntry]
    ) -> Extras:
        """Give what is new, and all there is for rooms that are new to the client."""
        fresh = {one.room_id for one in turns if one.is_new and one.section is Section.JOIN}
        ephemeral: Parts = {}
        await self._add_receipts(turn, fresh, ephemeral)
        self._add_typing(turn, fresh, ephemeral)
        return Extras(ephemeral, self._account_data(turn, turns, account_data))

    async def _add_receipts(self, turn: Turn, fresh: set[RoomID], parts: Parts) -> None:
        if not turn.plan.filter.room.ephemeral.allows_type(_RECEIPT):
            return
        upto = turn.moment.token.receipts.most()
        found: dict[RoomID, bytes] = {}
        if turn.since is not None:
            since = turn.since.receipts
            is_over = since.covers_all(turn.moment.token.receipts)
            rooms = set() if is_over else _joined(turn, self._read.since(since)) - fresh
            if rooms:
                found.update(await self._receipts.in_rooms(turn.user_id, rooms, since.floor, upto))
        if fresh:
            found.update(await self._receipts.in_rooms(turn.user_id, fresh, 0, upto))
        for room_id, content in found.items():
            if turn.plan.filter.room.ephemeral.allows_room(room_id):
                parts.setdefault(room_id, []).append(receipts_event(content))

    def _add_typing(self, turn: Turn, fresh: set[RoomID], parts: Parts) -> None:
        ephemeral = turn.plan.filter.room.ephemeral
        if not ephemeral.allows_type(_TYPING):
            return
        touched: set[RoomID] | None = set()
        # Whether an empty list is news is known only where the change itself is.
        known: set[RoomID] = set()
        if turn.since is not None and turn.since.typing is not turn.moment.token.typing:
            touched = self._typed.since(turn.since.typing.vector)
            known = self._typed.known_since(turn.since.typing.vector)
        for room_id in _joined(turn, touched) | fresh:
            user_ids = [
                user_id
                for user_id in self._typing.typing_users(room_id)
                if user_id not in turn.ignored
            ]
            if (user_ids or room_id in known) and ephemeral.allows_room(room_id):
                parts.setdefault(room_id, []).append(_typing(user_ids))

    def _account_data(
        self, turn: Turn, turns: Sequence[RoomTurn], entries: Iterable[AccountDataEntry]
    ) -> Parts:
        wanted = turn.plan.filter.room.account_data
        left = {one.room_id for one in turns if one.section is Section.LEAVE}
        parts: Parts = {}
        for room_id, event_type, content in entries:
            if room_id is None or not wanted.allows(event_type, None, {}):
                continue
            if not wanted.allows_room(room_id):
                continue
            if room_id in left or _joined(turn, {room_id}):
                parts.setdefault(room_id, []).append(account_data_event(event_type, content))
        return parts


def account_data_event(event_type: str, content: bytes) -> bytes:
    """Write an event of account data."""
    return b'{"type":%b,"content":%b}' % (orjson.dumps(event_type), content)


def receipts_event(content: bytes) -> bytes:
    """Write an event of receipts."""
    return b'{"type":"m.receipt","content":%b}' % content


def in_room(room_id: RoomID, event: bytes) -> bytes:
    """Add the room to an event that is written without."""
    return b'{"room_id":%b,%b' % (orjson.dumps(room_id), event[1:])


def _joined(turn: Turn, room_ids: set[RoomID] | None) -> set[RoomID]:
    rooms = turn.rooms
    allows = turn.plan.filter.room.allows_room
    candidates: Iterable[RoomID] = rooms if room_ids is None else room_ids
    return {
        room_id
        for room_id in candidates
        if room_id in rooms and rooms[room_id].membership == event_types.JOIN and allows(room_id)
    }


def _typing(user_ids: list[UserID]) -> bytes:
    return b'{"type":"m.typing","content":{"user_ids":%b}}' % orjson.dumps(user_ids)
