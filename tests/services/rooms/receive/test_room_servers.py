"""The servers in rooms: counted in the commit that changes memberships, and followed in memory."""

from hs.core.ids import RoomID, ServerName
from hs.services.rooms.receive.event_receiver import PduOutcome
from hs.storage.database import Tx
from tests.services.rooms.receive.test_event_intake import (
    BAN,
    JOIN,
    import_joined_room,
    receive,
)
from tests.support.peers import ADMIN, BERT, CORA, DORA
from tests.support.receiving import ReceivingWorld
from tests.support.rooms import ALICE, BOB

ONE, TWO, THREE = (ServerName(f"{name}.example") for name in ("one", "two", "three"))
OURS = ServerName("test.example")


async def stored_counts(world: ReceivingWorld, room_id: RoomID) -> dict[str, tuple[int, bool]]:
    """Return the joined members of each server by the table, and whether it has left."""

    async def read(tx: Tx) -> dict[str, tuple[int, bool]]:
        rows = await tx.fetch(
            "SELECT server, joined_members, left_id FROM room_servers WHERE room_id = $1", room_id
        )
        return {row[0]: (row[1], row[2] is not None) for row in rows}

    return await world.database.read(read)


async def counted_members(world: ReceivingWorld, room_id: RoomID) -> dict[str, tuple[int, bool]]:
    """Return the joined members of each server by the current state."""

    async def read(tx: Tx) -> dict[str, tuple[int, bool]]:
        rows = await tx.fetch(
            "SELECT state_key FROM current_state WHERE room_id = $1 AND membership = 'join'",
            room_id,
        )
        servers = [row[0].partition(":")[2] for row in rows]
        return {server: (servers.count(server), False) for server in servers}

    return await world.database.read(read)


async def test_imported_room_has_the_servers_of_its_members(world: ReceivingWorld) -> None:
    room_id, _ = await import_joined_room(world)

    assert await world.servers.servers_in(room_id) == {ONE, TWO, THREE}
    assert await stored_counts(world, room_id) == await counted_members(world, room_id)
    assert await world.servers.rooms_shared_with(TWO) == [room_id]
    assert await world.servers.is_in_room(room_id, OURS)
    assert not await world.servers.is_in_room(room_id, ServerName("none.example"))


async def test_server_leaves_with_its_last_member(world: ReceivingWorld) -> None:
    room_id, history = await import_joined_room(world)
    before = await world.servers.servers_in(room_id)

    await receive(world, history.add(DORA, "m.room.member", JOIN, DORA))
    await receive(world, history.add(DORA, "m.room.member", {"membership": "leave"}, DORA))
    assert await world.servers.servers_in(room_id) == before
    await receive(world, history.add(ADMIN, "m.room.member", BAN, BERT))

    assert before == {ONE, TWO, THREE}
    assert world.servers.servers_nowait(room_id) == frozenset({ONE, THREE})
    counts = await stored_counts(world, room_id)
    assert counts == {**await counted_members(world, room_id), TWO: (0, True)}
    assert await world.servers.rooms_shared_with(TWO) == []


async def test_join_and_leave_in_one_commit_leave_no_server(world: ReceivingWorld) -> None:
    room_id, history = await import_joined_room(world)
    await world.servers.servers_in(room_id)

    joined = history.add(CORA, "m.room.member", {"membership": "leave"}, CORA)
    left = history.add(CORA, "m.room.member", JOIN, CORA)
    again = history.add(CORA, "m.room.member", {"membership": "leave"}, CORA)
    outcomes = await receive(world, joined, left, again)

    assert outcomes == [PduOutcome.ACCEPTED] * 3
    assert world.servers.servers_nowait(room_id) == frozenset({ONE, TWO})
    counts = await stored_counts(world, room_id)
    assert counts == {**await counted_members(world, room_id), THREE: (0, True)}


