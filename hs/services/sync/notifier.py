"""Who is woken by what: the users who sync in this process, and the rooms they are in.

One per process, kept by the feed. Whoever waits costs an entry and nothing else until something
of theirs happens; users who stopped syncing are forgotten after a while.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Final

import attrs
import trio

from hs.core.events import event_types
from hs.core.ids import RoomID, UserID
from hs.repl.feed import Batch, Feed
from hs.repl.rows import (
    AccountDataRow,
    DeviceListRow,
    EventRow,
    PresenceRow,
    PushRulesRow,
    ReceiptRow,
    ThreadSubscriptionRow,
    ToDeviceRow,
    TypingRow,
)
from hs.repl.streams import (
    ACCOUNT_DATA,
    DEVICE_LISTS,
    EVENTS,
    PRESENCE,
    PUSH_RULES,
    RECEIPTS,
    THREAD_SUBSCRIPTIONS,
    TO_DEVICE,
    TYPING,
)

MAX_WATCHES: Final = 20_000
IDLE_S: Final = 300.0
TICK_S: Final = 0.2
COARSE_S: Final = 2.0
"""Waiting for longer than this ends at a tick."""

_SWEPT_AT_ONCE: Final = 2
PRIVATE_RECEIPT: Final = "m.read.private"


@attrs.define(eq=False)
class Watch:
    """One user who syncs here; `changes` counts what happened that may concern them."""

    user_id: UserID
    rooms: set[RoomID]
    changes: int = 0
    uses: int = 0
    used_at: float = 0.0
    waiting: list[trio.Event] = attrs.Factory(list)

    def wake(self) -> None:
        """Note that something happened, and wake who waits for it."""
        self.changes += 1
        if self.waiting:
            for event in self.waiting:
                event.set()
            self.waiting.clear()


@attrs.frozen(eq=False)
class _Use:
    """One use of a watch; not a generator, for there is one of these in every poll."""

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
        self._notifier.put_down(self._watch)


class Notifier:
    """Wakes long-polls; build it after the services whose news it announces."""

    def __init__(self, feed: Feed) -> None:
        self._watches: OrderedDict[UserID, Watch] = OrderedDict()
        self._by_room: dict[RoomID, set[Watch]] = {}
        self._peeks: set[Watch] = set()
        self.is_leaving = False
        # Waiting of which the time is over at a tick, when there are ticks.
        self._is_ticking = False
        self._due: dict[int, set[trio.Event]] = {}
        self._anything_due = trio.Event()
        # Rooms whose members are woken at the next tick.
        self._later: set[RoomID] = set()
        feed.subscribe(EVENTS, self._on_events)
        feed.subscribe(RECEIPTS, self._on_receipts)
        feed.subscribe(TYPING, self._on_typing)
        feed.subscribe(PRESENCE, self._on_presence)
        feed.subscribe(ACCOUNT_DATA, self._on_account_data)
        feed.subscribe(PUSH_RULES, self._on_push_rules)
        feed.subscribe(TO_DEVICE, self._on_to_device)
        feed.subscribe(DEVICE_LISTS, self._on_device_lists)
        feed.subscribe(THREAD_SUBSCRIPTIONS, self._on_thread_subscriptions)

    def __len__(self) -> int:
        return len(self._watches)

    @property
    def waiting(self) -> int:
        """How many requests wait for something to happen."""
        return sum(len(watch.waiting) for watch in (*self._watches.values(), *self._peeks))

    def watching(self, user_id: UserID, rooms: Iterable[RoomID]) -> AbstractContextManager[Watch]:
        """Give the watch of a user, who is joined to `rooms` at this moment of the feed."""
        watch = self._watches.get(user_id)
        if watch is None:
            watch = self._watches[user_id] = Watch(user_id, set(rooms))
            for room_id in watch.rooms:
                self._by_room.setdefault(room_id, set()).add(watch)
        return _Use(self, watch)

    def put_down(self, watch: Watch) -> None:
        """Note the end of a use of a watch, and forget some that were not used for long."""
        watch.used_at = trio.current_time()
        self._watches.move_to_end(watch.user_id)
        self._sweep(watch.used_at)

    @contextmanager
    def peeking(self, user_id: UserID, room_id: RoomID) -> Iterator[Watch]:
        """Give a watch of one room, for a user who need not be in it."""
        watch = Watch(user_id, {room_id}, uses=1)
        self._peeks.add(watch)
        self._by_room.setdefault(room_id, set()).add(watch)
        try:
            yield watch
        finally:
            self._peeks.discard(watch)
            self._part(watch, room_id)

    def watches(self, user_id: UserID) -> bool:
        """Tell whether a user syncs here."""
        return user_id in self._watches

    async def wait(self, watch: Watch, seen: int, deadline: float) -> None:
        """Wait until more happened than `seen` changes, a time, or the end of this process."""
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
            self._anything_due.set()
        due.add(event)
        try:
            await event.wait()
        finally:
            due.discard(event)

    async def tick(self) -> None:
        """End waiting whose time is over, together; a duty of the process.

        A long-poll may last a moment longer than asked for. A scope with a deadline for each of
        them would cost more than all the rest of their waiting.
        """
        self._is_ticking = True
        try:
            while True:
                if not (self._due or self._later):
                    self._anything_due = trio.Event()
                    await self._anything_due.wait()
                await trio.sleep(TICK_S)
                self._wake_late()
                now = trio.current_time() / TICK_S
                for tick in [one for one in self._due if one <= now]:
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

    def wake_users(self, user_ids: Iterable[UserID]) -> None:
        """Wake users by hand."""
        for user_id in user_ids:
            watch = self._watches.get(user_id)
            if watch is not None:
                watch.wake()

    def wake_rooms(self, room_ids: Iterable[RoomID]) -> None:
        """Wake the members of rooms by hand; each once."""
        woken: set[Watch] = set()
        for room_id in room_ids:
            woken |= self._by_room.get(room_id, _NOBODY)
        for watch in woken:
            watch.wake()

    def leave(self) -> None:
        """Have everybody answered now, and nobody wait any more: the process is about to end."""
        self.is_leaving = True
        for watch in (*self._watches.values(), *self._peeks):
            watch.wake()

    async def leave_on(self, started: trio.Event) -> None:
        """Leave when the process starts to drain; a duty of the process."""
        await started.wait()
        self.leave()

    def _sweep(self, now: float) -> None:
        for _ in range(_SWEPT_AT_ONCE):
            if not self._watches:
                return
            watch = next(iter(self._watches.values()))
            if watch.uses:
                self._watches.move_to_end(watch.user_id)
            elif len(self._watches) > MAX_WATCHES or now - watch.used_at > IDLE_S:
                del self._watches[watch.user_id]
                for room_id in list(watch.rooms):
                    self._part(watch, room_id)
            else:
                return

    def _part(self, watch: Watch, room_id: RoomID) -> None:
        watch.rooms.discard(room_id)
        watches = self._by_room.get(room_id)
        if watches is not None:
            watches.discard(watch)
            if not watches:
                del self._by_room[room_id]

    # The feed

    def _on_events(self, batch: Batch[EventRow]) -> None:
        woken: set[Watch] = set()
        for _, row in batch.rows:
            if row.type == event_types.MEMBER or row.state_changes is not None:
                woken |= self._on_memberships(row)
            if not (row.rejected or row.soft_failed or row.outlier):
                woken |= self._by_room.get(RoomID(row.room_id), _NOBODY)
        for watch in woken:
            watch.wake()

    def _on_memberships(self, row: EventRow) -> set[Watch]:
        concerned: set[Watch] = set()
        room_id = RoomID(row.room_id)
        for event_type, state_key, _, membership in row.changes():
            watch = self._watches.get(UserID(state_key))
            if event_type != event_types.MEMBER or watch is None:
                continue
            concerned.add(watch)
            if membership == event_types.JOIN:
                watch.rooms.add(room_id)
                self._by_room.setdefault(room_id, set()).add(watch)
            else:
                self._part(watch, room_id)
        return concerned

    def _on_receipts(self, batch: Batch[ReceiptRow]) -> None:
        for _, row in batch.rows:
            if row.receipt_type == PRIVATE_RECEIPT:
                self.wake_users((UserID(row.user_id),))
        self.wake_rooms(
            {RoomID(row.room_id) for _, row in batch.rows if row.receipt_type != PRIVATE_RECEIPT}
        )

    def _on_typing(self, batch: Batch[TypingRow]) -> None:
        self.wake_rooms({RoomID(row.room_id) for _, row in batch.rows})

    def _on_presence(self, batch: Batch[PresenceRow]) -> None:
        rooms: set[RoomID] = set()
        for _, row in batch.rows:
            # Of users who do not sync here the rooms are not known: `Strangers` looks them up.
            watch = self._watches.get(UserID(row.user_id))
            if watch is not None:
                rooms |= watch.rooms
        if self._is_ticking:
            # Who comes online is told together with others: each of them concerns everybody.
            self._later |= rooms
            self._anything_due.set()
        else:
            self.wake_rooms(rooms)

    def _on_account_data(self, batch: Batch[AccountDataRow]) -> None:
        self.wake_users({UserID(row.user_id) for _, row in batch.rows})

    def _on_push_rules(self, batch: Batch[PushRulesRow]) -> None:
        self.wake_users({UserID(row.user_id) for _, row in batch.rows})

    def _on_to_device(self, batch: Batch[ToDeviceRow]) -> None:
        for _, row in batch.rows:
            for user_id in self._watches.keys() & {user_id for user_id, _ in row.devices}:
                watch = self._watches[user_id]
                if row.keys:
                    # Counts of keys are told with whatever comes next: nobody is woken for them.
                    watch.changes += 1
                else:
                    watch.wake()

    def _on_thread_subscriptions(self, batch: Batch[ThreadSubscriptionRow]) -> None:
        self.wake_users({UserID(row.user_id) for _, row in batch.rows})

    def _on_device_lists(self, batch: Batch[DeviceListRow]) -> None:
        self.wake_users({UserID(row.user_id) for _, row in batch.rows})
        self.wake_rooms({RoomID(one) for _, row in batch.rows for one in row.room_ids})


_NOBODY: Final[set[Watch]] = set()
