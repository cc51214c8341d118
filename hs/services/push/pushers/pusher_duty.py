"""The duty that serves the pushers of a share of the users, in one process at a time."""

import logging
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import attrs
import trio

from hs.core.ids import UserID
from hs.repl.feed import Batch, Feed
from hs.repl.rows import PusherRow, PushesRow, QueuedPush, ReceiptRow
from hs.repl.streams import PUSHERS, PUSHES, RECEIPTS
from hs.services.push.pushers.delivery import Push, Pusher
from hs.services.push.pushers.pusher_positions import Positions
from hs.storage.database import Database, DatabaseError
from hs.storage.push import pushers as storage
from hs.storage.push.pushers import PusherKey

AGAIN_S: Final = 5.0
"""After the database failed a line."""

AFTER_FAULT_S: Final = 60.0
"""After a line failed in a way that nobody thought of."""

log = logging.getLogger(__name__)


class PusherLine(Protocol):
    """One pusher at work."""

    pusher: Pusher
    is_working: bool
    has_news: bool
    is_over: bool

    def replace(self, pusher: Pusher) -> None:
        """Take over what was set anew."""
        ...

    def add(self, push: Push) -> None:
        """Note what was put in the queue."""
        ...

    def look_again(self) -> None:
        """Look into the table: something may be there that was not told."""
        ...

    def note_read(self) -> None:
        """Note that the user has read something."""
        ...

    async def work(self) -> None:
        """Send what waits; returns when nothing does."""
        ...

    def end(self) -> None:
        """Send nothing any more."""
        ...


MakeLine = Callable[[Pusher], PusherLine]


@attrs.define(eq=False)
class _Lines:
    """The lines of the users that are served here."""

    by_user: dict[str, dict[PusherKey, PusherLine]] = attrs.Factory(dict)

    def of_user(self, user_id: str) -> list[PusherLine]:
        return list(self.by_user.get(user_id, {}).values())

    def find(self, key: PusherKey) -> PusherLine | None:
        return self.by_user.get(key.user_id, {}).get(key)

    def put(self, key: PusherKey, line: PusherLine) -> None:
        self.by_user.setdefault(key.user_id, {})[key] = line

    def pop(self, key: PusherKey) -> PusherLine | None:
        lines = self.by_user.get(key.user_id, {})
        line = lines.pop(key, None)
        if not lines:
            self.by_user.pop(key.user_id, None)
        return line


