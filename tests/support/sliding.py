"""Sliding sync over a World."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import msgspec
import orjson

from hs.core.ids import RoomID, UserID
from hs.core.requester import Requester
from hs.repl.inproc import InProcHub
from hs.repl.ownership import Topology
from hs.services.rooms.append.event_builder import random_opaque
from hs.services.rooms.read.timelines import Timelines
from hs.services.rooms.threads.thread_subscriptions import ThreadSubscriptions
from hs.services.sync.assembly import RoomReaders, SyncSources
from hs.services.sync.notifier import Notifier
from hs.services.sync.sliding.assembly import make_sliding_sync
from hs.services.sync.sliding.request import SlidingRequest
from hs.services.sync.sliding.sliding_sync import SlidingSync
from hs.storage.database import Database
from tests.support.reading import ReadingScene, readers_of, timelines_of
from tests.support.rooms import World, make_world, open_world
from tests.support.syncing import PresenceTable, Tables

Answer = dict[str, Any]


def window(
    *ranges: Sequence[int],
    state: Sequence[Sequence[str]] = (),
    limit: int = 10,
    **more: Any,
) -> Answer:
    """Return the `lists` parameter with one list, `all`."""
    return {
        "all": {
            "ranges": list(ranges) or [[0, 99]],
            "required_state": list(state),
            "timeline_limit": limit,
            **more,
        }
    }


@attrs.define(eq=False)
class Sliding:
    """A process that serves sliding sync."""

    world: World
    reading: ReadingScene
    tables: Tables
    notifier: Notifier
    service: SlidingSync

    async def sync(
        self,
        user_id: UserID,
        pos: str | None = None,
        *,
        lists: Answer | None = None,
        timeout_ms: int = 0,
        device_id: str | None = "DEVICE",
        **more: Any,
    ) -> Answer:
        """Send a request and return the parsed response; by default for one list of all rooms."""
        fields = {"lists": window() if lists is None else lists, **more}
        request = msgspec.convert({"pos": pos, "timeout_ms": timeout_ms, **fields}, SlidingRequest)
        response: Answer = orjson.loads(
            await self.service.sync(Requester(user_id, device_id), request)
        )
        return response


@asynccontextmanager
async def open_sliding(database: Database) -> AsyncIterator[Sliding]:
    """Open a world and build sliding sync over it."""
    async with open_world(database) as world:
        yield make_sliding(world)


@asynccontextmanager
async def open_two(database: Database) -> AsyncIterator[tuple[Sliding, Sliding]]:
    """Start a writer and a read-only process, both serving sliding sync."""
    hub = InProcHub()
    async with open_world(database, hub=hub) as world:
        topology = Topology("reader", "main")
        reader = make_world(database, world.clock, hub, topology, 1024 * 1024, random_opaque)
        yield make_sliding(world), make_sliding(reader)


def make_sliding(
    world: World, threads: Callable[[Timelines], ThreadSubscriptions] | None = None
) -> Sliding:
    """Build sliding sync over a world, before its first event or after a restart."""
    reading = readers_of(world)
    subscriptions = None if threads is None else threads(timelines_of(reading))
    tables = Tables(world.feed)
    readers = RoomReaders(
        world.database,
        world.feed,
        world.events,
        world.states,
        reading.memberships,
        reading.tails,
        reading.rendering,
        reading.visibility,
    )
    sources = SyncSources(
        account_data=tables,
        push_rules=tables,
        filters=tables,
        receipts=tables,
        typing=tables,
        presence=PresenceTable(tables),
        counts=tables,
    )
    notifier = Notifier(world.feed)
    service = make_sliding_sync(readers, sources, notifier, world.clock, threads=subscriptions)
    return Sliding(world, reading, tables, notifier, service)


def bodies(room: Answer) -> list[str]:
    """Return the texts in a room's timeline."""
    return [event["content"]["body"] for event in room["timeline"] if "body" in event["content"]]


def keys(room: Answer) -> set[tuple[str, str]]:
    """Return the state keys of a room's required state."""
    return {(event["type"], event["state_key"]) for event in room.get("required_state", ())}


async def busy_rooms(world: World, owner: UserID, count: int) -> list[RoomID]:
    """Create rooms with one message each; the most recently active room is the last."""
    rooms = []
    for n in range(count):
        room_id = await world.create_room(owner)
        await world.send(room_id, owner, f"m{n}")
        rooms.append(room_id)
    return rooms
