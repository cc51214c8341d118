"""Who types in which room: kept in memory by one process, followed by all.

Spec: client-server API, Typing Notifications.
"""

from collections.abc import Callable
from typing import Final, Protocol

import attrs
import orjson
import trio

from hs.core.canonical_json import for_keeping
from hs.core.errors import Forbidden
from hs.core.events import event_types
from hs.core.ids import RoomID, UserID
from hs.core.requester import Requester
from hs.repl.feed import Batch, Feed
from hs.repl.memory_writer import MemoryWriter
from hs.repl.rows import EventRow, TypingRow
from hs.repl.rpc import rpc
from hs.repl.streams import EVENTS, TYPING
from hs.services.ephemeral.member_protocols import Activity, Joined
from hs.storage.database import Database
from hs.storage.ephemeral import typing_rooms

LONGEST_MS: Final = 120_000
"""Nobody types longer than this without saying so again."""

MAX_ROOMS: Final = 100_000
"""Rooms whose last change a process remembers; the oldest are forgotten."""

NOTE_S: Final = 1.0
"""How long changes gather before they are written down."""

KEPT_S: Final = 600.0
"""How long it is known over restarts that users stopped typing in a room."""

_NOBODY: Final = b'{"type":"m.typing","content":{"user_ids":[]}}'


class TypingWriter(Protocol):
    """The process that knows who types."""

    @rpc
    async def set_typing(self, room_id: RoomID, user_id: UserID, timeout_ms: int) -> None:
        """Have a user type for so long; 0 has them stop."""
        ...


class TypingMemory:
    """The writer: it lets those who do not go on typing stop.

    Where somebody types, or did lately, is noted in the database a moment later, so that a restart
    ends it, also for those who did not hear yet that it has ended.
    """

    def __init__(
        self,
        writer: MemoryWriter[TypingRow],
        feed: Feed,
        database: Database,
        now_s: Callable[[], float] = trio.current_time,
    ) -> None:
        self._writer = writer
        self._database = database
        self._now_s = now_s
        self._noted: set[str] = set()
        self._changed = trio.Event()
        self._rooms: dict[RoomID, dict[UserID, float]] = {}
        # Where nobody types any more, and since when.
        self._over: dict[str, float] = {}
        self._sooner = trio.Event()
        self._next_s = float("inf")
        feed.subscribe(EVENTS, self._on_events)

    async def set_typing(self, room_id: RoomID, user_id: UserID, timeout_ms: int) -> None:
        """Have a user type for so long; 0 has them stop."""
        if timeout_ms > 0:
            self._start(room_id, user_id, min(timeout_ms, LONGEST_MS) / 1000)
        else:
            self._stop(room_id, user_id)

    async def run(self) -> None:
        """Stop those whose time is over, for ever."""
        await self.end_of_before()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._note_for_ever)
            while True:
                self._sooner = trio.Event()
                wait_s = self.expire()
                with trio.move_on_after(wait_s):
                    await self._sooner.wait()

    async def end_of_before(self) -> None:
        """Tell that nobody types any more where somebody did before a restart."""
        self._noted = set(await self._database.read(typing_rooms.every))
        ended = self._noted - self._rooms.keys()
        self._over = dict.fromkeys(ended, self._now_s()) | self._over
        if ended:
            self._writer.append_nowait([TypingRow(room_id, ()) for room_id in sorted(ended)])
        self._changed.set()

    async def note(self) -> None:
        """Write down where somebody types now, or did lately."""
        self._changed = trio.Event()
        oldest_s = self._now_s() - KEPT_S
        self._over = {room_id: at_s for room_id, at_s in self._over.items() if at_s > oldest_s}
        now: set[str] = {*self._rooms, *self._over}
        added, removed = now - self._noted, self._noted - now
        if added or removed:
            await self._database.write(typing_rooms.change, added, removed)
            self._noted = now

    async def _note_for_ever(self) -> None:
        while True:
            await self._changed.wait()
            await trio.sleep(NOTE_S)
            await self.note()

    def expire(self) -> float:
        """Stop those whose time is over; give the seconds until the next one's is."""
        now_s = self._now_s()
        for room_id, users in list(self._rooms.items()):
            over = [user_id for user_id, until_s in users.items() if until_s <= now_s]
            if over:
                for user_id in over:
                    del users[user_id]
                self._publish(room_id, users)
        self._next_s = min(
            (until_s for users in self._rooms.values() for until_s in users.values()),
            default=float("inf"),
        )
        return self._next_s - now_s

    def _start(self, room_id: RoomID, user_id: UserID, for_s: float) -> None:
        users = self._rooms.setdefault(room_id, {})
        is_new = user_id not in users
        users[user_id] = until_s = self._now_s() + for_s
        if is_new:
            self._publish(room_id, users)
        if until_s < self._next_s:
            self._sooner.set()

    def _stop(self, room_id: RoomID, user_id: UserID) -> None:
        users = self._rooms.get(room_id, {})
        if users.pop(user_id, None) is not None:
            self._publish(room_id, users)

    def _publish(self, room_id: RoomID, users: dict[UserID, float]) -> None:
        if users:
            self._over.pop(room_id, None)
        else:
            self._rooms.pop(room_id, None)
            self._over[room_id] = self._now_s()
        self._writer.append_nowait([TypingRow(room_id, tuple(users))])
        self._changed.set()

    def _on_events(self, batch: Batch[EventRow]) -> None:
        if not self._rooms:
            return
        for _, row in batch.rows:
            if row.type != event_types.MEMBER or row.room_id not in self._rooms:
                continue
            if row.membership != event_types.JOIN and row.state_key is not None:
                self._stop(RoomID(row.room_id), UserID(row.state_key))


