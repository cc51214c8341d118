"""Unread counts of rooms that passed from one writer of events to another.

The positions up to which results are stored differ between the writers, and say little about the
room: its last notification may be that of either.
"""

import attrs

from hs.core.ids import RoomID
from hs.core.push.unread import Count, RoomCounts
from hs.core.streams import UNREAD, Unread, UnreadRow
from hs.repl.feed import Batch, Feed
from hs.services.push.evaluation.result_store import Progress
from hs.services.push.unread.unread_counts import UnreadCounts
from hs.storage.database import Database
from hs.storage.push import push_rules as storage
from hs.storage.push.push_rules import Evaluated, OutcomeRecord
from tests.support.rooms import ALICE, BOB
from tests.support.unread import UnreadScene, open_unread

BEGIN = 1000
"""A stream ID above all that the room has."""


@attrs.define
class Evaluation:
    """The evaluating process, in place of a real one: it announces and stores what the test says.

    `counts` are those of a process that has just begun to follow it.
    """

    unread: UnreadScene
    room_id: RoomID
    evaluated: str
    feed: Feed = attrs.Factory(Feed)
    counts: UnreadCounts = attrs.field(init=False)
    announced: list[tuple[int, str]] = attrs.Factory(list)
    stored: int = 0

    def __attrs_post_init__(self) -> None:
        receipts = self.unread.services.ephemeral.receipts
        self.counts = UnreadCounts(self.unread.world.database, self.feed, receipts, self)

    async def flush(self) -> Progress:
        """Store what was announced; the flush of a real evaluation does it as well."""
        outcomes = [
            OutcomeRecord(
                stream_id=stream_id,
                room_id=self.room_id,
                thread_id="main",
                sender=ALICE,
                notify=1,
                highlight=0,
                actions="[]",
            )
            for stream_id, _ in self.announced[self.stored :]
        ]
        results = Evaluated(outcomes, [], [], [], self.evaluated)
        await self.unread.world.database.write(storage.store_results, results)
        self.stored = len(self.announced)
        return Progress(self.stored, self.evaluated)

    def announce(self, stream_id: int, writer: str) -> None:
        """Announce a notification in the room, by an event of a writer."""
        row = UnreadRow(
            writer,
            stream_id,
            unread=(
                Unread(
                    stream_id=stream_id,
                    room_id=self.room_id,
                    event_id=f"${stream_id}",
                    thread_id="main",
                    sender=ALICE,
                    notify=True,
                    highlight=False,
                ),
            ),
        )
        self.announced.append((stream_id, writer))
        position = len(self.announced)
        self.feed.deliver(Batch(UNREAD, "main", position - 1, position, [(position, row)]))

    async def count(self) -> Count:
        """Return the unread notifications of Bob."""
        counts = await self.counts.counts(BOB, [self.room_id])
        return counts.get(self.room_id, RoomCounts()).main


async def scene(unread: UnreadScene, *evaluated: int) -> Evaluation:
    """Return an evaluation whose stored position is that of two writers, `first` and `second`."""
    room_id = await unread.world.create_room(ALICE, join=[BOB])
    await unread.settle()
    ahead = "".join(
        f"~{writer}.{BEGIN + number}"
        for writer, number in zip(("first", "second"), evaluated, strict=True)
    )
    return Evaluation(unread, room_id, f"{BEGIN}{ahead}")


async def test_notification_of_the_last_holder_is_counted_though_the_next_is_behind(
    database: Database,
) -> None:
    async with open_unread(database) as unread:
        evaluation = await scene(unread, 21, 20)
        evaluation.announce(BEGIN + 21, "first")

        assert await evaluation.count() == Count(1, 0)
        evaluation.announce(BEGIN + 22, "second")
        assert await evaluation.count() == Count(2, 0)


async def test_notification_below_the_position_of_another_writer_is_counted(
    database: Database,
) -> None:
    async with open_unread(database) as unread:
        evaluation = await scene(unread, 10, 30)
        assert await evaluation.count() == Count(0, 0)

        evaluation.announce(BEGIN + 15, "first")
        assert await evaluation.count() == Count(1, 0)
        evaluation.announce(BEGIN + 31, "second")
        assert await evaluation.count() == Count(2, 0)