class PushSending:
    """Serves the pushers of the users for whom `is_ours` holds.

    `makers` makes the line of each kind of pusher; pushers of other kinds are left alone.
    """

    def __init__(
        self,
        database: Database,
        feed: Feed,
        positions: Positions,
        makers: Mapping[str, MakeLine],
        is_ours: Callable[[UserID], bool],
    ) -> None:
        self._database = database
        self._positions = positions
        self._makers = makers
        self._is_ours = is_ours
        self._lines = _Lines()
        self._is_running = False
        self._to_start: dict[PusherKey, PusherLine] = {}
        self._to_read: set[PusherKey] = set()
        self._lost_some = False
        self._wake = trio.Event()
        feed.subscribe(PUSHERS, self._on_pushers)
        feed.subscribe(PUSHES, self._on_pushes)
        feed.subscribe(RECEIPTS, self._on_receipts)

    @property
    def waiting(self) -> int:
        """How many pushers have something to send or to try again."""
        lines = [line for of_user in self._lines.by_user.values() for line in of_user.values()]
        return len(self._to_start) + sum(line.is_working for line in lines)

    async def run(self) -> None:
        """Serve for ever; first what was left from before."""
        self._lines, self._to_start = _Lines(), {}
        self._to_read.clear()
        self._is_running = True
        async with trio.open_nursery() as noting:
            await noting.start(self._positions.run)
            try:
                await self._serve()
            finally:
                self._is_running = False
                self._positions.stop()

    async def _serve(self) -> None:
        await self._take_up()
        self._lost_some = True
        async with trio.open_nursery() as nursery:
            while True:
                self._wake = trio.Event()
                await self._read_changed()
                await self._find_lost()
                self._start(nursery)
                await self._wake.wait()

    async def _take_up(self) -> None:
        for record in await self._database.read(storage.all_enabled):
            # What the feed told meanwhile is read again anyway.
            if record.kind in self._makers and self._is_ours(UserID(record.user_id)):
                pusher = Pusher.of(record)
                self._lines.put(pusher.key, self._makers[pusher.kind](pusher))

    async def _read_changed(self) -> None:
        while self._to_read:
            key = self._to_read.pop()
            record = await self._database.read(storage.find, key)
            if record is None or not record.enabled or record.kind not in self._makers:
                self._drop(key)
            else:
                self._set(Pusher.of(record))

    async def _find_lost(self) -> None:
        """Look for whom something waits of which nobody here was told."""
        if not self._lost_some:
            return
        self._lost_some = False
        for user_id in await self._database.read(storage.waiting_users):
            for line in self._lines.of_user(user_id):
                line.look_again()
                self._begin(line)

    def _set(self, pusher: Pusher) -> None:
        line = self._lines.find(pusher.key)
        if line is not None and line.pusher.kind != pusher.kind:
            self._drop(pusher.key)
            line = None
        if line is not None:
            line.replace(pusher)
        else:
            line = self._makers[pusher.kind](pusher)
            self._lines.put(pusher.key, line)
        self._begin(line)

    def _drop(self, key: PusherKey) -> None:
        line = self._lines.pop(key)
        if line is not None:
            line.end()
        self._to_start.pop(key, None)
        self._positions.note_moved(key.user_id)

    def _begin(self, line: PusherLine) -> None:
        if not line.is_working:
            self._to_start[line.pusher.key] = line
        self._wake.set()

    def _start(self, nursery: trio.Nursery) -> None:
        lines, self._to_start = list(self._to_start.values()), {}
        for line in lines:
            if not line.is_working:
                line.is_working = True
                nursery.start_soon(self._work, line)

    async def _work(self, line: PusherLine) -> None:
        try:
            while line.has_news and not line.is_over:
                line.has_news = False
                await self._work_once(line)
        finally:
            line.is_working = False

    async def _work_once(self, line: PusherLine) -> None:
        try:
            await line.work()
        except DatabaseError as error:
            log.warning("pushing to %s goes on in a moment: %s", line.pusher.user_id, error)
            await _rest(line, AGAIN_S)
        except Exception:
            # One pusher's trouble is none of the others'.
            log.exception("pushing to %s failed; it goes on in a moment", line.pusher.user_id)
            await _rest(line, AFTER_FAULT_S)

    # Following the feed

    def _on_pushers(self, batch: Batch[PusherRow]) -> None:
        if not self._is_running:
            return
        for _, row in batch.rows:
            if self._is_ours(UserID(row.user_id)):
                self._to_read.add(PusherKey(row.user_id, row.app_id, row.pushkey))
                self._wake.set()

    def _on_pushes(self, batch: Batch[PushesRow]) -> None:
        if not self._is_running:
            return
        if batch.reset:
            self._lost_some = True
            self._wake.set()
            return
        for _, row in batch.rows:
            for push in row.pushes:
                self._add(push)

    def _add(self, push: QueuedPush) -> None:
        by_user = self._lines.by_user
        for user_id in push.user_ids:
            if user_id in by_user:
                one = Push(
                    user_id,
                    push.seq,
                    push.stream_id,
                    push.room_id,
                    push.event_id,
                    push.thread_id,
                    push.actions,
                    push.added_ms,
                )
                for line in by_user[user_id].values():
                    line.add(one)
                    self._begin(line)

    def _on_receipts(self, batch: Batch[ReceiptRow]) -> None:
        for _, row in batch.rows:
            for line in self._lines.of_user(row.user_id):
                line.note_read()
                self._begin(line)


async def _rest(line: PusherLine, pause_s: float) -> None:
    await trio.sleep(pause_s)
    line.look_again()
