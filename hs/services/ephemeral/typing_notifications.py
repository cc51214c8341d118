"""Typing notifications: of each room in the memory of one process, followed by all.

Rules:

- Several processes may share out the rooms. Each decides, stores and ends what is typed in its own.
- Rooms may pass to another process (hs/repl/slots). The new owner knows of nobody who types: it
  publishes empty lists for the rooms in which this process has seen or stored typing users, and
  clients that still type say so again. The owner before forgets the rooms without a word.
- A change that comes while it is not certain that this process owns the room is published later.
- The writer publishes the full list of typing users of a room whenever it changes. Renewing a
  notification only extends its timeout.
- Users stop typing when they say so, when the timeout expires, or when they leave the room.
- Typing users are not stored, but rooms are: those with typing users, and those whose users stopped
  typing within ENDED_KEPT_S. After a restart the writer publishes empty lists for them, because
  clients may still show typing users there.
- If a writer has restarted (a reset), readers empty the rooms whose last row was of that writer and
  that it does not mention.

Spec: client-server API, Typing Notifications.
"""

from collections.abc import Callable
from typing import Final, NamedTuple, Protocol, TypeVar

import attrs
import trio

from hs.core.errors import Forbidden
from hs.core.events import event_types
from hs.core.ids import RoomID, UserID
from hs.core.requester import Requester
from hs.core.streams import EVENTS, TYPING, EventRow, TypingRow
from hs.repl.feed import Batch, Feed, Interest
from hs.repl.memory_writer import MemoryWriter
from hs.repl.rpc import rpc
from hs.repl.slots.fences import KeyFence, OwnedKeys, unfenced
from hs.repl.slots.table import Matches
from hs.services.accounts.limits.account_restrictions import check_may_signal
from hs.services.ephemeral.member_protocols import JoinedMembers
from hs.services.ephemeral.presence_tracking import SyncingDevices
from hs.storage.database import Database, Tx
from hs.storage.ephemeral import typing_rooms

MAX_TIMEOUT_MS: Final = 120_000
"""Longest timeout of a typing notification."""

MAX_ROOMS: Final = 100_000
"""Limit on the rooms whose typing users a process keeps; the oldest are dropped."""

SAVE_EVERY_S: Final = 1.0
"""How long changes are gathered before they are stored."""

ENDED_KEPT_S: Final = 600.0
"""How long a room without typing users stays stored."""

UNCERTAIN_S: Final = 0.5
"""How long to wait before looking again whether this process owns a room."""


K = TypeVar("K", bound=str)
V = TypeVar("V")


class TypingWriter(Protocol):
    """The writer of typing notifications: local, or the proxy of another process."""

    @rpc
    async def set_typing(self, room_id: RoomID, user_id: UserID, timeout_ms: int) -> None:
        """Set a user as typing for `timeout_ms`; 0 means that the user has stopped."""
        ...


