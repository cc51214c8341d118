"""Push notifications over a World; deliveries are recorded instead of sent."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from hs.core.ids import EventID, RoomID, UserID
from hs.core.requester import Requester
from hs.core.streams import PUSHERS
from hs.repl.inproc import InProcHub
from hs.repl.writers import TableWriter
from hs.services.push.evaluation.thread_subscribers import ThreadSubscribers
from hs.services.push.pushers.delivery import DeliveryResult, Push, Pusher
from hs.services.push.pushers.http_pusher import HttpPusher, HttpPusherDependencies
from hs.services.push.pushers.pusher_duty import PusherDuty, PusherFactory
from hs.services.push.pushers.pusher_positions import PusherPositions
from hs.services.push.pushers.pusher_table import PusherTable
from hs.services.push.pushers.pushers import HTTP, Pushers
from hs.storage.database import Database
from tests.support.rooms import World
from tests.support.unread import UnreadScene, open_unread

URL = "https://push.example.org/_matrix/push/v1/notify"
WAIT_S = 60.0


def pusher_body(pushkey: str = "key", **more: Any) -> dict[str, Any]:
    """Return the request body to set a pusher."""
    return {
        "kind": "http",
        "app_id": "org.example.app",
        "pushkey": pushkey,
        "app_display_name": "App",
        "device_display_name": "Phone",
        "lang": "en",
        "data": {"url": URL},
        **more,
    }


@attrs.define(eq=False)
class RecordingDelivery:
    """A gateway that records deliveries and returns the configured results."""

    delivered_events: list[tuple[str, EventID]] = attrs.Factory(list)
    attempts: int = 0
    results: list[DeliveryResult] = attrs.Factory(list)
    badges: list[str] = attrs.Factory(list)
    actions: list[str] = attrs.Factory(list)
    _changed: trio.Event = attrs.Factory(trio.Event)

    async def deliver(self, pusher: Pusher, push: Push) -> DeliveryResult:
        """Record a notification."""
        await trio.lowlevel.checkpoint()
        self.attempts += 1
        result = self.results.pop(0) if self.results else DeliveryResult.DELIVERED
        if result is DeliveryResult.DELIVERED:
            self.delivered_events.append((pusher.key.pushkey, EventID(push.event_id)))
            self.actions.append(push.actions)
        self._change()
        return result

    async def deliver_badge(self, pusher: Pusher, shown: int | None) -> int | None:
        """Record a badge update."""
        await trio.lowlevel.checkpoint()
        self.badges.append(pusher.key.pushkey)
        self._change()
        return shown

    def events(self, pushkey: str = "key") -> list[EventID]:
        """Return the events delivered to a pusher."""
        return [event_id for key, event_id in self.delivered_events if key == pushkey]

    async def wait_until(self, holds: Callable[[], bool]) -> None:
        """Wait until a condition on the deliveries holds."""
        with trio.fail_after(WAIT_S):
            while not holds():
                await self._changed.wait()

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


@attrs.define(eq=False)
class PushScene:
    """A process with pushers that evaluates push rules and sends notifications."""

    world: World
    unread: UnreadScene
    table: PusherTable
    pushers: Pushers
    positions: PusherPositions
    sending: PusherDuty
    delivered: RecordingDelivery

    async def set_pusher(self, user_id: UserID, pushkey: str = "key", **more: Any) -> None:
        """Set a pusher as a client does."""
        device_id = more.pop("device_id", "PHONE")
        requester = Requester(user_id, device_id)
        await self.pushers.change(requester, pusher_body(pushkey, **more))

    async def say(self, room_id: RoomID, sender: UserID, body: str = "hello") -> EventID:
        """Send a message; its push results are stored on return."""
        self.world.clock.advance(1)
        sent = await self.world.send(room_id, sender, body)
        await self.unread.settle()
        return sent.event_id


@asynccontextmanager
async def open_pushing(
    world: World,
    *,
    hub: InProcHub | None = None,
    delivered: RecordingDelivery | None = None,
    is_ours: Callable[[UserID], bool] = lambda user_id: True,
    is_sending: bool = True,
    at_once: int = 10,
    threads: ThreadSubscribers | None = None,
) -> AsyncIterator[PushScene]:
    """Start the push services over a world; without `is_sending` nothing is delivered."""
    hub = hub or InProcHub()
    database: Database = world.database
    writer = TableWriter(PUSHERS, "main", database, hub.join(world.feed), world.clock.now_ms)
    table = PusherTable(writer, world.clock)
    positions = PusherPositions(database)
    gateway = delivered or RecordingDelivery()
    slots, slow_slots = trio.CapacityLimiter(at_once), trio.CapacityLimiter(at_once)
    tools = HttpPusherDependencies(
        database=database,
        positions=positions,
        writer=table,
        clock=world.clock,
        slots=slots,
        slow_slots=slow_slots,
        jitter_ms=0,
    )

    def make(pusher: Pusher) -> HttpPusher:
        return HttpPusher(pusher, gateway, tools)

    makers: dict[str, PusherFactory] = {HTTP: make}
    sending = PusherDuty(database, world.feed, positions, makers, is_ours)
    async with open_unread(world, hub, threads) as unread, trio.open_nursery() as nursery:
        await nursery.start(writer.run)
        pushers = Pushers(database, table, True)
        scene = PushScene(
            world=world,
            unread=unread,
            table=table,
            pushers=pushers,
            positions=positions,
            sending=sending,
            delivered=gateway,
        )
        if is_sending:
            nursery.start_soon(sending.run)
        yield scene
        nursery.cancel_scope.cancel()
