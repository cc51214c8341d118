"""Long answers let other tasks run: the number of steps grows with the units of work.

Here, a time slice is over at once, so that a task yields wherever it may; what counts is that no
part of the work is done without such a place.
"""

from collections.abc import Awaitable, Callable
from itertools import count

import attrs
import pytest
import trio

from hs.core.ids import RoomID, UserID
from hs.core.requester import Requester
from hs.lib import time_slice
from hs.services.rooms.creation.initial_events import InitialState, NewRoomRequest
from hs.services.rooms.read import room_state
from hs.services.rooms.read.room_state import MembersRequest
from hs.services.sync import rooms_section
from hs.storage.database import Database
from tests.support.rooms import ALICE, member
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


@pytest.fixture(autouse=True)
def yield_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_slice, "MAX_S", 0.0)
    monkeypatch.setattr(room_state, "EVENTS_AT_ONCE", PART)
    monkeypatch.setattr(rooms_section, "EVENTS_AT_ONCE", PART)
    monkeypatch.setattr(rooms_section, "ROOMS_AT_ONCE", PART)


async def steps_of(operation: Callable[[], Awaitable[object]]) -> int:
    """Return the steps of an operation that finds in memory what it needs."""
    await operation()
    steps = Steps(trio.lowlevel.current_task())
    trio.lowlevel.add_instrument(steps)
    try:
        await operation()
    finally:
        trio.lowlevel.remove_instrument(steps)
    return steps.count


async def large_room(s: Syncing, members: int) -> RoomID:
    users = [UserID(f"@user{number}:test.example") for number in range(members)]
    room_id = await s.world.create_room(ALICE)
    await s.world.append(room_id, *[member(user_id, "join") for user_id in users])
    return room_id


@pytest.mark.parametrize("members", [200, 400])
async def test_members_of_a_large_room_are_read_in_parts(database: Database, members: int) -> None:
    async with open_syncing(database) as s:
        request = MembersRequest(await large_room(s, members))
        state = s.services.reading.state

        steps = await steps_of(lambda: state.members(Requester(ALICE, "DEVICE"), request))

        assert steps >= members // PART


@pytest.mark.parametrize("members", [200, 400])
async def test_first_sync_of_a_large_room_is_rendered_in_parts(
    database: Database, members: int
) -> None:
    async with open_syncing(database) as s:
        await large_room(s, members)

        steps = await steps_of(lambda: s.sync(ALICE, device_id=next(DEVICES)))

        assert steps >= members // PART


async def test_first_sync_of_many_rooms_yields_after_each(database: Database) -> None:
    async with open_syncing(database) as s:
        rooms = 40
        for _ in range(rooms):
            await s.world.create_room(ALICE)

        steps = await steps_of(lambda: s.sync(ALICE, device_id=next(DEVICES)))

        assert steps >= rooms


async def test_new_room_with_many_first_events_is_built_in_parts(database: Database) -> None:
    async with open_syncing(database) as s:
        events = 200
        state = [InitialState("test.entry", {}, str(number)) for number in range(events)]
        creation = s.services.creation.creation

        steps = await steps_of(
            lambda: creation.create(Requester(ALICE), NewRoomRequest(initial_state=state))
        )

        assert steps >= 2 * events