class LocalTypingWriter:
    """The writer in a process that owns the stream, or a share of the rooms.

    `shown` are the typing users that this process has seen, of all writers.
    """

    def __init__(
        self,
        writer: MemoryWriter[TypingRow],
        shown: "TypingUsers",
        database: Database,
        owns: Callable[[str], bool],
        now_s: Callable[[], float] = trio.current_time,
        fence: KeyFence = unfenced,
    ) -> None:
        self._writer = writer
        self._shown = shown
        self._database = database
        self._owns = owns
        self._now_s = now_s
        self._fence = fence
        self._stored_rooms: set[str] = set()
        self._changed = trio.Event()
        self._gained = trio.Event()
        self._unpublished: set[RoomID] = set()
        self._rooms: dict[RoomID, dict[UserID, float]] = {}
        # Rooms where nobody types any more, and since when.
        self._ended_s: dict[str, float] = {}
        self._timer_changed = trio.Event()
        self._next_s = float("inf")

    async def set_typing(self, room_id: RoomID, user_id: UserID, timeout_ms: int) -> None:
        """Set a user as typing for `timeout_ms`; 0 means that the user has stopped."""
        if timeout_ms > 0:
            self._start(room_id, user_id, min(timeout_ms, MAX_TIMEOUT_MS) / 1000)
        else:
            self._stop(room_id, user_id)

    async def run(self) -> None:
        """Expire typing users, and store rooms, until cancelled."""
        await self.end_previous()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._save_periodically)
            nursery.start_soon(self._end_gained)
            while True:
                self._timer_changed = trio.Event()
                wait_s = self.expire()
                with trio.move_on_after(wait_s):
                    await self._timer_changed.wait()

    async def end_previous(self) -> None:
        """Publish empty lists for rooms where users were typing before this process owned them."""
        stored_rooms = await self._database.read(typing_rooms.list_all)
        self._stored_rooms = {room_id for room_id in stored_rooms if self._owns(room_id)}
        ended_rooms = self._stored_rooms - self._rooms.keys() - self._ended_s.keys()
        self._ended_s = dict.fromkeys(ended_rooms, self._now_s()) | self._ended_s
        if ended_rooms:
            self._writer.append_nowait([TypingRow(room_id, ()) for room_id in sorted(ended_rooms)])
        self._changed.set()

    async def save(self) -> None:
        """Store the rooms where users are typing or have stopped recently."""
        self._changed = trio.Event()
        oldest_s = self._now_s() - ENDED_KEPT_S
        self._ended_s = {
            room_id: at_s for room_id, at_s in self._ended_s.items() if at_s > oldest_s
        }
        current: set[str] = {*self._rooms, *self._ended_s}
        added, removed = current - self._stored_rooms, self._stored_rooms - current
        if added or removed:
            stored = self._stored_rooms
            owned = self._fence(added | removed)
            await self._database.write(_update_owned, owned, added, removed)
            # Rooms that were lost meanwhile are not this process's to remove.
            self._stored_rooms = current - (stored - self._stored_rooms)

    def gain(self, matches: Matches) -> None:
        """Publish empty lists for rooms that this process has just come to own."""
        for room_id in self._shown.typed_in():
            if matches(room_id) and room_id not in self._rooms:
                self._publish(room_id, {})
        self._gained.set()

    def lose(self, matches: Matches) -> None:
        """Forget rooms, because another process owns them, or will."""
        self._writer.forget(matches)
        self._rooms = _without(self._rooms, matches)
        self._ended_s = _without(self._ended_s, matches)
        self._stored_rooms = {each for each in self._stored_rooms if not matches(each)}
        self._unpublished = {each for each in self._unpublished if not matches(each)}

    async def _end_gained(self) -> None:
        while True:
            await self._gained.wait()
            self._gained = trio.Event()
            await self.end_previous()

    async def _save_periodically(self) -> None:
        while True:
            await self._changed.wait()
            await trio.sleep(SAVE_EVERY_S)
            await self.save()

    def expire(self) -> float:
        """Stop users whose timeout has expired; return the seconds until the next timeout."""
        now_s = self._now_s()
        unpublished, self._unpublished = self._unpublished, set()
        for room_id in unpublished:
            self._publish(room_id, self._rooms.get(room_id, {}))
        for room_id, users in list(self._rooms.items()):
            expired = [user_id for user_id, until_s in users.items() if until_s <= now_s]
            if expired:
                for user_id in expired:
                    del users[user_id]
                self._publish(room_id, users)
        self._next_s = min(
            (until_s for users in self._rooms.values() for until_s in users.values()),
            default=float("inf"),
        )
        wait_s = self._next_s - now_s
        return min(wait_s, UNCERTAIN_S) if self._unpublished else wait_s

    def _start(self, room_id: RoomID, user_id: UserID, timeout_s: float) -> None:
        users = self._rooms.setdefault(room_id, {})
        is_new = user_id not in users
        users[user_id] = until_s = self._now_s() + timeout_s
        if is_new:
            self._publish(room_id, users)
        if until_s < self._next_s:
            self._timer_changed.set()

    def _stop(self, room_id: RoomID, user_id: UserID) -> None:
        users = self._rooms.get(room_id, {})
        if users.pop(user_id, None) is not None:
            self._publish(room_id, users)

    def _publish(self, room_id: RoomID, users: dict[UserID, float]) -> None:
        if users:
            self._ended_s.pop(room_id, None)
        else:
            self._rooms.pop(room_id, None)
            self._ended_s[room_id] = self._now_s()
        if not self._owns(room_id):
            self._unpublished.add(room_id)
            self._timer_changed.set()
            return
        self._writer.append_nowait([TypingRow(room_id, tuple(users))])
        self._changed.set()

    def follow(self, feed: Feed) -> None:
        """Stop users who leave rooms."""
        feed.subscribe(EVENTS, self._on_events, Interest.CHANGES)

    def _on_events(self, batch: Batch[EventRow]) -> None:
        if not self._rooms:
            return
        for _, row in batch.rows:
            if row.type != event_types.MEMBER or row.room_id not in self._rooms:
                continue
            if row.membership != event_types.JOIN and row.state_key is not None:
                self._stop(RoomID(row.room_id), UserID(row.state_key))


