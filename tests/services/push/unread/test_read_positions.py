"""How far users have read: marks that are delivered before they are stored."""

from typing import Any

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

from hs.core.ids import RoomID, UserID
from hs.core.streams import UnreadRow
from hs.services.push.evaluation.result_store import Progress
from hs.services.push.unread.read_positions import ReadPositionReader
from hs.services.push.unread.stored_progress import StoredProgress
from hs.storage.push import push_rules as storage

USER, ROOM = UserID("@user:test.example"), RoomID("!room:test.example")
MARK = (str(USER), str(ROOM), "", 500)


@attrs.define(eq=False)
class SlowMarks:
    """A database without marks; each read returns once it is released."""

    released: list[trio.Event] = attrs.Factory(list)

    async def read(self, unit: Any, *args: Any) -> Any:
        assert unit is storage.list_marks
        self.released.append(trio.Event())
        await self.released[-1].wait()
        return []


class NoReceipts:
    """Receipts of users who have sent none."""

    async def of_rooms(self, room_ids: Any) -> dict[Any, Any]:
        return {}


@attrs.define(eq=False)
class Reading:
    """A process that reads positions, and the stream `unread` that it follows."""

    table: SlowMarks
    progress: StoredProgress
    reader: ReadPositionReader

    def announce(self, position: int) -> None:
        """Deliver a row with the mark, which is not stored yet."""
        self.reader.add_mark(MARK)
        self.progress.add(position, UnreadRow("main", 500, marks=(MARK,), stored=1))

    def marked(self) -> int:
        return self.reader.joined_at_nowait(USER, ROOM)


class Evaluation:
    """The evaluating process, which has stored everything up to 1."""

    async def flush(self) -> Progress:
        return Progress(1, "0")


def make_reading() -> Reading:
    table: Any = SlowMarks()
    receipts: Any = NoReceipts()
    progress = StoredProgress(table, Evaluation())
    return Reading(table, progress, ReadPositionReader(table, receipts, progress))


async def test_mark_delivered_before_a_read_is_in_its_result() -> None:
    reading = make_reading()
    reading.announce(2)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reading.reader.load, USER, [ROOM])
        await wait_all_tasks_blocked()
        reading.table.released[0].set()

    assert reading.marked() == 500


async def test_mark_delivered_during_a_read_that_is_cancelled_is_in_the_result_of_the_next() -> (
    None
):
    reading = make_reading()
    first = trio.CancelScope()

    async def load_cancelled() -> None:
        with first:
            await reading.reader.load(USER, [ROOM])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(load_cancelled)
        await wait_all_tasks_blocked()
        nursery.start_soon(reading.reader.load, USER, [ROOM])  # it joins the read of the first
        await wait_all_tasks_blocked()
        reading.announce(2)
        first.cancel()
        await wait_all_tasks_blocked()
        reading.table.released[1].set()

    assert reading.marked() == 500


async def test_mark_delivered_during_a_read_that_starts_over_is_in_its_result() -> None:
    reading = make_reading()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reading.reader.load, USER, [ROOM])
        await wait_all_tasks_blocked()
        reading.announce(2)
        reading.reader.clear()  # as when the evaluating process answers after a guess
        reading.table.released[0].set()
        await wait_all_tasks_blocked()
        reading.table.released[1].set()

    assert reading.marked() == 500