async def test_forks_count_each_member_once(world: ReceivingWorld) -> None:
    room_id, history = await import_joined_room(world)
    end = list(history.ends)
    banned = history.add(ADMIN, "m.room.member", BAN, BERT, after=end)
    topic = history.add(BERT, "m.room.member", {**JOIN, "displayname": "B"}, BERT, after=end)
    merged = history.add(ADMIN, "m.room.message", {"body": "x"})
    await world.servers.servers_in(room_id)

    await receive(world, topic)
    await receive(world, banned)
    await receive(world, merged)

    assert world.servers.servers_nowait(room_id) == frozenset({ONE, THREE})
    counts = await stored_counts(world, room_id)
    assert counts == {**await counted_members(world, room_id), TWO: (0, True)}


async def test_last_own_event_of_the_room_is_stored(world: ReceivingWorld) -> None:
    room_id, history = await import_joined_room(world)
    sent = await world.send(room_id, ALICE)

    await receive(world, history.add(CORA, "m.room.message", {"body": "hi"}))

    async def read(tx: Tx) -> tuple[int, int]:
        row = await tx.fetchrow(
            "SELECT sent_id, stream_id FROM room_heads WHERE room_id = $1", room_id
        )
        assert row is not None
        return row[0], row[1]

    sent_id, last_id = await world.database.read(read)
    assert sent_id == sent.stream_id < last_id


async def test_room_of_local_users_has_no_other_servers(world: ReceivingWorld) -> None:
    room_id = await world.create_room(ALICE)
    await world.join(room_id, BOB)

    assert await world.servers.servers_in(room_id) == frozenset()
    assert await stored_counts(world, room_id) == {OURS: (2, False)}


async def test_servers_at_an_event_are_those_of_its_time(world: ReceivingWorld) -> None:
    room_id, history = await import_joined_room(world)
    sent = [await world.send(room_id, ALICE)]
    # Left, back, left, and back again: of the last two periods the bounds are known.
    for _ in range(2):
        for content in ({"membership": "leave"}, JOIN):
            await receive(world, history.add(CORA, "m.room.member", content, CORA))
            sent.append(await world.send(room_id, ALICE))
    at_end = await world.servers.servers_in(room_id)

    servers = [await world.servers.servers_at(room_id, event.stream_id) for event in sent]
    in_memory = [world.servers.servers_after_nowait(room_id, event.stream_id) for event in sent]

    assert [THREE in each for each in servers] == [False, False, True, False, True]
    assert all({ONE, TWO} <= each for each in servers)
    assert at_end == {ONE, TWO, THREE}
    assert in_memory == [None, None, None, None, at_end]


async def test_server_is_in_the_room_at_the_event_by_which_it_leaves(
    world: ReceivingWorld,
) -> None:
    room_id, history = await import_joined_room(world)

    await receive(world, history.add(CORA, "m.room.member", {"membership": "leave"}, CORA))
    left_at, row = world.seen[-1]
    after = await world.send(room_id, ALICE)

    assert row.left_servers == (THREE,)
    assert THREE in await world.servers.servers_at(room_id, left_at)
    assert THREE not in await world.servers.servers_at(room_id, after.stream_id)


async def test_join_and_leave_in_one_commit_begin_a_period(world: ReceivingWorld) -> None:
    room_id, history = await import_joined_room(world)
    await receive(world, history.add(CORA, "m.room.member", {"membership": "leave"}, CORA))
    between = await world.send(room_id, ALICE)

    joined = history.add(CORA, "m.room.member", JOIN, CORA)
    left = history.add(CORA, "m.room.member", {"membership": "leave"}, CORA)
    await receive(world, joined, left)
    positions = [stream_id for stream_id, row in world.seen if row.event_id == joined.event_id]

    assert THREE not in await world.servers.servers_at(room_id, between.stream_id)
    assert THREE in await world.servers.servers_at(room_id, positions[0])
    assert THREE in await world.servers.servers_at(room_id, between.stream_id - 1)
