"""Typing notifications: start, renewal, timeout, and publication to every process."""

from collections.abc import AsyncIterator

import pytest
import trio

from hs.core.errors import Forbidden
from hs.core.ids import RoomID, UserID
from hs.core.requester import Requester
from hs.core.streams import EVENTS, TYPING, EventRow, TypingRow
from hs.repl.feed import Batch, Feed
from hs.repl.inproc import local_transport
from hs.repl.memory_writer import MemoryWriter
from hs.services.ephemeral.typing_notifications import (
    ENDED_KEPT_S,
    LocalTypingWriter,
    TypingService,
    TypingUsers,
)
from hs.storage.database import Database
from hs.storage.inline import open_inline
from hs.storage.migrate import bundled_migrations, migrate

ALICE = UserID("@alice:test")
BOB = UserID("@bob:test")
ROOM = RoomID("!room:test")
OTHER_ROOM = RoomID("!other:test")
EPOCH = 1000


class Members:
    """Memberships with Alice in one room, and a record of activity."""

    def __init__(self) -> None:
        self.active: list[UserID] = []

    async def is_joined(self, room_id: RoomID, user_id: UserID) -> bool:
        return room_id == ROOM and user_id == ALICE

    def note_active(self, user_id: UserID) -> None:
        self.active.append(user_id)


class Typing:
    """Writer and reader in one process, with a manual clock."""

    def __init__(self, database: Database) -> None:
        self.now_s = 0.0
        self.feed = Feed()
        stream = MemoryWriter(TYPING, "main", local_transport(self.feed), EPOCH)
        stream.attach()
        self.users = TypingUsers(self.feed)
        self.writer = LocalTypingWriter(stream, self.feed, database, lambda: self.now_s)
        self.rows: list[TypingRow] = []
        self.feed.subscribe(TYPING, lambda batch: self.rows.extend(row for _, row in batch.rows))
        self.members = Members()
        self.service = TypingService(self.members, self.writer, self.members)


@pytest.fixture
async def inline_database() -> AsyncIterator[Database]:
    """An in-memory database that runs inline, so that it works with a virtual clock."""
    async with open_inline() as database:
        await migrate(database, bundled_migrations(), ["pre"])
        yield database


async def test_typing_users_are_listed_in_the_order_they_began_typing(
    inline_database: Database,
) -> None:
    typing = Typing(inline_database)

    await typing.writer.set_typing(ROOM, BOB, 1000)
    await typing.writer.set_typing(ROOM, ALICE, 1000)

    assert typing.users.typing_users(ROOM) == (BOB, ALICE)
    assert typing.users.changed_rooms(EPOCH) == [ROOM]
    assert typing.users.changed_rooms(typing.users.last_change(ROOM)) == []


async def test_renewal_extends_the_timeout_and_publishes_nothing(inline_database: Database) -> None:
    typing = Typing(inline_database)
    await typing.writer.set_typing(ROOM, ALICE, 1000)

    typing.now_s = 0.9
    await typing.writer.set_typing(ROOM, ALICE, 1000)
    typing.now_s = 1.5
    wait_s = typing.writer.expire()

    assert typing.rows == [TypingRow(ROOM, (ALICE,))]
    assert wait_s == pytest.approx(0.4)


async def test_user_stops_typing_after_the_timeout(inline_database: Database) -> None:
    typing = Typing(inline_database)
    await typing.writer.set_typing(ROOM, ALICE, 1000)
    await typing.writer.set_typing(ROOM, BOB, 3000)

    typing.now_s = 1.0
    typing.writer.expire()

    assert typing.users.typing_users(ROOM) == (BOB,)
    assert typing.users.typing_event(ROOM) == (
        b'{"type":"m.typing","content":{"user_ids":["@bob:test"]}}'
    )


