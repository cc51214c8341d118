"""Who types: set, refreshed, timed out, and told to every process."""

from collections.abc import AsyncIterator

import pytest
import trio

from hs.core.errors import Forbidden
from hs.core.ids import RoomID, UserID
from hs.core.requester import Requester
from hs.repl.feed import Batch, Feed
from hs.repl.inproc import alone
from hs.repl.memory_writer import MemoryWriter
from hs.repl.rows import EventRow, TypingRow
from hs.repl.streams import EVENTS, TYPING
from hs.services.ephemeral.typing_notifications import (
    KEPT_S,
    TypingMemory,
    TypingService,
    TypingUsers,
)
from hs.storage.database import Database
from hs.storage.inline import open_inline
from hs.storage.migrate import bundled_migrations, migrate

ALICE = UserID("@alice:test")
BOB = UserID("@bob:test")
ROOM = RoomID("!room:test")
OTHER = RoomID("!other:test")
EPOCH = 1000


class Everybody:
    """A room that Alice is in."""

    def __init__(self) -> None:
        self.active: list[UserID] = []

    async def is_joined(self, room_id: RoomID, user_id: UserID) -> bool:
        return room_id == ROOM and user_id == ALICE

    def note_active(self, user_id: UserID) -> None:
        self.active.append(user_id)


class Typing:
    """Writer and reader in one process, with a clock moved by hand."""

    def __init__(self, database: Database) -> None:
        self.now_s = 0.0
        self.feed = Feed()
        writer = MemoryWriter(TYPING, "main", alone(self.feed), EPOCH)
        writer.attach()
        self.users = TypingUsers(self.feed)
        self.memory = TypingMemory(writer, self.feed, database, lambda: self.now_s)
        self.rows: list[TypingRow] = []
        self.feed.subscribe(TYPING, lambda batch: self.rows.extend(row for _, row in batch.rows))
        self.everybody = Everybody()
        self.service = TypingService(self.everybody, self.memory, self.everybody)


@pytest.fixture
async def quiet() -> AsyncIterator[Database]:
    """A database in memory, called inline: it goes together with a clock of the test's."""
    async with open_inline() as database:
        await migrate(database, bundled_migrations(), ["pre"])
        yield database


async def test_typing_users_are_listed_in_the_order_they_began(quiet: Database) -> None:
    typing = Typing(quiet)

    await typing.memory.set_typing(ROOM, BOB, 1000)
    await typing.memory.set_typing(ROOM, ALICE, 1000)

    assert typing.users.typing_users(ROOM) == (BOB, ALICE)
    assert typing.users.changed_rooms(EPOCH) == [ROOM]
    assert typing.users.changed_rooms(typing.users.last_change(ROOM)) == []


async def test_typing_on_tells_nothing_new_and_lasts_longer(quiet: Database) -> None:
    typing = Typing(quiet)
    await typing.memory.set_typing(ROOM, ALICE, 1000)

    typing.now_s = 0.9
    await typing.memory.set_typing(ROOM, ALICE, 1000)
    typing.now_s = 1.5
    wait_s = typing.memory.expire()

    assert typing.rows == [TypingRow(ROOM, (ALICE,))]
    assert wait_s == pytest.approx(0.4)


async def test_who_stops_saying_so_stops_typing(quiet: Database) -> None:
    typing = Typing(quiet)
    await typing.memory.set_typing(ROOM, ALICE, 1000)
    await typing.memory.set_typing(ROOM, BOB, 3000)

    typing.now_s = 1.0
    typing.memory.expire()

    assert typing.users.typing_users(ROOM) == (BOB,)
    assert typing.users.typing_event(ROOM) == (
        b'{"type":"m.typing","content":{"user_ids":["@bob:test"]}}'
    )


async def test_the_duty_stops_typing_in_time(
    quiet: Database, autojump_clock: trio.testing.MockClock
) -> None:
    feed = Feed()
    writer = MemoryWriter(TYPING, "main", alone(feed), EPOCH)
    users = TypingUsers(feed)
    memory = TypingMemory(writer, feed, quiet)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(memory.run)
        await trio.testing.wait_all_tasks_blocked()

        await memory.set_typing(ROOM, ALICE, 5000)
        await memory.set_typing(OTHER, ALICE, 1000)
        await trio.sleep(1.1)
        after_a_second = users.typing_users(ROOM), users.typing_users(OTHER)
        await trio.sleep(4)

        nursery.cancel_scope.cancel()

    assert after_a_second == ((ALICE,), ())
    assert users.typing_users(ROOM) == ()


async def test_who_leaves_stops_typing(quiet: Database) -> None:
    typing = Typing(quiet)
    await typing.memory.set_typing(ROOM, ALICE, 1000)
    left = EventRow(ROOM, "$1", "m.room.member", ALICE, ALICE, 5, 5, "leave", "join")

    typing.feed.deliver(Batch(EVENTS, "main", 0, 1, [(1, left)]))

    assert typing.users.typing_users(ROOM) == ()


async def test_a_restarted_writer_ends_what_it_does_not_know(quiet: Database) -> None:
    typing = Typing(quiet)
    await typing.memory.set_typing(ROOM, ALICE, 1000)
    await typing.memory.set_typing(OTHER, BOB, 1000)
    seen = typing.users.last_change(OTHER)

    rows = [(9001, TypingRow(OTHER, (BOB,)))]
    typing.feed.deliver(Batch(TYPING, "main", 9000, 9001, rows, reset=True))

    assert typing.users.typing_users(ROOM) == ()
    assert typing.users.typing_users(OTHER) == (BOB,)
    assert set(typing.users.changed_rooms(seen)) == {ROOM, OTHER}


async def test_after_a_restart_nobody_types_any_more(database: Database) -> None:
    before = Typing(database)
    await before.memory.set_typing(ROOM, ALICE, 1000)
    await before.memory.set_typing(OTHER, BOB, 1000)
    await before.memory.note()
    await before.memory.set_typing(OTHER, BOB, 0)
    await before.memory.note()

    after = Typing(database)
    await after.memory.end_of_before()
    await after.memory.note()

    # Who was not there when they stopped in the other room may not know it yet.
    assert {row.room_id: row.user_ids for row in after.rows} == {ROOM: (), OTHER: ()}


async def test_where_nobody_types_for_long_is_not_told_at_a_restart(quiet: Database) -> None:
    before = Typing(quiet)
    await before.memory.set_typing(ROOM, ALICE, 1000)
    await before.memory.note()
    await before.memory.set_typing(ROOM, ALICE, 0)
    before.now_s = KEPT_S
    await before.memory.set_typing(OTHER, BOB, 1000)
    await before.memory.note()

    after = Typing(quiet)
    await after.memory.end_of_before()
    after.now_s = KEPT_S
    await after.memory.note()

    assert after.rows == [TypingRow(OTHER, ())]
    again = Typing(quiet)
    await again.memory.end_of_before()
    assert again.rows == []


async def test_only_members_say_of_themselves_that_they_type(quiet: Database) -> None:
    typing = Typing(quiet)
    requester = Requester(ALICE, "DEVICE")

    with pytest.raises(Forbidden):
        await typing.service.set_typing(requester, ROOM, BOB, 1000)
    with pytest.raises(Forbidden):
        await typing.service.set_typing(requester, OTHER, ALICE, 1000)
    await typing.service.set_typing(requester, ROOM, ALICE, 1000)

    assert typing.rows == [TypingRow(ROOM, (ALICE,))]
    assert typing.everybody.active == [ALICE]