@attrs.frozen
class _RoomTyping:
    position: int
    user_ids: tuple[UserID, ...]
    rendered: bytes


class TypingUsers:
    """Who types, in each process: the state that the writer has told last."""

    def __init__(self, feed: Feed) -> None:
        # In the order of their last change; rooms where nobody types any more included.
        self._rooms: dict[RoomID, _RoomTyping] = {}
        feed.subscribe(TYPING, self._on_rows)

    def typing_users(self, room_id: RoomID) -> tuple[UserID, ...]:
        """Give who types in a room, those who began first in front."""
        held = self._rooms.get(room_id)
        return () if held is None else held.user_ids

    def typing_event(self, room_id: RoomID) -> bytes:
        """Give the m.typing event of a room as it is now."""
        held = self._rooms.get(room_id)
        return _NOBODY if held is None else held.rendered

    def last_change(self, room_id: RoomID) -> int:
        """Give the position of the room's last change; 0 if none is known."""
        held = self._rooms.get(room_id)
        return 0 if held is None else held.position

    def changed_rooms(self, after: int) -> list[RoomID]:
        """List the rooms where the typing users changed after a position.

        Changes that happened before this process or the writer started are not known.
        """
        changed: list[RoomID] = []
        for room_id, held in reversed(self._rooms.items()):
            if held.position <= after:
                break
            changed.append(room_id)
        return changed

    def _on_rows(self, batch: Batch[TypingRow]) -> None:
        if batch.reset:
            # The writer began anew: where it does not say that somebody types, nobody does.
            for room_id, held in list(self._rooms.items()):
                if held.user_ids:
                    self._keep(room_id, batch.position, ())
        for position, row in batch.rows:
            users = tuple(UserID(user_id) for user_id in row.user_ids)
            self._keep(RoomID(row.room_id), position, users)
        if batch.reset:
            self._rooms = dict(sorted(self._rooms.items(), key=lambda one: one[1].position))

    def _keep(self, room_id: RoomID, position: int, users: tuple[UserID, ...]) -> None:
        self._rooms.pop(room_id, None)
        rendered = _render(users) if users else _NOBODY
        self._rooms[room_id] = _RoomTyping(position, users, rendered)
        if len(self._rooms) > MAX_ROOMS:
            del self._rooms[next(iter(self._rooms))]


@attrs.frozen(eq=False)
class TypingService:
    """What clients may say about typing."""

    members: Joined
    writer: TypingWriter
    activity: Activity

    async def set_typing(
        self, requester: Requester, room_id: RoomID, user_id: UserID, timeout_ms: int
    ) -> None:
        """Have the requester type for so long; 0 has them stop.

        Raises: Forbidden.
        """
        if user_id != requester.user_id:
            raise Forbidden("Cannot set another user's typing state")
        if not await self.members.is_joined(room_id, user_id):
            raise Forbidden("You are not joined to this room")
        self.activity.note_active(user_id)
        if not requester.shadow:
            await self.writer.set_typing(room_id, user_id, max(0, timeout_ms))


def _render(users: tuple[UserID, ...]) -> bytes:
    return for_keeping(orjson.dumps({"type": "m.typing", "content": {"user_ids": users}}))
