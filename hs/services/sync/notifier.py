"""Wakes long polls when rows arrive that concern their users.

One notifier per process. It has a *watch* for each user who syncs here, and finds watches by user
and by room. Which watches a row wakes is declared with its stream (hs.core.stream_def).

Rules:

- No wake-up is lost. A poll reads `Watch.changes` before it computes a response and passes that
  number to `wait`, which returns at once if anything has happened since.
- A woken poll finds the new data. The feed calls subscribers in the order in which they
  subscribed, so the notifier is built after the services whose caches it announces.
- The rooms of a watch are those that its user is joined to at the feed's current position. They
  are given when the watch is made (with no await between reading and giving them) and follow
  the rows of the stream `events` from then on.
- A watch that is not used is kept for a while, because its rooms are costly to load. A user who
  waits costs nothing but the watch until a row arrives.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any, Final, TypeVar

import attrs
import trio

from hs.core.events import event_types
from hs.core.ids import RoomID, UserID
from hs.core.stream_def import StreamDef, WakeRule
from hs.core.streams import (
    UNREAD,
    DeviceListRow,
    EventRow,
    PresenceRow,
    ProfileUpdateRow,
    ToDeviceRow,
    UnreadRow,
)
from hs.core.sync_token import SYNCED_STREAMS
from hs.repl.feed import Batch, Feed
from hs.services.rooms.store.memberships import member_changes

R = TypeVar("R")

MAX_WATCHES: Final = 20_000
IDLE_S: Final = 300.0
TICK_S: Final = 0.2
COARSE_S: Final = 2.0
"""A wait that is longer than this ends at a tick."""

_SWEPT_AT_ONCE: Final = 2


@attrs.define(eq=False)
class Watch:
    """A user who syncs here.

    `changes` is the number of wake-ups so far, `count_changes` of those by the evaluation of push
    rules.
    """

    user_id: UserID
    rooms: set[str]
    changes: int = 0
    count_changes: int = 0
    uses: int = 0
    used_at: float = 0.0
    waiting: list[trio.Event] = attrs.Factory(list)

    def wake(self) -> None:
        """Count a wake-up and end all waits of this watch."""
        self.changes += 1
        if self.waiting:
            for event in self.waiting:
                event.set()
            self.waiting.clear()


@attrs.frozen(eq=False)
class _Use:
    """The use of a watch by one poll. A generator would be slower, and every poll needs this."""

    _notifier: "Notifier"
    _watch: Watch

    def __enter__(self) -> Watch:
        self._watch.uses += 1
        return self._watch

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._watch.uses -= 1
        self._notifier.release(self._watch)


class Notifier:
    """The watches of a process; build it after the services whose changes it announces."""

    def __init__(self, feed: Feed) -> None:
        # By user ID and by room ID, as the rows have them: plain strings.
        self._has_watch: OrderedDict[str, Watch] = OrderedDict()
        self._by_room: dict[str, set[Watch]] = {}
        self._peeks: set[Watch] = set()
        # The watches of users with a client that follows profiles.
        self._profile_followers: set[Watch] = set()
        # The watches of users who wait for the evaluation of push rules.
        self._count_followers: set[Watch] = set()
        self.is_leaving = False
        # While `tick` runs: the events of waits by the number of the tick that ends them.
        self._is_ticking = False
        self._due: dict[int, set[trio.Event]] = {}
        self._tick_needed = trio.Event()
        # The rooms whose members are woken at the next tick, and watches.
        self._later: set[str] = set()
        self._later_watches: set[Watch] = set()
        self._feed = feed
        self._follows_unread = False  # from the first watch of counts on
        for stream in SYNCED_STREAMS:
            feed.subscribe(stream, self._callback_of(stream))

    def __len__(self) -> int:
        return len(self._has_watch)

    @property
    def waiting(self) -> int:
        """Number of waiting requests."""
        return sum(len(watch.waiting) for watch in (*self._has_watch.values(), *self._peeks))

    def watching(self, user_id: UserID, rooms: Iterable[RoomID]) -> AbstractContextManager[Watch]:
        """Use the watch of a user within a `with` block.

        `rooms` are all that the user is joined to at the feed's current position. They are
        iterated only if the user has no watch yet.
        """
        watch = self._has_watch.get(user_id)
        if watch is None:
            watch = self._has_watch[user_id] = Watch(user_id, set(rooms))
            for room_id in watch.rooms:
                self._by_room.setdefault(room_id, set()).add(watch)
        return _Use(self, watch)

    def follow_profiles(self, watch: Watch) -> None:
        """Wake the watch for profile updates too, until it is deleted.

        Call it before `Watch.changes` is read.
        """
        self._profile_followers.add(watch)

    def follow_counts(self, watch: Watch) -> None:
        """Wake the watch when the evaluation of push rules changes counts in its rooms, once.

        Call it before `Watch.changes` is read.
        """
        self._count_followers.add(watch)
        if not self._follows_unread:
            self._follows_unread = True
            self._feed.subscribe(UNREAD, self._on_unread)

    def release(self, watch: Watch) -> None:
        """Note the end of a use of a watch, and delete watches that are idle for too long."""
        watch.used_at = trio.current_time()
        self._has_watch.move_to_end(watch.user_id)
        self._sweep(watch.used_at)

    @contextmanager
    def peeking(self, user_id: UserID, room_id: RoomID) -> Iterator[Watch]:
        """Use a watch of one room within a `with` block; the user need not be a member."""
        watch = Watch(user_id, {room_id}, uses=1)
        self._peeks.add(watch)
        self._by_room.setdefault(room_id, set()).add(watch)
        try:
            yield watch
        finally:
            self._peeks.discard(watch)
            self._remove_room(watch, room_id)

    def has_watch(self, user_id: UserID) -> bool:
        """Return whether a user syncs here."""
        return user_id in self._has_watch

    async def wait(self, watch: Watch, seen: int, deadline: float) -> None:
        """Wait until `watch.changes` is no longer `seen`, the deadline, or the process leaves."""
        if watch.changes != seen or self.is_leaving:
            return
        event = trio.Event()
        watch.waiting.append(event)
        try:
            if self._is_ticking and deadline - trio.current_time() > COARSE_S:
                await self._wait_for_tick(event, deadline)
            else:
                with trio.CancelScope(deadline=deadline):
                    await event.wait()
        finally:
            if event in watch.waiting:
                watch.waiting.remove(event)

    async def _wait_for_tick(self, event: trio.Event, deadline: float) -> None:
        tick = int(deadline / TICK_S) + 1
        due = self._due.get(tick)
        if due is None:
            due = self._due[tick] = set()
            self._tick_needed.set()
        due.add(event)
        try:
            await event.wait()
        finally:
            due.discard(event)

    async def tick(self) -> None:
        """End long waits at ticks, many together; a duty of every process.

        A long poll may last up to a tick longer than its timeout. A cancel scope with a deadline
        for each poll would cost more than the rest of its waiting.
        """
        self._is_ticking = True
        try:
            while True:
                if not (self._due or self._later or self._later_watches):
                    self._tick_needed = trio.Event()
                    await self._tick_needed.wait()
                await trio.sleep(TICK_S)
                self._wake_late()
                now = trio.current_time() / TICK_S
                for tick in [tick for tick in self._due if tick <= now]:
                    for event in self._due.pop(tick):
                        event.set()
        finally:
            self._is_ticking = False
            self._wake_late()
            for due in self._due.values():
                for event in due:
                    event.set()
            self._due.clear()

    def _wake_late(self) -> None:
        if self._later:
            rooms, self._later = self._later, set()
            self.wake_rooms(rooms)
        if self._later_watches:
            watches, self._later_watches = self._later_watches, set()
            for watch in watches:
                watch.wake()

    def wake_users(self, user_ids: Iterable[str]) -> None:
        """Wake users, if they sync here."""
        for user_id in user_ids:
            watch = self._has_watch.get(user_id)
            if watch is not None:
                watch.wake()

    def wake_rooms(self, room_ids: Iterable[str]) -> None:
        """Wake the members of rooms who sync here, each once.

        This takes no longer for more rooms than there are watches.
        """
        rooms = frozenset(room_ids)
        woken: set[Watch] = set()
        if len(rooms) > len(self._has_watch) + len(self._peeks):
            for watch in (*self._has_watch.values(), *self._peeks):
                if not watch.rooms.isdisjoint(rooms):
                    woken.add(watch)
        else:
            for room_id in rooms:
                woken |= self._by_room.get(room_id, _NO_WATCHES)
        for watch in woken:
            watch.wake()

    def wake_profile_followers(self, room_ids: Collection[str]) -> None:
        """Wake the members of rooms whose clients follow profiles, once for the changes of a tick.

        This takes no longer for more rooms than there are such watches.
        """
        followers = self._profile_followers
        woken: set[Watch] = set()
        if len(room_ids) > len(followers):
            rooms = room_ids if isinstance(room_ids, set) else frozenset(room_ids)
            woken.update(watch for watch in followers if not watch.rooms.isdisjoint(rooms))
        else:
            for room_id in room_ids:
                woken |= self._by_room.get(room_id, _NO_WATCHES) & followers
        self._later_watches |= woken
        if self._is_ticking:
            self._tick_needed.set()
        else:
            self._wake_late()

    def device_list_stranger(self, row: DeviceListRow) -> UserID | None:
        """Return the user of a row whose rooms are to be looked up to wake their members."""
        if not self._has_watch or row.signatures or row.user_id in self._has_watch:
            return None
        return UserID(row.user_id)

    def profile_stranger(self, row: ProfileUpdateRow) -> UserID | None:
        """Return the user of a row whose rooms are to be looked up to wake their members."""
        if not self._profile_followers or row.user_id in self._has_watch:
            return None
        return UserID(row.user_id)

    def leave(self) -> None:
        """End all waits, now and from now on, because the process is about to end."""
        self.is_leaving = True
        for watch in (*self._has_watch.values(), *self._peeks):
            watch.wake()

    async def leave_on(self, started: trio.Event) -> None:
        """Call `leave` when the process starts to drain; a duty of every process."""
        await started.wait()
        self.leave()

    def _sweep(self, now: float) -> None:
        for _ in range(_SWEPT_AT_ONCE):
            if not self._has_watch:
                return
            watch = next(iter(self._has_watch.values()))
            if watch.uses:
                self._has_watch.move_to_end(watch.user_id)
            elif len(self._has_watch) > MAX_WATCHES or now - watch.used_at > IDLE_S:
                del self._has_watch[watch.user_id]
                self._profile_followers.discard(watch)
                self._count_followers.discard(watch)
                for room_id in list(watch.rooms):
                    self._remove_room(watch, room_id)
            else:
                return

    def _remove_room(self, watch: Watch, room_id: str) -> None:
        watch.rooms.discard(room_id)
        watches = self._by_room.get(room_id)
        if watches is not None:
            watches.discard(watch)
            if not watches:
                del self._by_room[room_id]

    # Rows of the feed

    def _callback_of(self, stream: StreamDef[Any]) -> Callable[[Batch[Any]], None]:
        match stream.wake_rule:
            case WakeRule.ROOM_MEMBERS:
                return self._on_events
            case WakeRule.SHARED_ROOMS:
                return self._on_presence
            case WakeRule.DEVICE_TRACKERS:
                return self._on_device_lists
            case WakeRule.PROFILE_FOLLOWERS:
                return self._on_profile_updates
            case WakeRule.DEVICE_OWNERS:
                return self._on_to_device
            case None:
                return self._waker(stream.wakes_users, stream.wakes_rooms)

    def _waker(
        self,
        users_of: Callable[[R], Iterable[str]] | None,
        rooms_of: Callable[[R], Iterable[str]] | None,
    ) -> Callable[[Batch[R]], None]:
        def on_rows(batch: Batch[R]) -> None:
            if users_of is not None:
                self.wake_users({user_id for _, row in batch.rows for user_id in users_of(row)})
            if rooms_of is not None:
                self.wake_rooms({room_id for _, row in batch.rows for room_id in rooms_of(row)})

        return on_rows

    def _on_events(self, batch: Batch[EventRow]) -> None:
        woken: set[Watch] = set()
        for _, row in batch.rows:
            if row.type == event_types.MEMBER or row.state_changes is not None:
                woken |= self._on_memberships(row)
            if row.is_shown:
                woken |= self._by_room.get(row.room_id, _NO_WATCHES)
        for watch in woken:
            watch.wake()

    def _on_memberships(self, row: EventRow) -> set[Watch]:
        concerned: set[Watch] = set()
        room_id = row.room_id
        for _, state_key, _, membership in member_changes(row):
            watch = self._has_watch.get(state_key)
            if watch is None:
                continue
            concerned.add(watch)
            if membership == event_types.JOIN:
                watch.rooms.add(room_id)
                self._by_room.setdefault(room_id, set()).add(watch)
            else:
                self._remove_room(watch, room_id)
        return concerned

    def _on_presence(self, batch: Batch[PresenceRow]) -> None:
        rooms: set[str] = set()
        for _, row in batch.rows:
            if row.is_quiet:
                continue
            # The rooms of users who do not sync here are not known; `Strangers` loads them.
            watch = self._has_watch.get(row.user_id)
            if watch is not None:
                rooms |= watch.rooms
        if self._is_ticking:
            # Each user who comes online wakes almost everybody, so many are announced at once.
            self._later |= rooms
            self._tick_needed.set()
        else:
            self.wake_rooms(rooms)

    def _on_device_lists(self, batch: Batch[DeviceListRow]) -> None:
        for _, row in batch.rows:
            # The rooms of users who do not sync here are not known; `RemoteUserDuty` wakes their
            # members.
            watch = self._has_watch.get(row.user_id)
            if watch is not None:
                watch.wake()
                if not row.signatures:
                    self.wake_rooms(watch.rooms)

    def _on_profile_updates(self, batch: Batch[ProfileUpdateRow]) -> None:
        if batch.reset:
            for follower in self._profile_followers:
                follower.wake()
        for _, row in batch.rows:
            # As for device lists.
            watch = self._has_watch.get(row.user_id)
            if watch is not None:
                if watch in self._profile_followers:
                    watch.wake()
                self.wake_profile_followers(watch.rooms)

    def _on_unread(self, batch: Batch[UnreadRow]) -> None:
        followers = self._count_followers
        if not followers:
            return
        woken: set[Watch] = set()
        if batch.reset:
            woken |= followers
        for _, row in batch.rows:
            for room_id in row.rooms():
                woken |= self._by_room.get(room_id, _NO_WATCHES) & followers
        followers -= woken
        for watch in woken:
            watch.count_changes += 1
            watch.wake()

    def _on_to_device(self, batch: Batch[ToDeviceRow]) -> None:
        for _, row in batch.rows:
            for user_id in self._has_watch.keys() & {user_id for user_id, _ in row.devices}:
                watch = self._has_watch[user_id]
                if row.keys:
                    # New key counts are part of the next response, but end no wait.
                    watch.changes += 1
                else:
                    watch.wake()


_NO_WATCHES: Final[set[Watch]] = set()
