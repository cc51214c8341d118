"""Pairs of requests through different processes, of which none has the rows of the others yet."""

import random
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final
from urllib.parse import quote

import attrs
import pytest

from hs.core.ids import RoomID
from hs.repl import freshness
from hs.storage.database import Database
from hs.storage.rooms import memberships
from tests.support.composition import SETTINGS, worker_settings
from tests.support.late_rows import LateNeighbourhood
from tests.support.membership_outcomes import OUTCOMES, request_of
from tests.support.room_actions import Actions, open_actions
from tests.support.rooms import ALICE, BOB
from tests.support.web import WebResponse

V3: Final = "/_matrix/client/v3"
PROCESSES: Final = ("main", "first", "second")
WRITERS: Final = ("first", "second")
SEED: Final = 20_261_130
PAIRS: Final = 200
MANY_PAIRS: Final = 2_000


@attrs.frozen(eq=False)
class Scene:
    """Three processes, a room of Alice's, and the membership that Bob must have."""

    processes: Mapping[str, Actions]
    room_id: RoomID

    async def request(self, process: str, action: str) -> WebResponse:
        """Send one of the requests of OUTCOMES to a process."""
        method, path, content, token = request_of(action, self.room_id, BOB)
        client = self.processes[process].client()
        return await client.request(method, path, json=content, token=token)

    async def read(self, process: str) -> tuple[str | None, bool]:
        """Return Bob's membership and whether Bob sees the room among the joined rooms."""
        client = self.processes[process].client()
        path = f"{V3}/rooms/{quote(self.room_id)}/state/m.room.member/{quote(BOB)}"
        answer = await client.get(path, token="alice")
        membership = answer.json["membership"] if answer.status == 200 else None
        rooms = (await client.get(f"{V3}/joined_rooms", token="bob")).json["joined_rooms"]
        return membership, self.room_id in rooms

    async def stored(self) -> str | None:
        """Return Bob's membership as it is stored."""
        database = self.processes["main"].world.database
        return (await database.read(memberships.memberships_of, self.room_id, [BOB])).get(BOB)

    async def remember(self) -> None:
        """Have every process read what it may remember of Bob and of the room."""
        for process in PROCESSES:
            await self.read(process)
            await self.processes[process].memberships.rooms_of(BOB)
            await self.processes[process].world.states.current(self.room_id)

    async def check(self, process: str, action: str, before: str | None) -> str | None:
        """Send a request and check its outcome; return Bob's membership after it."""
        status, after = OUTCOMES[action](before)
        answer = await self.request(process, action)
        case = (action, "by", process, "with membership", before, answer.body)
        assert (answer.status, await self.stored()) == (status, after), case
        return after


@asynccontextmanager
async def open_scene(database: Database, **room: Any) -> AsyncIterator[Scene]:
    late = LateNeighbourhood()
    async with AsyncExitStack() as stack:
        processes: dict[str, Actions] = {}
        for name in PROCESSES:
            settings = worker_settings(SETTINGS, name, *PROCESSES, events=WRITERS)
            opened = open_actions(database, settings, neighbours=late)
            processes[name] = await stack.enter_async_context(opened)
        room_id = await processes["main"].world.create_room(ALICE, **room)
        yield Scene(processes, room_id)


@pytest.fixture(autouse=True)
def without_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freshness, "MESSAGE_S", 0.0)


@pytest.mark.parametrize("process", PROCESSES)
async def test_membership_change_after_one_through_another_process(
    database: Database, process: str
) -> None:
    async with open_scene(database) as scene:
        other = PROCESSES[PROCESSES.index(process) - 1]
        membership: str | None = None
        for first in OUTCOMES:
            for second in OUTCOMES:
                await scene.remember()
                membership = await scene.check(other, first, membership)
                membership = await scene.check(process, second, membership)


async def test_owner_is_called_once_for_a_change_and_not_for_nothing(database: Database) -> None:
    async with open_scene(database) as scene:
        process = scene.processes["main"].world.process
        assert process.base.cluster is not None
        calls = process.base.cluster.clients.calls
        counts = []

        for action in ("join", "join", "kick", "invite", "leave", "leave"):
            before = sum(tally.count for tally in calls.values())
            answer = await scene.request("main", action)
            assert answer.status == 200, answer.body
            counts.append(sum(tally.count for tally in calls.values()) - before)

        assert counts == [1, 0, 1, 1, 1, 0]


async def check_random_pairs(database: Database, pairs: int) -> None:
    rng = random.Random(SEED)
    async with open_scene(database) as scene:
        membership: str | None = None
        for _ in range(pairs):
            for _ in range(2):
                action, process = rng.choice(list(OUTCOMES)), rng.choice(PROCESSES)
                membership = await scene.check(process, action, membership)
            assert await scene.read(rng.choice(PROCESSES)) == (membership, membership == "join")


async def test_random_membership_changes_through_random_processes(database: Database) -> None:
    await check_random_pairs(database, PAIRS)


@pytest.mark.long
async def test_many_random_membership_changes_through_random_processes(database: Database) -> None:
    await check_random_pairs(database, MANY_PAIRS)