async def test_duty_ends_typing_after_the_timeout(
    inline_database: Database, autojump_clock: trio.testing.MockClock
) -> None:
    feed = Feed()
    stream = MemoryWriter(TYPING, "main", local_transport(feed), EPOCH)
    users = TypingUsers(feed)
    writer = LocalTypingWriter(stream, feed, inline_database)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        await trio.testing.wait_all_tasks_blocked()

        await writer.set_typing(ROOM, ALICE, 5000)
        await writer.set_typing(OTHER_ROOM, ALICE, 1000)
        await trio.sleep(1.1)
        after_a_second = users.typing_users(ROOM), users.typing_users(OTHER_ROOM)
        await trio.sleep(4)

        nursery.cancel_scope.cancel()

    assert after_a_second == ((ALICE,), ())
    assert users.typing_users(ROOM) == ()


async def test_leaving_user_stops_typing(inline_database: Database) -> None:
    typing = Typing(inline_database)
    await typing.writer.set_typing(ROOM, ALICE, 1000)
    left = EventRow(
        room_id=ROOM,
        event_id="$1",
        type="m.room.member",
        sender=ALICE,
        state_key=ALICE,
        depth=5,
        origin_server_ts=5,
        membership="leave",
        prev_membership="join",
    )

    typing.feed.deliver(Batch(EVENTS, "main", 0, 1, [(1, left)]))

    assert typing.users.typing_users(ROOM) == ()


async def test_reset_of_the_writer_ends_typing_in_unmentioned_rooms(
    inline_database: Database,
) -> None:
    typing = Typing(inline_database)
    await typing.writer.set_typing(ROOM, ALICE, 1000)
    await typing.writer.set_typing(OTHER_ROOM, BOB, 1000)
    position = typing.users.last_change(OTHER_ROOM)

    rows = [(9001, TypingRow(OTHER_ROOM, (BOB,)))]
    typing.feed.deliver(Batch(TYPING, "main", 9000, 9001, rows, reset=True))

    assert typing.users.typing_users(ROOM) == ()
    assert typing.users.typing_users(OTHER_ROOM) == (BOB,)
    assert set(typing.users.changed_rooms(position)) == {ROOM, OTHER_ROOM}


async def test_restart_ends_typing_in_all_rooms(database: Database) -> None:
    before = Typing(database)
    await before.writer.set_typing(ROOM, ALICE, 1000)
    await before.writer.set_typing(OTHER_ROOM, BOB, 1000)
    await before.writer.save()
    await before.writer.set_typing(OTHER_ROOM, BOB, 0)
    await before.writer.save()

    after = Typing(database)
    await after.writer.end_previous()
    await after.writer.save()

    # Clients may not have seen yet that typing ended in the other room.
    assert {row.room_id: row.user_ids for row in after.rows} == {ROOM: (), OTHER_ROOM: ()}


async def test_restart_ignores_rooms_where_typing_ended_long_ago(inline_database: Database) -> None:
    before = Typing(inline_database)
    await before.writer.set_typing(ROOM, ALICE, 1000)
    await before.writer.save()
    await before.writer.set_typing(ROOM, ALICE, 0)
    before.now_s = ENDED_KEPT_S
    await before.writer.set_typing(OTHER_ROOM, BOB, 1000)
    await before.writer.save()

    after = Typing(inline_database)
    await after.writer.end_previous()
    after.now_s = ENDED_KEPT_S
    await after.writer.save()

    assert after.rows == [TypingRow(OTHER_ROOM, ())]
    second_restart = Typing(inline_database)
    await second_restart.writer.end_previous()
    assert second_restart.rows == []


async def test_only_members_can_set_their_own_typing_state(inline_database: Database) -> None:
    typing = Typing(inline_database)
    requester = Requester(ALICE, "DEVICE")

    with pytest.raises(Forbidden):
        await typing.service.set_typing(requester, ROOM, BOB, 1000)
    with pytest.raises(Forbidden):
        await typing.service.set_typing(requester, OTHER_ROOM, ALICE, 1000)
    await typing.service.set_typing(requester, ROOM, ALICE, 1000)

    assert typing.rows == [TypingRow(ROOM, (ALICE,))]
    assert typing.members.active == [ALICE]