class _RoomTyping(NamedTuple):
    """Who types in a room, as the writer of the room's last row said."""

    writer: str
    user_ids: tuple[UserID, ...]


class TypingUsers:
    """The typing users, as last published by the writers.

    A process that reads none has another `interest` than ALL.
    """

    def __init__(self, feed: Feed, interest: Interest = Interest.ALL) -> None:
        # In the order of their last change, including rooms where nobody types any more.
        self._rooms: dict[RoomID, _RoomTyping] = {}
        feed.subscribe(TYPING, self._on_rows, interest)

    def typing_users(self, room_id: RoomID) -> tuple[UserID, ...]:
        """Return the typing users of a room, in the order in which they began."""
        room = self._rooms.get(room_id)
        return () if room is None else room.user_ids

    def typed_in(self) -> list[RoomID]:
        """Return the rooms with typing users."""
        return [room_id for room_id, room in self._rooms.items() if room.user_ids]

    def _on_rows(self, batch: Batch[TypingRow]) -> None:
        if batch.reset:
            # The writer has restarted: nobody types in rooms that it does not mention.
            for room_id, room in self._rooms.items():
                if room.user_ids and room.writer == batch.writer:
                    self._rooms[room_id] = _RoomTyping(batch.writer, ())
        for _, row in batch.rows:
            room_id, users = RoomID(row.room_id), map(UserID, row.user_ids)
            self._rooms.pop(room_id, None)
            self._rooms[room_id] = _RoomTyping(batch.writer, tuple(users))
            if len(self._rooms) > MAX_ROOMS:
                del self._rooms[next(iter(self._rooms))]


async def _update_owned(tx: Tx, owned: OwnedKeys, added: set[str], removed: set[str]) -> None:
    room_ids = set(await owned(tx))
    await typing_rooms.update(tx, added & room_ids, removed & room_ids)


def _without(rooms: dict[K, V], matches: Matches) -> dict[K, V]:
    return {room_id: value for room_id, value in rooms.items() if not matches(room_id)}


@attrs.frozen(eq=False)
class TypingService:
    """The typing service for clients."""

    members: JoinedMembers
    writer: TypingWriter
    activity: SyncingDevices

    async def set_typing(
        self, requester: Requester, room_id: RoomID, user_id: UserID, timeout_ms: int
    ) -> None:
        """Set the requester as typing for `timeout_ms`; 0 means that they have stopped.

        Raises: Forbidden, UserSuspended.
        """
        if user_id != requester.user_id:
            raise Forbidden("You cannot set the typing state of another user")
        if timeout_ms > 0:
            check_may_signal(requester)
        if not await self.members.is_joined(room_id, user_id):
            raise Forbidden("You are not joined to this room")
        self.activity.note_active(user_id)
        if not requester.is_shadow_banned:
            await self.writer.set_typing(room_id, user_id, max(0, timeout_ms))
