"""Long answers let other tasks run: the places where they yield grow with the units of work."""

import math
from collections.abc import Awaitable, Callable
from itertools import count

import attrs
import msgspec
import pytest
import trio

from hs.core.ids import RoomID, UserID
from hs.core.requester import Requester
from hs.lib import time_slice
from hs.services.rooms.creation.initial_events import InitialState, NewRoomRequest
from hs.services.rooms.read import room_state
from hs.services.rooms.read.room_state import MembersRequest
from hs.services.sync import rooms_section
from hs.services.sync.sliding import rooms_response
from hs.services.sync.sliding.request import SlidingRequest
from hs.storage.database import Database
from tests.support.rooms import ALICE, member
from tests.support.sliding import window
from tests.support.syncing import Syncing, open_syncing

PART = 10
DEVICES = (f"DEVICE{number}" for number in count())


@attrs.define(eq=False)
class Steps(trio.abc.Instrument):
    """Counts how often a task went on after others could run."""

    task: trio.lowlevel.Task
    count: int = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += task is self.task


@attrs.frozen
class Yields:
    """Counts where an operation yields although it waits for nothing."""

    monkeypatch: pytest.MonkeyPatch

    async def of(self, operation: Callable[[], Awaitable[object]]) -> int:
        """Return how many more steps an operation takes if it yields wherever it may."""
        await operation()  # so that all that it needs is in memory
        steps = []
        for max_s in (math.inf, 0.0):
            self.monkeypatch.setattr(time_slice, "MAX_S", max_s)
            counter = Steps(trio.lowlevel.current_task())
            trio.lowlevel.add_instrument(counter)
            try:
                await operation()
            finally:
                trio.lowlevel.remove_instrument(counter)
            steps.append(counter.count)
        return steps[1] - steps[0]


@pytest.fixture
def yields(monkeypatch: pytest.MonkeyPatch) -> Yields:
    monkeypatch.setattr(room_state, "EVENTS_AT_ONCE", PART)
    monkeypatch.setattr(rooms_section, "EVENTS_AT_ONCE", PART)
    monkeypatch.setattr(rooms_section, "ROOMS_AT_ONCE", PART)
    monkeypatch.setattr(rooms_response, "ROOMS_AT_ONCE", PART)
    monkeypatch.setattr(time_slice, "PARTS_AT_ONCE", PART)
    return Yields(monkeypatch)


async def large_room(s: Syncing, members: int) -> RoomID:
    users = [UserID(f"@user{number}:test.example") for number in range(members)]
    room_id = await s.world.create_room(ALICE)
    await s.world.append(room_id, *[member(user_id, "join") for user_id in users])
    return room_id


@pytest.mark.parametrize("members", [200, 400])
async def test_members_of_a_large_room_are_read_in_parts(
    database: Database, yields: Yields, members: int
) -> None:
    async with open_syncing(database) as s:
        request = MembersRequest(await large_room(s, members))
        state = s.services.reading.state

        count_of_yields = await yields.of(
            lambda: state.members(Requester(ALICE, "DEVICE"), request)
        )

        assert count_of_yields >= members // PART


@pytest.mark.parametrize("members", [200, 400])
async def test_first_sync_of_a_large_room_is_rendered_in_parts(
    database: Database, yields: Yields, members: int
) -> None:
    async with open_syncing(database) as s:
        await large_room(s, members)

        count_of_yields = await yields.of(lambda: s.sync(ALICE, device_id=next(DEVICES)))

        assert count_of_yields >= members // PART


async def test_first_sync_of_many_rooms_yields_after_each(
    database: Database, yields: Yields
) -> None:
    async with open_syncing(database) as s:
        rooms = 40
        for _ in range(rooms):
            await s.world.create_room(ALICE)

        count_of_yields = await yields.of(lambda: s.sync(ALICE, device_id=next(DEVICES)))

        assert count_of_yields >= rooms


async def test_first_sync_of_many_rooms_yields_between_sections_and_while_it_is_joined(
    database: Database, yields: Yields
) -> None:
    async with open_syncing(database) as s:
        rooms, sections = 40, 2
        for _ in range(rooms):
            await s.world.create_room(ALICE)
        selected_stated_rendered = 3 * rooms
        parts_of_rooms = 4 * rooms

        count_of_yields = await yields.of(lambda: s.sync(ALICE, device_id=next(DEVICES)))

        assert count_of_yields >= selected_stated_rendered + sections + parts_of_rooms // PART


async def test_sliding_sync_of_many_rooms_yields_after_each_part(
    database: Database, yields: Yields
) -> None:
    async with open_syncing(database) as s:
        rooms = 40
        for _ in range(rooms):
            await s.world.create_room(ALICE)
        numbers = count()

        async def first_request() -> None:
            fields = {"conn_id": str(next(numbers)), "lists": window([0, rooms - 1], limit=1)}
            request = msgspec.convert(fields, SlidingRequest)
            await s.services.sync.sliding.sync(Requester(ALICE, "DEVICE"), request)

        assert await yields.of(first_request) >= rooms // PART


async def test_new_room_with_many_first_events_is_built_in_parts(
    database: Database, yields: Yields
) -> None:
    async with open_syncing(database) as s:
        events = 200
        state = [InitialState("test.entry", {}, str(number)) for number in range(events)]
        creation = s.services.creation.creation

        count_of_yields = await yields.of(
            lambda: creation.create(Requester(ALICE), NewRoomRequest(initial_state=state))
        )

        assert count_of_yields >= 2 * events
