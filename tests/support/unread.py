"""Evaluation of push rules and unread counts over a World."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from hs.core.ids import EventID, RoomID, UserID
from hs.core.push.defaults import PushFeatures
from hs.core.push.unread import RoomCounts
from hs.core.requester import Requester
from hs.core.streams import EVENTS, PUSH_RULES, PUSHES, RECEIPTS, UNREAD, ReceiptRow
from hs.repl.feed import Feed
from hs.repl.inproc import InProcHub
from hs.repl.memory_writer import MemoryWriter, epoch_at
from hs.repl.writers import TableWriter
from hs.services.ephemeral.read_markers import ReadingService
from hs.services.ephemeral.receipts import Receipts, ReceiptTable
from hs.services.ephemeral.room_receipts import READ
from hs.services.push.evaluation.custom_rules import UsersWithCustomRules
from hs.services.push.evaluation.evaluation_duty import EvaluationDuty, EvaluationStore
from hs.services.push.evaluation.event_evaluation import Evaluator
from hs.services.push.evaluation.ignored_users import IgnoringUsers
from hs.services.push.evaluation.push_queue import PushQueue
from hs.services.push.evaluation.thread_subscribers import ThreadSubscribers
from hs.services.push.evaluation.users_with_pushers import UsersWithPushers
from hs.services.push.rules.push_rules import PushRules, PushRuleService, RulesTable
from hs.services.push.unread.unread_counts import UnreadCounts
from hs.services.rooms.store.memberships import Memberships
from tests.support.rooms import SERVER, World

SOON_S = 60.0


class NoReadMarkers:
    """Read markers that are never stored, and activity that is ignored."""

    async def fully_read(self, user_id: UserID, room_id: RoomID) -> EventID | None:
        return None

    async def set_fully_read(self, user_id: UserID, room_id: RoomID, event_id: EventID) -> None:
        """Do nothing."""

    def note_active(self, user_id: UserID) -> None:
        """Do nothing."""


@attrs.define(eq=False)
class UnreadScene:
    """A process that evaluates push rules and counts unread messages."""

    world: World
    members: Memberships
    receipts: Receipts
    reading: ReadingService
    rules: PushRuleService
    duty: EvaluationDuty
    counting: UnreadCounts

    async def counts(self, user_id: UserID, *room_ids: RoomID) -> dict[RoomID, RoomCounts]:
        """Return a user's unread counts."""
        return await self.counting.counts(user_id, room_ids)

    async def count(self, user_id: UserID, room_id: RoomID) -> tuple[int, int]:
        """Return a user's notifications and highlights in a room, including threads."""
        counts = await self.counting.counts(user_id, [room_id])
        total = counts.get(room_id, RoomCounts()).total()
        return total.notifications, total.highlights

    async def threads(self, user_id: UserID, room_id: RoomID) -> dict[str, int]:
        """Return a user's notifications in a room by thread."""
        counts = (await self.counting.counts(user_id, [room_id])).get(room_id, RoomCounts())
        main = {"main": counts.main.notifications} if counts.main.notifications else {}
        return main | {root: count.notifications for root, count in counts.threads.items()}

    async def read(
        self,
        user_id: UserID,
        room_id: RoomID,
        event_id: EventID,
        thread_id: str | None = None,
        receipt_type: str = READ,
    ) -> None:
        """Send a receipt."""
        await self.reading.set_receipt(
            Requester(user_id), room_id, receipt_type, event_id, thread_id
        )

    async def settle(self) -> None:
        """Wait until all events so far are evaluated and the results are stored."""
        with trio.fail_after(SOON_S):
            while self.duty.waiting:
                await trio.lowlevel.checkpoint()
        await self.duty.flush()

    def another_counter(
        self,
        feed: Feed | None = None,
        database: Any = None,
        store: EvaluationStore | None = None,
    ) -> UnreadCounts:
        """Build the unread counts of a process that starts now."""
        feed = feed or self.world.feed
        return UnreadCounts(
            database or self.world.database,
            feed,
            Receipts(self.world.database, feed),
            store or self.duty,
            lambda room_id: self.world.ownership.owner(EVENTS, room_id),
        )


@asynccontextmanager
async def open_unread(
    world: World, hub: InProcHub | None = None, threads: ThreadSubscribers | None = None
) -> AsyncIterator[UnreadScene]:
    """Start the evaluation over a world."""
    database, feed, now_ms = world.database, world.feed, world.clock.now_ms
    async with trio.open_nursery() as nursery:
        transport = (hub or InProcHub()).join(feed)
        receipt_writer = TableWriter(RECEIPTS, "main", database, transport, now_ms)
        rules_writer = TableWriter(PUSH_RULES, "main", database, transport, now_ms)
        unread_writer = MemoryWriter(UNREAD, "main", transport, epoch_at(now_ms()))
        pushes_writer = MemoryWriter(PUSHES, "main", transport, epoch_at(now_ms()))
        members = Memberships(database, feed, SERVER)
        receipts = Receipts(database, feed)
        custom, ignoring = UsersWithCustomRules(database, feed), IgnoringUsers(database, feed)
        pushed = UsersWithPushers(database, feed)
        duty = EvaluationDuty(
            database=database,
            feed=feed,
            evaluator=Evaluator(
                events=world.events,
                states=world.states,
                members=members,
                custom=custom,
                ignoring=ignoring,
                pushed=pushed,
                threads=threads,
                features=PushFeatures(threads=threads is not None),
            ),
            custom=custom,
            ignoring=ignoring,
            events=world.events,
            members=members,
            writer=unread_writer,
            queue=PushQueue(database, pushes_writer, now_ms, pushed),
        )
        counting = _counts_of(world, receipts, duty)
        reading = _reading_of(world, members, receipts, receipt_writer)
        rules = PushRuleService(PushRules(database, feed), RulesTable(rules_writer))
        unread_writer.attach()
        pushes_writer.attach()
        await nursery.start(receipt_writer.run)
        await nursery.start(rules_writer.run)
        await nursery.start(duty.run)
        yield UnreadScene(
            world=world,
            members=members,
            receipts=receipts,
            reading=reading,
            rules=rules,
            duty=duty,
            counting=counting,
        )
        nursery.cancel_scope.cancel()


def _counts_of(world: World, receipts: Receipts, duty: EvaluationDuty) -> UnreadCounts:
    return UnreadCounts(
        world.database,
        world.feed,
        receipts,
        duty,
        lambda room_id: world.ownership.owner(EVENTS, room_id),
    )


def _reading_of(
    world: World, members: Memberships, receipts: Receipts, writer: TableWriter[ReceiptRow]
) -> ReadingService:
    no_markers = NoReadMarkers()
    return ReadingService(
        database=world.database,
        members=members,
        receipts=receipts,
        writer=ReceiptTable(writer),
        markers=no_markers,
        clock=world.clock,
        activity=no_markers,
    )
