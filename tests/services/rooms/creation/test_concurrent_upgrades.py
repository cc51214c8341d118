"""A room is replaced once, whoever asks at the same moment and whichever process ends meanwhile."""

from collections.abc import AsyncIterator, Callable

import attrs
import pytest
import trio
import trio.testing

from hs.core.errors import BadState, MatrixError
from hs.core.ids import RoomID
from hs.repl.leases import TTL_MS
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.drafts import Appended, Draft
from hs.services.rooms.creation.room_upgrade import RoomUpgrade
from hs.settings.sections.rooms import RoomSettings
from hs.storage import leases
from hs.storage.database import Database
from hs.storage.inline import open_inline
from hs.storage.migrate import bundled_migrations, migrate
from tests.support.room_actions import (
    NO_LIMITS,
    Actions,
    make_actions,
    now_ms,
    open_actions,
    turns_of,
)
from tests.support.rooms import ALICE, BOB, open_writers

Pair = tuple[Actions, Actions]


@pytest.fixture
async def pair(database: Database) -> AsyncIterator[Pair]:
    """Two processes, each of which makes rooms."""
    async with open_writers(database) as (one, two):
        yield (
            make_actions(one, RoomSettings(), NO_LIMITS),
            make_actions(two, RoomSettings(), NO_LIMITS),
        )


async def upgrade(acts: Actions, room_id: RoomID, version: str, name: str = "alice") -> RoomID:
    return await acts.upgrades.upgrade(acts.tokens.requesters[name], room_id, version)


def rooms_made(acts: Actions) -> set[str]:
    return {row.room_id for _, row in acts.world.seen if row.type == "m.room.create"}


@attrs.define(eq=False)
class Asked:
    """Upgrades asked for at the same moment, and what came of them."""

    given: list[RoomID] = attrs.Factory(list)
    refused: list[MatrixError] = attrs.Factory(list)

    async def ask(self, acts: Actions, room_id: RoomID, version: str, name: str) -> None:
        try:
            self.given.append(await upgrade(acts, room_id, version, name))
        except MatrixError as error:
            self.refused.append(error)


@attrs.frozen(eq=False)
class Ending:
    """A RoomAppender whose process ends before, or after, a certain call."""

    inner: RoomAppender
    ends_before: Callable[[Draft], bool]
    ends_after: Callable[[Draft], bool]
    process: trio.CancelScope

    async def append(self, room_id: RoomID, drafts: list[Draft]) -> list[Appended]:
        await self._end(self.ends_before(drafts[0]))
        appended = await self.inner.append(room_id, drafts)
        await self._end(self.ends_after(drafts[0]))
        return appended

    async def create(self, version: str, drafts: list[Draft]) -> list[Appended]:
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


async def break_off(
    acts: Actions,
    room_id: RoomID,
    version: str,
    *,
    before: Callable[[Draft], bool] = never,
    after: Callable[[Draft], bool] = never,
) -> None:
    """Have a process end in the middle of an upgrade."""
    with trio.CancelScope() as scope:
        appender = Ending(acts.world.appender, before, after, scope)
        upgrades: RoomUpgrade = attrs.evolve(
            acts.upgrades, appender=appender, turns=turns_of(acts.world)
        )
        await upgrades.upgrade(acts.tokens.requesters["alice"], room_id, version)
    assert scope.cancelled_caught


@pytest.mark.parametrize("version", ["11", "12"])
async def test_equal_upgrades_through_two_processes_make_one_room(pair: Pair, version: str) -> None:
    one, two = pair
    room_id = await one.world.create_room(ALICE)
    asked = Asked()

    async with trio.open_nursery() as nursery:
        for acts in (one, two, one):
            nursery.start_soon(asked.ask, acts, room_id, version, "alice")

    assert len(asked.given) == 3
    assert rooms_made(one) == rooms_made(two) == {room_id, asked.given[0]}
    tombstone = await two.state(room_id, "m.room.tombstone")
    assert set(asked.given) == {tombstone["replacement_room"]}


@pytest.mark.parametrize(("first", "second"), [("11", "11"), ("12", "12"), ("11", "12")])
async def test_of_two_who_upgrade_a_room_at_the_same_moment_one_is_refused(
    pair: Pair, first: str, second: str
) -> None:
    one, two = pair
    room_id = await one.world.create_room(
        ALICE, join=[BOB], power_levels={"users": {ALICE: 100, BOB: 100}}
    )
    asked = Asked()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(asked.ask, one, room_id, first, "alice")
        nursery.start_soon(asked.ask, two, room_id, second, "bob")

    assert [type(error) for error in asked.refused] == [BadState]
    assert rooms_made(one) == {room_id, *asked.given}
    tombstone = await two.state(room_id, "m.room.tombstone")
    assert asked.given == [tombstone["replacement_room"]]


