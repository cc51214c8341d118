"""A composed process that serves sliding sync."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import msgspec
import orjson

from hs.core.ids import RoomID, UserID
from hs.core.requester import Requester
from hs.lib.clock import FixedClock
from hs.services.sync.sliding.request import SlidingRequest
from hs.settings.settings import Settings
from hs.storage.database import Database
from tests.support.composition import SETTINGS, Neighbourhood
from tests.support.rooms import World, open_world
from tests.support.syncing import SyncScene, main_and_reader

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


@attrs.frozen(eq=False)
class Sliding(SyncScene):
    """A process that serves sliding sync."""

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
        text = await self.services.sync.sliding.sync(Requester(user_id, device_id), request)
        response: Answer = orjson.loads(text)
        return response


@asynccontextmanager
async def open_sliding(
    database: Database,
    settings: Settings = SETTINGS,
    *,
    clock: FixedClock | None = None,
    neighbours: Neighbourhood | None = None,
) -> AsyncIterator[Sliding]:
    """Start a process; opening another on the same database afterwards is a restart."""
    async with open_world(database, settings, clock=clock, neighbours=neighbours) as world:
        yield Sliding(world)


@asynccontextmanager
async def open_two(database: Database) -> AsyncIterator[tuple[Sliding, Sliding]]:
    """Start the main process and a worker that writes nothing."""
    neighbours = Neighbourhood()
    main, reader = main_and_reader()
    async with (
        open_sliding(database, main, neighbours=neighbours) as first,
        open_sliding(database, reader, neighbours=neighbours, clock=first.world.clock) as second,
    ):
        yield first, second


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
