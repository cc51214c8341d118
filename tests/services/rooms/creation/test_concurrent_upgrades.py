"""Concurrent and interrupted upgrades: a room is replaced once."""

from collections.abc import AsyncIterator, Callable

import attrs
import pytest
import trio
import trio.testing

from hs.core.errors import BadState, MatrixError
from hs.core.ids import RoomID
from hs.lib.clock import FixedClock
from hs.repl.leases import TTL_MS
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.drafts import AppendedEvent, Draft
from hs.storage import leases
from hs.storage.database import Database
from tests.support.composition import SETTINGS, Neighbourhood, worker_settings
from tests.support.room_actions import Actions, open_actions
from tests.support.rooms import ALICE, BOB
from tests.support.sql.databases import fresh_inline

Pair = tuple[Actions, Actions]


@pytest.fixture
async def pair(database: Database) -> AsyncIterator[Pair]:
    """Two processes that own rooms."""
    neighbours = Neighbourhood()
    first, second = (
        worker_settings(SETTINGS, name, events=("main", "second")) for name in ("main", "second")
    )
    async with (
        open_actions(database, first, neighbours=neighbours) as process_1,
        open_actions(database, second, neighbours=neighbours) as process_2,
    ):
        yield process_1, process_2


async def upgrade(acts: Actions, room_id: RoomID, version: str, name: str = "alice") -> RoomID:
    return await acts.upgrades.upgrade(acts.tokens.requesters[name], room_id, version)


def created_rooms(acts: Actions) -> set[str]:
    return {row.room_id for _, row in acts.world.seen if row.type == "m.room.create"}


@attrs.define(eq=False)
class UpgradeRequests:
    """The results of upgrades requested at the same time."""

    results: list[RoomID] = attrs.Factory(list)
    errors: list[MatrixError] = attrs.Factory(list)

    async def request(self, acts: Actions, room_id: RoomID, version: str, name: str) -> None:
        try:
            self.results.append(await upgrade(acts, room_id, version, name))
        except MatrixError as error:
            self.errors.append(error)


@attrs.frozen(eq=False)
class EndingAppender:
    """A RoomAppender whose process ends before or after a certain call."""

    inner: RoomAppender
    ends_before: Callable[[Draft], bool]
    ends_after: Callable[[Draft], bool]
    process: trio.CancelScope

    async def append(self, room_id: RoomID, drafts: list[Draft]) -> list[AppendedEvent]:
        await self._end(self.ends_before(drafts[0]))
        appended = await self.inner.append(room_id, drafts)
        await self._end(self.ends_after(drafts[0]))
        return appended

    async def create(self, version: str, drafts: list[Draft]) -> list[AppendedEvent]:
        await self._end(self.ends_before(drafts[0]))
        appended = await self.inner.create(version, drafts)
        await self._end(self.ends_after(drafts[0]))
        return appended

    async def _end(self, now: bool) -> None:
        if now:
            self.process.cancel()
            await trio.lowlevel.checkpoint()


def never(_: Draft) -> bool:
    return False


async def interrupt_upgrade(
    acts: Actions,
    room_id: RoomID,
    version: str,
    *,
    before: Callable[[Draft], bool] = never,
    after: Callable[[Draft], bool] = never,
) -> None:
    """Upgrade a room in a process that ends in the middle."""
    with trio.CancelScope() as scope:
        appender = EndingAppender(acts.world.appender, before, after, scope)
        upgrades = attrs.evolve(acts.upgrades, appender=appender)
        await upgrades.upgrade(acts.tokens.requesters["alice"], room_id, version)
    assert scope.cancelled_caught


@pytest.mark.parametrize("version", ["11", "12"])
async def test_equal_upgrades_in_two_processes_create_one_room(pair: Pair, version: str) -> None:
    first, second = pair
    room_id = await first.world.create_room(ALICE)
    requests = UpgradeRequests()

    async with trio.open_nursery() as nursery:
        for acts in (first, second, first):
            nursery.start_soon(requests.request, acts, room_id, version, "alice")

    assert len(requests.results) == 3
    assert created_rooms(first) == created_rooms(second) == {room_id, requests.results[0]}
    tombstone = await second.state(room_id, "m.room.tombstone")
    assert set(requests.results) == {tombstone["replacement_room"]}


@pytest.mark.parametrize(("first", "second"), [("11", "11"), ("12", "12"), ("11", "12")])
async def test_concurrent_upgrade_by_another_user_is_rejected(
    pair: Pair, first: str, second: str
) -> None:
    process_1, process_2 = pair
    room_id = await process_1.world.create_room(
        ALICE, join=[BOB], power_levels={"users": {ALICE: 100, BOB: 100}}
    )
    requests = UpgradeRequests()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(requests.request, process_1, room_id, first, "alice")
        nursery.start_soon(requests.request, process_2, room_id, second, "bob")

    assert [type(error) for error in requests.errors] == [BadState]
    assert created_rooms(process_1) == {room_id, *requests.results}
    tombstone = await process_2.state(room_id, "m.room.tombstone")
    assert requests.results == [tombstone["replacement_room"]]


