"""Typing notifications: start, renewal, timeout, and publication to every process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing

from hs.core.errors import Forbidden, UserSuspended
from hs.core.ids import RoomID
from hs.core.requester import Requester
from hs.core.streams import TYPING, TypingRow
from hs.repl.feed import Batch
from hs.services.ephemeral.typing_notifications import (
    ENDED_KEPT_S,
    LocalTypingWriter,
    TypingService,
    TypingUsers,
)
from hs.storage.database import Database
from tests.support.rooms import ALICE, BOB, World, open_world
from tests.support.sql.databases import fresh_inline

ROOM = RoomID("!room:test.example")
OTHER_ROOM = RoomID("!other:test.example")


@attrs.frozen(eq=False)
class Typing:
    """Writer and reader of typing notifications in one process; `rows` are those published."""

    world: World
    rows: list[TypingRow] = attrs.Factory(list)

    def __attrs_post_init__(self) -> None:
        self.world.feed.subscribe(
            TYPING, lambda batch: self.rows.extend(row for _, row in batch.rows)
        )

    @property
    def users(self) -> TypingUsers:
        return self.world.process.services.ephemeral.typing_users

    @property
    def service(self) -> TypingService:
        return self.world.process.services.ephemeral.typing

    @property
    def writer(self) -> LocalTypingWriter:
        writer = self.service.writer
        assert isinstance(writer, LocalTypingWriter)
        return writer


@asynccontextmanager
async def open_typing(database: Database) -> AsyncIterator[Typing]:
    async with open_world(database) as world:
        yield Typing(world)


@pytest.fixture
async def inline_database() -> AsyncIterator[Database]:
    """An in-memory database that runs inline, so that it works with a virtual clock."""
    async with fresh_inline() as database:
        yield database


@pytest.fixture
async def typing(
    inline_database: Database, mock_clock: trio.testing.MockClock
) -> AsyncIterator[Typing]:
    """A process whose time passes only when a test says so."""
    async with open_typing(inline_database) as opened:
        yield opened


async def test_typing_users_are_listed_in_the_order_they_began_typing(typing: Typing) -> None:
    await typing.writer.set_typing(ROOM, BOB, 1000)
    await typing.writer.set_typing(ROOM, ALICE, 1000)

    assert typing.users.typing_users(ROOM) == (BOB, ALICE)


async def test_renewal_extends_the_timeout_and_publishes_nothing(
    typing: Typing, mock_clock: trio.testing.MockClock
) -> None:
    await typing.writer.set_typing(ROOM, ALICE, 1000)

    mock_clock.jump(0.9)
    await typing.writer.set_typing(ROOM, ALICE, 1000)
    mock_clock.jump(0.6)
    wait_s = typing.writer.expire()

    assert typing.rows == [TypingRow(ROOM, (ALICE,))]
    assert wait_s == pytest.approx(0.4)


async def test_user_stops_typing_after_the_timeout(
    typing: Typing, mock_clock: trio.testing.MockClock
) -> None:
    await typing.writer.set_typing(ROOM, ALICE, 1000)
    await typing.writer.set_typing(ROOM, BOB, 3000)

    mock_clock.jump(1)
    typing.writer.expire()

    assert typing.users.typing_users(ROOM) == (BOB,)


async def test_duty_ends_typing_after_the_timeout(
    inline_database: Database, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_typing(inline_database) as typing, trio.open_nursery() as nursery:
        nursery.start_soon(typing.world.process.run_duty, "typing")
        await trio.testing.wait_all_tasks_blocked()

        await typing.writer.set_typing(ROOM, ALICE, 5000)
        await typing.writer.set_typing(OTHER_ROOM, ALICE, 1000)
        await trio.sleep(1.1)
        after_a_second = typing.users.typing_users(ROOM), typing.users.typing_users(OTHER_ROOM)
        await trio.sleep(4)

        nursery.cancel_scope.cancel()

    assert after_a_second == ((ALICE,), ())
    assert typing.users.typing_users(ROOM) == ()


async def test_leaving_user_stops_typing(typing: Typing) -> None:
    room_id = await typing.world.create_room(ALICE)
    await typing.writer.set_typing(room_id, ALICE, 1000)
    before = typing.users.typing_users(room_id)

    await typing.world.leave(room_id, ALICE)

    assert (before, typing.users.typing_users(room_id)) == ((ALICE,), ())


async def test_reset_of_the_writer_ends_typing_in_unmentioned_rooms(typing: Typing) -> None:
    await typing.writer.set_typing(ROOM, ALICE, 1000)
    await typing.writer.set_typing(OTHER_ROOM, BOB, 1000)
    later = typing.world.feed.position(TYPING).most() + 8000
    rows = [(later + 1, TypingRow(OTHER_ROOM, (BOB,)))]
    typing.world.feed.deliver(Batch(TYPING, "main", later, later + 1, rows, reset=True))

    assert typing.users.typing_users(ROOM) == ()
    assert typing.users.typing_users(OTHER_ROOM) == (BOB,)


async def test_reset_of_a_writer_keeps_the_typing_users_of_another_one(typing: Typing) -> None:
    deliver = typing.world.feed.deliver
    for writer, room_id, user_id in (("one", ROOM, ALICE), ("two", OTHER_ROOM, BOB)):
        deliver(Batch(TYPING, writer, 10, 11, [(11, TypingRow(room_id, (user_id,)))]))

    deliver(Batch(TYPING, "one", 900, 901, [], reset=True))

    assert typing.users.typing_users(ROOM) == ()
    assert typing.users.typing_users(OTHER_ROOM) == (BOB,)


async def test_restart_ends_typing_in_all_rooms(database: Database) -> None:
    async with open_typing(database) as before:
        await before.writer.set_typing(ROOM, ALICE, 1000)
        await before.writer.set_typing(OTHER_ROOM, BOB, 1000)
        await before.writer.save()
        await before.writer.set_typing(OTHER_ROOM, BOB, 0)
        await before.writer.save()

    async with open_typing(database) as after:
        await after.writer.end_previous()
        await after.writer.save()

        # Clients may not have seen yet that typing ended in the other room.
        assert {row.room_id: row.user_ids for row in after.rows} == {ROOM: (), OTHER_ROOM: ()}


async def test_restart_ignores_rooms_where_typing_ended_long_ago(
    inline_database: Database, mock_clock: trio.testing.MockClock
) -> None:
    async with open_typing(inline_database) as before:
        await before.writer.set_typing(ROOM, ALICE, 1000)
        await before.writer.save()
        await before.writer.set_typing(ROOM, ALICE, 0)
        mock_clock.jump(ENDED_KEPT_S)
        await before.writer.set_typing(OTHER_ROOM, BOB, 1000)
        await before.writer.save()

    async with open_typing(inline_database) as after:
        await after.writer.end_previous()
        mock_clock.jump(ENDED_KEPT_S)
        await after.writer.save()

        assert after.rows == [TypingRow(OTHER_ROOM, ())]
    async with open_typing(inline_database) as second_restart:
        await second_restart.writer.end_previous()
        assert second_restart.rows == []


async def test_only_members_can_set_their_own_typing_state(typing: Typing) -> None:
    requester = Requester(ALICE, "DEVICE")
    room_id = await typing.world.create_room(ALICE)
    other_room = await typing.world.create_room(BOB)

    with pytest.raises(Forbidden):
        await typing.service.set_typing(requester, room_id, BOB, 1000)
    with pytest.raises(Forbidden):
        await typing.service.set_typing(requester, other_room, ALICE, 1000)
    await typing.service.set_typing(requester, room_id, ALICE, 1000)

    assert typing.rows == [TypingRow(room_id, (ALICE,))]


async def test_typing_user_is_active(typing: Typing) -> None:
    presence, clock = typing.world.process.services.ephemeral.presence, typing.world.clock
    room_id = await typing.world.create_room(ALICE)
    states = []
    with presence.syncing(ALICE, "DEVICE", "unavailable"):
        for timeout_ms in (None, 1000):
            clock.advance(presence.settings.idle_timeout)
            if timeout_ms is not None:
                await typing.service.set_typing(Requester(ALICE), room_id, ALICE, timeout_ms)
            await presence.devices.flush()
            states.append((await presence.presence_of(Requester(ALICE), ALICE))["presence"])

    assert states == ["unavailable", "online"]


async def test_suspended_user_can_only_stop_typing(database: Database) -> None:
    async with open_typing(database) as typing:
        room_id = await typing.world.create_room(ALICE, join=[BOB])
        await typing.service.set_typing(Requester(BOB), room_id, BOB, 10_000)
        suspended = Requester(BOB, suspended=True)

        with pytest.raises(UserSuspended):
            await typing.service.set_typing(suspended, room_id, BOB, 10_000)
        assert typing.users.typing_users(room_id) == (BOB,)
        await typing.service.set_typing(suspended, room_id, BOB, 0)

        assert typing.users.typing_users(room_id) == ()
