"""The duty that sends the notifications of a share of the users, in one process at a time.

Each pusher has a line, which reads the table of notifications and sends what it finds. The feed
brings lines to be started, pushers to be read again, and the request to look for lines that missed
a notification; these wait in the duty's queue. Lines that the duty finds in the tables are started
at once, so their number is not bounded by the queue.

A run begins with what is stored, so it needs nothing of an earlier one. If more entries wait than
fit, it begins like that again, while the lines that send go on.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Final, Protocol

import attrs
import trio

from hs.core.errors import ProcessUnavailable
from hs.core.ids import UserID
from hs.core.streams import PUSHERS, PUSHES, RECEIPTS, PusherRow, PushesRow, QueuedPush, ReceiptRow
from hs.repl.feed import Batch, Feed
from hs.repl.feed_queue import FeedQueue, QueueOverflow, WhenFull
from hs.services.push.evaluation.push_queue import record_of
from hs.services.push.pushers.delivery import Push, Pusher
from hs.services.push.pushers.pusher_positions import PusherPositions
from hs.storage.database import Database, DatabaseError
from hs.storage.push import pushers as storage
from hs.storage.push.pushers import PusherKey

AGAIN_S: Final = 5.0
"""Pause of a line after a database error."""

AFTER_FAULT_S: Final = 60.0
"""Pause of a line after an unexpected error."""

MAX_WAITING: Final = 200_000
"""Entries of the queue, at most some 100 MB. With more, all pushers are read from their table."""

AT_ONCE: Final = 1000

USERS_AT_ONCE: Final = 1000
"""Users whose lines are started before other tasks run."""

_LOST: Final = "lost"
"""Entry of the queue: some notifications may have been stored without a row that says so."""

log = logging.getLogger(__name__)


class RunningPusher(Protocol):
    """The sending of notifications to one pusher."""

    pusher: Pusher
    is_working: bool
    has_news: bool
    is_over: bool

    def replace(self, pusher: Pusher) -> None:
        """Use the changed settings of the pusher."""
        ...

    def add(self, push: Push) -> None:
        """Note a stored notification."""
        ...

    def look_again(self) -> None:
        """Read the table: it may have notifications that were not announced."""
        ...

    def note_read(self) -> None:
        """Note that the user has read something."""
        ...

    async def work(self) -> None:
        """Send all notifications that wait."""
        ...

    def end(self) -> None:
        """Send no more notifications."""
        ...


PusherFactory = Callable[[Pusher], RunningPusher]


_Entry = PusherKey | RunningPusher | str


@attrs.define(eq=False)
class _Lines:
    """The lines of the users that are served here."""

    by_user: dict[str, dict[PusherKey, RunningPusher]] = attrs.Factory(dict)

    def all(self) -> Iterator[RunningPusher]:
        return (line for lines in self.by_user.values() for line in lines.values())

    def of_user(self, user_id: str) -> list[RunningPusher]:
        return list(self.by_user.get(user_id, {}).values())

    def find(self, key: PusherKey) -> RunningPusher | None:
        return self.by_user.get(key.user_id, {}).get(key)

    def put(self, key: PusherKey, line: RunningPusher) -> None:
        self.by_user.setdefault(key.user_id, {})[key] = line

    def pop(self, key: PusherKey) -> RunningPusher | None:
        lines = self.by_user.get(key.user_id, {})
        line = lines.pop(key, None)
        if not lines:
            self.by_user.pop(key.user_id, None)
        return line

    def count_working(self) -> int:
        return sum(line.is_working for line in self.all())


class PusherDuty:
    """Serves the pushers of the users for whom `is_ours` holds.

    `makers` has the function that makes a line, by kind of pusher; pushers of other kinds are
    ignored.
    """

    def __init__(
        self,
        database: Database,
        feed: Feed,
        positions: PusherPositions,
        makers: Mapping[str, PusherFactory],
        is_ours: Callable[[UserID], bool],
    ) -> None:
        self._database = database
        self._positions = positions
        self._makers = makers
        self._is_ours = is_ours
        self._lines = _Lines()
        self._queue: FeedQueue[_Entry] = FeedQueue(
            "pushers", MAX_WAITING, WhenFull.START_OVER, is_open=False
        )
        self._queue.follow(feed, PUSHERS, self._changed_in)
        self._queue.follow(feed, PUSHES, self._notified_in)
        feed.subscribe(RECEIPTS, self._on_receipts)

    @property
    def waiting(self) -> int:
        """The number of pushers that have something to send or to retry."""
        return self._queue.waiting + self._lines.count_working()

    async def run(self) -> None:
        """Serve for ever, beginning with what is stored."""
        self._lines = _Lines()
        async with trio.open_nursery() as noting:
            await noting.start(self._positions.run)
            try:
                async with trio.open_nursery() as nursery:
                    while True:
                        with self._queue.opened():
                            await self._serve(nursery)
            finally:
                self._positions.stop()

    async def _serve(self, nursery: trio.Nursery) -> None:
        """Serve what is stored, then what the feed brings, until the queue overflows."""
        for line in list(self._lines.all()):
            # Whatever it noted, the queue may have dropped or refused the line.
            is_due = line.has_news or line.is_working
            # The feed may have skipped a notification, and may add the next one from now on.
            line.look_again()
            line.has_news = is_due
            if is_due:
                self._start(nursery, line)
        await self._read_pushers(nursery)
        await self._start_lost(nursery)

        async def work(entries: list[_Entry]) -> None:
            for entry in entries:
                await self._work_on(nursery, entry)

        with suppress(QueueOverflow):
            await self._queue.serve(work, at_most=AT_ONCE)

    async def _work_on(self, nursery: trio.Nursery, entry: _Entry) -> None:
        if isinstance(entry, PusherKey):
            await self._read_pusher(nursery, entry)
        elif isinstance(entry, str):
            await self._start_lost(nursery)
        else:
            self._start(nursery, entry)

    def _start(self, nursery: trio.Nursery, line: RunningPusher) -> None:
        if not line.is_working:
            line.is_working = True
            nursery.start_soon(self._run_line, line)

    async def _read_pushers(self, nursery: trio.Nursery) -> None:
        """Make the lines of new pushers, change or drop those of others, as the table says."""
        # Pushers that change meanwhile are in the queue, and are read again.
        pushers = {
            pusher.key: pusher
            for pusher in map(Pusher.of, await self._database.read(storage.list_enabled))
            if pusher.kind in self._makers and self._is_ours(pusher.user_id)
        }
        for line in list(self._lines.all()):
            pusher = pushers.pop(line.pusher.key, None)
            if pusher is None:
                self._drop(line.pusher.key)
            elif attrs.evolve(pusher, position=line.pusher.position) != line.pusher:
                self._set(nursery, pusher)
        for pusher in pushers.values():
            line = self._makers[pusher.kind](pusher)
            line.has_news = False  # until a stored notification is found
            self._lines.put(pusher.key, line)

    async def _read_pusher(self, nursery: trio.Nursery, key: PusherKey) -> None:
        record = await self._database.read(storage.find, key)
        if record is None or not record.enabled or record.kind not in self._makers:
            self._drop(key)
        else:
            self._set(nursery, Pusher.of(record))

    async def _start_lost(self, nursery: trio.Nursery) -> None:
        """Start the lines of all users for whom notifications are stored."""
        after = ""
        while user_ids := await self._database.read(
            storage.list_users_with_notifications, after, USERS_AT_ONCE
        ):
            for user_id in user_ids:
                for line in self._lines.of_user(user_id):
                    line.look_again()
                    self._start(nursery, line)
            after = user_ids[-1]

    def _set(self, nursery: trio.Nursery, pusher: Pusher) -> None:
        line = self._lines.find(pusher.key)
        if line is not None and line.pusher.kind != pusher.kind:
            self._drop(pusher.key)
            line = None
        if line is not None:
            line.replace(pusher)
            line.has_news = True
        else:
            line = self._makers[pusher.kind](pusher)
            self._lines.put(pusher.key, line)
        self._start(nursery, line)

    def _drop(self, key: PusherKey) -> None:
        line = self._lines.pop(key)
        if line is not None:
            line.end()
        self._positions.note_moved(key.user_id)

    async def _run_line(self, line: RunningPusher) -> None:
        try:
            while line.has_news and not line.is_over:
                line.has_news = False
                await self._work_once(line)
        finally:
            line.is_working = False

    async def _work_once(self, line: RunningPusher) -> None:
        try:
            await line.work()
        except (DatabaseError, ProcessUnavailable) as error:
            log.warning(
                "push to %s was interrupted, retrying in %.0f s: %s",
                line.pusher.user_id,
                AGAIN_S,
                error,
            )
            await _rest(line, AGAIN_S)
        except Exception:
            # An error of one pusher must not stop the others.
            log.exception(
                "push to %s failed, retrying in %.0f s", line.pusher.user_id, AFTER_FAULT_S
            )
            await _rest(line, AFTER_FAULT_S)

    # Following the feed

    def _changed_in(self, batch: Batch[PusherRow]) -> Iterator[_Entry]:
        for _, row in batch.rows:
            if self._is_ours(UserID(row.user_id)):
                yield PusherKey(row.user_id, row.app_id, row.pushkey)

    def _notified_in(self, batch: Batch[PushesRow]) -> Iterator[_Entry]:
        if batch.reset:
            # At once: the next batch may have later notifications, which must not be sent first.
            for line in self._lines.all():
                line.look_again()
            yield _LOST
            return
        for _, row in batch.rows:
            for push in row.pushes:
                yield from self._add(push)

    def _add(self, push: QueuedPush) -> Iterator[_Entry]:
        by_user = self._lines.by_user
        for user_id in push.user_ids:
            if user_id in by_user:
                added = record_of(push, user_id)
                for line in by_user[user_id].values():
                    line.add(added)
                    if not line.is_working:
                        yield line

    def _on_receipts(self, batch: Batch[ReceiptRow]) -> None:
        # Lines note it whatever the state of the queue, as no table says what they have shown.
        for _, row in batch.rows:
            for line in self._lines.of_user(row.user_id):
                line.note_read()
                if not line.is_working:
                    self._queue.put(line)


async def _rest(line: RunningPusher, pause_s: float) -> None:
    await trio.sleep(pause_s)
    line.look_again()