async def test_repeated_upgrade_changes_nothing(pair: Pair) -> None:
    process_1, process_2 = pair
    room_id = await process_1.world.create_room(ALICE)

    first = await upgrade(process_1, room_id, "11")
    events = len(process_1.world.seen)
    repeated = [await upgrade(acts, room_id, "11") for acts in (process_1, process_2)]

    assert repeated == [first, first]
    assert len(process_1.world.seen) == events


async def test_room_can_be_upgraded_again_to_another_version(pair: Pair) -> None:
    process_1, process_2 = pair
    room_id = await process_1.world.create_room(ALICE)

    made = [await upgrade(acts, room_id, new) for acts, new in zip(pair, ("11", "12"), strict=True)]
    back = await upgrade(process_1, room_id, "11")

    assert created_rooms(process_2) == {room_id, *made, back}
    assert len({*made, back}) == 3


async def test_user_who_left_the_new_room_gets_another_one(pair: Pair) -> None:
    process_1, process_2 = pair
    room_id = await process_1.world.create_room(ALICE)
    first = await upgrade(process_1, room_id, "11")
    await process_1.world.leave(first, ALICE)

    second = await upgrade(process_2, room_id, "11")

    assert second != first
    assert (await process_1.state(room_id, "m.room.tombstone"))["replacement_room"] == second


@pytest.mark.parametrize("version", ["11", "12"])
async def test_upgrade_interrupted_before_creation_is_repeated(pair: Pair, version: str) -> None:
    process_1, process_2 = pair
    room_id = await process_1.world.create_room(ALICE)
    await interrupt_upgrade(
        process_1, room_id, version, before=lambda draft: draft.type == "m.room.create"
    )

    replacement = await upgrade(process_2, room_id, version)

    assert created_rooms(process_1) == {room_id, replacement}
    tombstone = await process_2.state(room_id, "m.room.tombstone")
    assert tombstone["replacement_room"] == replacement


@pytest.mark.parametrize("version", ["11", "12"])
async def test_upgrade_interrupted_after_creation_is_completed(pair: Pair, version: str) -> None:
    process_1, process_2 = pair
    room_id = await process_1.world.create_room(ALICE, join=[BOB])
    alias = process_1.aliases.local_alias("pub")
    await process_1.aliases.add(ALICE, alias, room_id)
    last = "m.room.create" if version == "11" else "m.room.tombstone"
    await interrupt_upgrade(process_1, room_id, version, after=lambda draft: draft.type == last)

    replacement = await upgrade(process_2, room_id, version)

    assert created_rooms(process_1) == {room_id, replacement}
    stored_alias = await process_2.aliases.find(alias)
    assert stored_alias is not None
    assert stored_alias.room_id == replacement
    assert (await process_2.state(room_id, "m.room.power_levels"))["events_default"] == 50


@attrs.define
class AdvancingClock(FixedClock):
    """A clock that advances with trio's."""

    def now_ms(self) -> int:
        return self.ms + self.steady_ms()

    def steady_ms(self) -> int:
        return int(trio.current_time() * 1000)


@pytest.fixture
async def single_process() -> AsyncIterator[Actions]:
    """A process whose time is virtual."""
    async with fresh_inline() as database, open_actions(database, clock=AdvancingClock()) as opened:
        yield opened


async def hold_lock_elsewhere(acts: Actions, room_id: RoomID, for_ms: int) -> int:
    """Take a room's upgrade lock as another process; return the end of its lease."""
    now = acts.world.clock.now_ms()
    name, holder = f"upgrade:{room_id}", "other@elsewhere:1:1:1/0"
    await acts.world.database.write(leases.take, name, holder, now + for_ms, now)
    return now + for_ms


async def test_upgrade_waits_for_the_lease_of_a_killed_process(
    single_process: Actions, autojump_clock: trio.testing.MockClock
) -> None:
    room_id = await single_process.world.create_room(ALICE)
    end = await hold_lock_elsewhere(single_process, room_id, TTL_MS)

    replacement = await upgrade(single_process, room_id, "11")

    assert end <= single_process.world.clock.now_ms() < end + TTL_MS
    tombstone = await single_process.state(room_id, "m.room.tombstone")
    assert tombstone["replacement_room"] == replacement


async def test_upgrade_that_waits_too_long_fails_with_503(
    single_process: Actions, autojump_clock: trio.testing.MockClock
) -> None:
    room_id = await single_process.world.create_room(ALICE)
    await hold_lock_elsewhere(single_process, room_id, 300_000)

    with pytest.raises(MatrixError) as refused:
        await upgrade(single_process, room_id, "11")

    assert refused.value.status == 503
    assert await single_process.state(room_id, "m.room.tombstone") == {}
