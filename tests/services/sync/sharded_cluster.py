"""Three processes of a server, of which two share out the writing of some streams."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import attrs

from hs.core.ids import RoomID, UserID
from hs.core.stream_def import StreamDef
from hs.lib.clock import FixedClock
from hs.repl.feed import Batch
from hs.storage.database import Database
from tests.support.composition import SETTINGS, Neighbourhood, worker_settings
from tests.support.rooms import ALICE
from tests.support.syncing import Syncing, news, open_syncing

WRITERS = ("one", "two")
NAMES = ("main", *WRITERS)


@attrs.frozen(eq=False)
class Cluster:
    """The processes; `main` writes none of the sharded streams."""

    main: Syncing
    first: Syncing
    second: Syncing

    @property
    def writers(self) -> dict[str, Syncing]:
        """The two writers by name."""
        return {"one": self.first, "two": self.second}

    def owner(self, stream: StreamDef[Any], key: str) -> str:
        """Return the name of the process that owns a key."""
        return self.main.process.base.ownership.owner(stream, key)

    def user_of(self, stream: StreamDef[Any], owner: str, number: int = 0) -> UserID:
        """Return a user whom a process owns; another one for each number."""
        users = (UserID(f"@user{n}:test.example") for n in range(1000))
        return [user for user in users if self.owner(stream, user) == owner][number]

    async def room_of(self, stream: StreamDef[Any], owner: str, *members: UserID) -> RoomID:
        """Create a room that a process owns, with Alice and these members."""
        for _ in range(100):
            room_id = await self.main.world.create_room(ALICE)
            if self.owner(stream, room_id) == owner:
                for user_id in members:
                    await self.main.world.join(room_id, user_id)
                return room_id
        raise AssertionError(f"no room of {owner}")


@asynccontextmanager
async def open_cluster(
    database: Database, *, clock: FixedClock | None = None, **writers: tuple[str, ...]
) -> AsyncIterator[Cluster]:
    """Start the processes; `writers` maps streams to their writers."""
    neighbours = Neighbourhood()
    async with AsyncExitStack() as stack:
        processes = [
            await stack.enter_async_context(
                open_syncing(
                    database,
                    worker_settings(SETTINGS, name, *NAMES, **writers),
                    clock=clock,
                    neighbours=neighbours,
                )
            )
            for name in NAMES
        ]
        yield Cluster(*processes)


def written(cluster: Cluster, stream: StreamDef[Any], key: str) -> set[tuple[str, str]]:
    """Return a set to which the writer and the key of every row are added from now on."""
    rows: set[tuple[str, str]] = set()

    def note(batch: Batch[Any]) -> None:
        rows.update((batch.writer, getattr(row, key)) for _, row in batch.rows)

    cluster.main.world.feed.subscribe(stream, note)
    return rows


async def sync_until(
    reader: Syncing, user_id: UserID, since: str, is_enough: Callable[[list[Any]], bool]
) -> tuple[list[dict[str, Any]], str]:
    """Sync until the responses are enough; return them and the last token."""
    responses: list[dict[str, Any]] = []
    for _ in range(20):
        response = await reader.sync(user_id, since, timeout_ms=5_000)
        responses.append(response)
        since = response["next_batch"]
        if is_enough(responses):
            return responses, since
    raise AssertionError(f"not enough: {responses}")


async def becomes_quiet(reader: Syncing, user_id: UserID, since: str) -> bool:
    """Return whether a client soon gets nothing more that it was sent already.

    What arrives while a response is made may be part of it and of the next one.
    """
    for _ in range(3):
        response = await reader.sync(user_id, since, set_presence="offline")
        if not news(response):
            return True
        since = response["next_batch"]
    return False