async def test_an_upgrade_that_was_done_is_not_done_again(pair: Pair) -> None:
    one, two = pair
    room_id = await one.world.create_room(ALICE)

    first = await upgrade(one, room_id, "11")
    events = len(one.world.seen)
    again = [await upgrade(acts, room_id, "11") for acts in (one, two)]

    assert again == [first, first]
    assert len(one.world.seen) == events


async def test_a_room_may_be_upgraded_to_several_versions(pair: Pair) -> None:
    one, two = pair
    room_id = await one.world.create_room(ALICE)

    made = [await upgrade(acts, room_id, new) for acts, new in zip(pair, ("11", "12"), strict=True)]
    back = await upgrade(one, room_id, "11")

    assert rooms_made(two) == {room_id, *made, back}
    assert len({*made, back}) == 3


async def test_who_has_left_the_new_room_gets_another(pair: Pair) -> None:
    one, two = pair
    room_id = await one.world.create_room(ALICE)
    first = await upgrade(one, room_id, "11")
    await one.world.leave(first, ALICE)

    second = await upgrade(two, room_id, "11")

    assert second != first
    assert (await one.state(room_id, "m.room.tombstone"))["replacement_room"] == second


@pytest.mark.parametrize("version", ["11", "12"])
async def test_an_upgrade_broken_off_before_the_new_room_was_made_is_done_anew(
    pair: Pair, version: str
) -> None:
    one, two = pair
    room_id = await one.world.create_room(ALICE)
    await break_off(one, room_id, version, before=lambda draft: draft.type == "m.room.create")

    replacement = await upgrade(two, room_id, version)

    assert rooms_made(one) == {room_id, replacement}
    tombstone = await two.state(room_id, "m.room.tombstone")
    assert tombstone["replacement_room"] == replacement


@pytest.mark.parametrize("version", ["11", "12"])
async def test_an_upgrade_broken_off_after_the_new_room_was_made_is_finished(
    pair: Pair, version: str
) -> None:
    one, two = pair
    room_id = await one.world.create_room(ALICE, join=[BOB])
    alias = one.aliases.named("pub")
    await one.aliases.add(ALICE, alias, room_id)
    last = "m.room.create" if version == "11" else "m.room.tombstone"
    await break_off(one, room_id, version, after=lambda draft: draft.type == last)

    replacement = await upgrade(two, room_id, version)

    assert rooms_made(one) == {room_id, replacement}
    found = await two.aliases.find(alias)
    assert found is not None
    assert found.room_id == replacement
    assert (await two.state(room_id, "m.room.power_levels"))["events_default"] == 50


@pytest.fixture
async def alone() -> AsyncIterator[Actions]:
    """A process on a database that leaves the clock alone."""
    async with open_inline() as database:
        await migrate(database, bundled_migrations(), ["pre", "post"])
        async with open_actions(database) as opened:
            yield opened


async def hold_elsewhere(acts: Actions, room_id: RoomID, for_ms: int) -> int:
    """Have a process on another host hold a room's turn; give the end of its lease."""
    now = now_ms(acts.world)
    name, holder = f"upgrade:{room_id}", "other@elsewhere:1:1:1/0"
    await acts.world.database.write(leases.take, name, holder, now + for_ms, now)
    return now + for_ms


async def test_a_process_that_was_killed_holds_upgrades_back_for_as_long_as_its_lease(
    alone: Actions, autojump_clock: trio.testing.MockClock
) -> None:
    room_id = await alone.world.create_room(ALICE)
    end = await hold_elsewhere(alone, room_id, TTL_MS)

    replacement = await upgrade(alone, room_id, "11")

    assert end <= now_ms(alone.world) < end + TTL_MS
    tombstone = await alone.state(room_id, "m.room.tombstone")
    assert tombstone["replacement_room"] == replacement


async def test_one_who_waits_in_vain_is_told_to_try_again(
    alone: Actions, autojump_clock: trio.testing.MockClock
) -> None:
    room_id = await alone.world.create_room(ALICE)
    await hold_elsewhere(alone, room_id, 3600_000)

    with pytest.raises(MatrixError) as refused:
        await upgrade(alone, room_id, "11")

    assert refused.value.status == 503
    assert await alone.state(room_id, "m.room.tombstone") == {}
