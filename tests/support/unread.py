"""Evaluation of push rules and unread counts in a composed process.

async with open_unread(database) as unread:
    room_id = await unread.world.create_room(ALICE, join=[BOB])
    await unread.world.send(room_id, ALICE)
    assert await unread.count(BOB, room_id) == (1, 0)
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio

from hs.core.ids import EventID, RoomID, UserID
from hs.core.push.unread import RoomCounts
from hs.core.requester import Requester
from hs.lib.clock import FixedClock
from hs.lib.http_client import HttpClient
from hs.nursery.services import Services
from hs.services.ephemeral.room_receipts import READ
from hs.services.push.evaluation.evaluation_duty import EvaluationDuty
from hs.services.push.rules.push_rules import PushRuleService
from hs.services.push.unread.unread_counts import UnreadCounts
from hs.settings.sections.proposals import Experiments, ProposalSettings
from hs.settings.settings import Settings
from hs.storage.database import Database
from tests.support.composition import SETTINGS, Neighbourhood, open_process, worker_settings
from tests.support.rooms import World

SOON_S = 60.0
WITH_THREADS = attrs.evolve(
    SETTINGS,
    proposals=ProposalSettings(experimental_features=Experiments(thread_subscriptions=True)),
)
NAMES = ("main", "reader", "writer")


def settings_of(instance: str, *, writer: str = "main", evaluator: str = "main") -> Settings:
    """Return the settings of one of three processes; `writer` writes events."""
    return worker_settings(SETTINGS, instance, *NAMES, events=(writer,), unread=(evaluator,))


@attrs.frozen(eq=False)
class UnreadScene:
    """The unread counts of a process."""

    world: World
    neighbours: Neighbourhood

    @property
    def services(self) -> Services:
        """All services of the process."""
        return self.world.process.services

    @property
    def rules(self) -> PushRuleService:
        """The push rules of users."""
        return self.services.push.rule_service

    @property
    def duty(self) -> EvaluationDuty:
        """The evaluation."""
        duty = self.services.push.evaluation
        assert duty is not None, "this process does not evaluate"
        return duty

    @property
    def counting(self) -> UnreadCounts:
        """The unread counts."""
        return self.services.push.counts

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
        await self.services.ephemeral.reading.set_receipt(
            Requester(user_id), room_id, receipt_type, event_id, thread_id
        )

    @asynccontextmanager
    async def another_process(self) -> AsyncIterator["UnreadScene"]:
        """Start another process of the server, which has nothing in memory."""
        database, settings = self.world.database, settings_of("reader")
        async with open_unread(database, settings, self.neighbours) as elsewhere:
            yield elsewhere

    async def settle(self) -> None:
        """Wait until all events so far are evaluated and the results are stored."""
        with trio.fail_after(SOON_S):
            while self.duty.waiting:
                await trio.lowlevel.checkpoint()
        await self.duty.flush()


@asynccontextmanager
async def open_unread(
    database: Database,
    settings: Settings | None = None,
    neighbours: Neighbourhood | None = None,
    *,
    clock: FixedClock | None = None,
    http: HttpClient | None = None,
) -> AsyncIterator[UnreadScene]:
    """Start a process, by default `main`; another one afterwards is a restart."""
    settings, neighbours = settings or settings_of("main"), neighbours or Neighbourhood()
    async with open_process(
        database, settings, clock=clock, neighbours=neighbours, http=http
    ) as process:
        yield UnreadScene(World(process), neighbours)
