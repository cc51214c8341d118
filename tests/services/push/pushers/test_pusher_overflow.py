"""Pushers send although more of them have something to send than fit into the duty's queue."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from hs.core.streams import PUSHERS, PUSHES, RECEIPTS, PusherRow, ReceiptRow
from hs.repl.calls.reply import RpcUnavailable
from hs.repl.feed import Batch, Feed
from hs.services.push.pushers import pusher_duty
from hs.services.push.pushers.delivery import Push, Pusher
from hs.services.push.pushers.pusher_duty import PusherDuty
from hs.services.push.pushers.pusher_positions import PusherPositions
from hs.storage.database import Database, DatabaseUnavailable, Tx
from hs.storage.push import pushers as storage
from hs.storage.push.pushers import PusherKey, PusherRecord, QueueRecord

MAX_WAITING = 3
USERS = tuple(f"@user{n}:test.example" for n in range(5))


@pytest.fixture(autouse=True)
def _short_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pusher_duty, "MAX_WAITING", MAX_WAITING)
    monkeypatch.setattr(pusher_duty, "USERS_AT_ONCE", 2)


@attrs.define(eq=False)
class SentPushes:
    """The notifications that lines have sent: (user, number)."""

    numbers: list[tuple[str, int]] = attrs.Factory(list)
    _changed: trio.Event = attrs.Factory(trio.Event)

    def add(self, user_id: str, number: int) -> None:
        if (user_id, number) not in self.numbers:
            self.numbers.append((user_id, number))
            self._changed.set()
            self._changed = trio.Event()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until a condition holds."""
        with trio.fail_after(60):
            while not holds():
                await self._changed.wait()


@attrs.define(eq=False)
class RecordingLine:
    """A RunningPusher that records what it reads in the table."""

    pusher: Pusher
    database: Database
    sent: SentPushes
    looked_again: int = 0
    badges: int = 0
    is_badge_outdated: bool = False
    failures: list[Exception] = attrs.Factory(list)
    is_working: bool = False
    has_news: bool = True
    is_over: bool = False

    def replace(self, pusher: Pusher) -> None:
        self.pusher = pusher

    def add(self, push: Push) -> None:
        self.has_news = True

    def look_again(self) -> None:
        self.looked_again += 1
        self.has_news = True

    def note_read(self) -> None:
        self.has_news = self.is_badge_outdated = True

    async def work(self) -> None:
        if self.failures:
            raise self.failures.pop()
        if self.is_badge_outdated:
            self.is_badge_outdated = False
            self.badges += 1
        user_id = self.pusher.key.user_id
        for push in await self.database.read(storage.list_queued, user_id, 0, 100):
            self.sent.add(user_id, push.seq)

    def end(self) -> None:
        self.is_over = True


@attrs.define(eq=False)
class PusherScene:
    """A PusherDuty over a feed and a database, with recording lines."""

    database: Database
    feed: Feed = attrs.Factory(Feed)
    sent: SentPushes = attrs.Factory(SentPushes)
    lines: list[RecordingLine] = attrs.Factory(list)
    failures: list[Exception] = attrs.Factory(list)

    def make_line(self, pusher: Pusher) -> RecordingLine:
        line = RecordingLine(pusher, self.database, self.sent, failures=self.failures)
        self.lines.append(line)
        return line

    async def store(self, user_id: str, number: int) -> None:
        """Store a notification."""
        record = QueueRecord(
            user_id, number, stream_id=1, room_id="!r", event_id="$e",
            thread_id="", actions="[]", added_ms=0,
        )  # fmt: skip
        await self.database.write(storage.add_to_queue, [record])

    async def set_pusher(self, user_id: str) -> None:
        """Store a pusher, without a row."""
        record = PusherRecord(
            user_id, "app", "key", kind="http", app_display_name="", device_display_name="",
            profile_tag="", lang="en", data="{}", enabled=1, device_id="", set_ms=0, position=0,
        )  # fmt: skip
        await self.database.write(storage.put, record)

    def read_by(self, *user_ids: str) -> None:
        """Deliver receipts of users, each of which starts their lines."""
        for user_id in user_ids:
            before = self.feed.position_of(RECEIPTS, "main") or 0
            row = ReceiptRow("!r", "m.read", user_id, "$e", thread_id=None, ts=0)
            self.feed.deliver(Batch(RECEIPTS, "main", before, before + 1, [(before + 1, row)]))

    def change_pushers(self, *user_ids: str) -> None:
        """Deliver rows of changed pushers."""
        for user_id in user_ids:
            before = self.feed.position_of(PUSHERS, "main") or 0
            row = PusherRow(user_id, "app", "key")
            self.feed.deliver(Batch(PUSHERS, "main", before, before + 1, [(before + 1, row)]))


@asynccontextmanager
async def running(scene: PusherScene) -> AsyncIterator[PusherDuty]:
    """Run the duty of a scene."""
    duty = PusherDuty(
        scene.database,
        scene.feed,
        PusherPositions(scene.database),
        {"http": scene.make_line},
        lambda user_id: True,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(duty.run)
        yield duty
        nursery.cancel_scope.cancel()


async def test_stored_notifications_are_sent_although_more_users_have_some_than_fit(
    database: Database,
) -> None:
    scene = PusherScene(database)
    for user_id in USERS:
        await scene.set_pusher(user_id)
        await scene.store(user_id, 1)

    async with running(scene):
        await scene.sent.until(lambda: len(scene.sent.numbers) == len(USERS))

    assert sorted(scene.sent.numbers) == [(user_id, 1) for user_id in USERS]


async def test_an_overflow_reads_the_tables_and_the_run_goes_on(database: Database) -> None:
    scene = PusherScene(database)
    for user_id in USERS:
        await scene.set_pusher(user_id)
        await scene.store(user_id, 1)
    async with running(scene):
        await scene.sent.until(lambda: len(scene.sent.numbers) == len(USERS))
        for user_id in USERS:
            await scene.store(user_id, 2)

        scene.read_by(*USERS)

        await scene.sent.until(lambda: len(scene.sent.numbers) == 2 * len(USERS))
        await scene.store(USERS[0], 3)
        scene.read_by(USERS[0])
        await scene.sent.until(lambda: (USERS[0], 3) in scene.sent.numbers)


async def test_changes_of_pushers_that_did_not_fit_are_read_from_the_table(
    database: Database,
) -> None:
    scene = PusherScene(database)
    for user_id in USERS[:2]:
        await scene.set_pusher(user_id)
        await scene.store(user_id, 1)
    async with running(scene):
        await scene.sent.until(lambda: len(scene.sent.numbers) == 2)
        await database.write(storage.delete, PusherKey(USERS[0], "app", "key"))
        for user_id in USERS[2:]:
            await scene.set_pusher(user_id)
        for user_id in USERS:
            await scene.store(user_id, 2)

        scene.change_pushers(*USERS)

        await scene.sent.until(lambda: len(scene.sent.numbers) >= 6)
        assert sorted(scene.sent.numbers[2:]) == [
            (USERS[1], 2),
            *((user_id, 2) for user_id in USERS[2:]),
        ]


async def test_lines_read_the_table_before_the_feed_adds_to_them_after_a_gap(
    database: Database,
) -> None:
    """Otherwise a line could send what comes after the gap, and so skip what was in it."""
    scene = PusherScene(database)
    await scene.set_pusher(USERS[0])
    await scene.store(USERS[0], 1)
    async with running(scene):
        await scene.sent.until(lambda: len(scene.sent.numbers) == 1)
        (line,) = scene.lines
        before = line.looked_again

        scene.feed.deliver(Batch(PUSHES, "main", 0, 9, [], reset=True))

        assert line.looked_again == before + 1


@pytest.mark.parametrize(
    "failure", [DatabaseUnavailable("no connection"), RpcUnavailable("sync1", "it does not run")]
)
async def test_pusher_goes_on_soon_after_another_process_was_unavailable(
    database: Database,
    failure: Exception,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(pusher_duty, "AGAIN_S", 0.01)
    scene = PusherScene(database, failures=[failure])
    await scene.set_pusher(USERS[0])
    await scene.store(USERS[0], 1)

    async with running(scene):
        await scene.sent.until(lambda: len(scene.sent.numbers) == 1)

    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_after_an_overflow_lines_read_the_table_before_the_feed_adds_to_them(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a line could send what is added, and so skip what the feed did not add."""
    scene = PusherScene(database)
    looked_again: list[int] = []
    list_enabled = storage.list_enabled

    async def note_and_list(tx: Tx) -> list[PusherRecord]:
        looked_again.extend(line.looked_again for line in scene.lines)
        return await list_enabled(tx)

    monkeypatch.setattr(storage, "list_enabled", note_and_list)
    for user_id in USERS:
        await scene.set_pusher(user_id)
    await scene.store(USERS[0], 1)
    async with running(scene):
        await scene.sent.until(lambda: bool(scene.sent.numbers))
        await scene.store(USERS[0], 2)

        scene.read_by(*USERS)

        await scene.sent.until(lambda: len(scene.sent.numbers) == 2)
    assert looked_again == [2, 1, 1, 1, 1]


async def test_all_badges_are_updated_although_more_users_read_than_fit(
    database: Database,
) -> None:
    """Users for whom no notification is stored; the others are started by it."""
    scene = PusherScene(database)
    for user_id in USERS:
        await scene.set_pusher(user_id)
    async with running(scene):
        await scene.set_pusher("@last:test.example")
        await scene.store("@last:test.example", 1)
        scene.change_pushers("@last:test.example")
        await scene.sent.until(lambda: len(scene.sent.numbers) == 1)

        # The fourth overflows the queue, which refuses the fifth.
        scene.read_by(*USERS)

        with trio.fail_after(60):
            while sum(line.badges for line in scene.lines) < len(USERS):
                await trio.lowlevel.checkpoint()
    assert [line.badges for line in scene.lines] == [1] * len(USERS) + [0]
