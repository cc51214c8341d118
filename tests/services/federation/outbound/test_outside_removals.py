"""Removals of users whose server is not in the room, and could not be reached then."""

import pytest
import trio
import trio.testing

from hs.core.ids import RoomID
from hs.core.requester import Requester
from hs.core.streams import EVENTS
from hs.storage.database import Database, Tx
from hs.storage.federation import outbound as storage
from hs.storage.federation.outbound import BehindRecord, SenderPositionRecord
from hs.storage.rooms import room_servers
from hs.storage.rooms.room_servers import RemovalRecord
from tests.services.federation.joining.rooms_between import (
    ANN,
    BEN,
    CLEO,
    FAR,
    NEAR,
    membership_at,
    membership_of,
    register,
)
from tests.services.federation.outbound.test_catching_up import wait_until_behind
from tests.services.federation.sending import announce_heard, sending
from tests.services.federation.shared_rooms import join_through
from tests.support.federation import FederatedServer, PeerNetwork, open_server, open_servers
from tests.support.sql.databases import fresh_inline


async def invited_to_new_room(far: FederatedServer, near: FederatedServer) -> RoomID:
    """Let Ann invite Ben to a room that his server is not in."""
    room_id = await far.world.create_room(ANN)
    await membership_of(far).invite(Requester(ANN), room_id, BEN)
    assert await membership_at(near, room_id, BEN) == "invite"
    return room_id


async def wait_for_membership(server: FederatedServer, room_id: RoomID, membership: str) -> None:
    """Wait until a server knows of a membership of Ben. Raises: TooSlowError."""
    with trio.fail_after(120):
        while await membership_at(server, room_id, BEN) != membership:  # noqa: ASYNC110  # bounded
            await trio.sleep(0.1)


async def list_removals(tx: Tx) -> list[tuple[str, str]]:
    """Return (server, user ID) of the stored removals."""
    return [
        (row[0], row[1]) for row in await tx.fetch("SELECT server, user_id FROM outside_removals")
    ]


async def wait_for_position(database: Database, position: int) -> None:
    """Wait until the sender has stored a position in the stream of events."""
    with trio.fail_after(20):
        while True:
            rows = await database.read(storage.list_positions)
            if min(row.position for row in rows if row.stream == EVENTS.name) >= position:
                return
            await trio.sleep(0.01)


async def set_position(database: Database, position: int) -> None:
    """Store the position of the only sender."""
    rows = [SenderPositionRecord("main", EVENTS.name, "main", position, "[]")]
    await database.write(storage.set_positions, rows, "[]", 1)


async def wait_for_no_removals(database: Database) -> None:
    """Wait until no removal is stored any more. Raises: TooSlowError."""
    with trio.fail_after(120):
        while await database.read(list_removals):  # noqa: ASYNC110  # bounded
            await trio.sleep(0.1)


@pytest.mark.parametrize("end", ["leave", "ban"])
async def test_withdrawn_invites_reach_server_that_was_behind(
    autojump_clock: trio.testing.MockClock, end: str
) -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        await register(near, BEN)
        shared = await far.world.create_room(ANN)
        await far.world.set_membership(shared, ANN, CLEO, "invite")
        async with sending(far):
            await join_through(far, near, shared, CLEO)
            rooms = [await invited_to_new_room(far, near) for _ in range(2)]
            far.network.down.add(NEAR)
            await far.world.set_membership(rooms[0], ANN, BEN, end)
            await wait_until_behind(far)
            await far.world.set_membership(rooms[1], ANN, BEN, end)
            far.network.down.clear()
            await announce_heard(far, NEAR)
            for room_id in rooms:
                await wait_for_membership(near, room_id, end)
            await wait_for_no_removals(far.process.base.database)


async def test_removals_follow_after_restarts(database: Database) -> None:
    network = PeerNetwork()
    async with fresh_inline() as other, open_server(NEAR, network, other) as near:
        await register(near, BEN)
        async with open_server(FAR, network, database) as far:
            room_id = await invited_to_new_room(far, near)
            network.down.add(NEAR)
            await database.write(storage.set_behind, [BehindRecord(NEAR, 0, 0, 0)])
            async with sending(far):
                ban = await far.world.set_membership(room_id, ANN, BEN, "ban")
            async with sending(far):  # it stores its position when it has begun
                await wait_for_position(database, ban.stream_id)
        assert await database.read(list_removals) == [(NEAR, BEN)]
        network.down.clear()
        async with open_server(FAR, network, database) as far, sending(far):
            with trio.fail_after(20):
                while await membership_at(near, room_id, BEN) != "ban":
                    await announce_heard(far, NEAR)  # in vain until the sender has begun
                    await trio.sleep(0.1)


async def test_removals_are_kept_for_servers_that_lack_them(database: Database) -> None:
    servers = ["current", "lacking", "having"]
    rows = [RemovalRecord(server, "!room", f"@user:{server}", 5) for server in servers]
    await database.write(room_servers.add_removals, rows)
    behind = [BehindRecord("lacking", 0, 4, 0), BehindRecord("having", 0, 5, 0)]
    await database.write(storage.set_behind, behind)
    await set_position(database, 4)
    assert await database.write(storage.delete_passed, EVENTS.name, 0) == 4
    assert len(await database.read(list_removals)) == 3
    await set_position(database, 5)

    assert await database.write(storage.delete_passed, EVENTS.name, 4) == 5
    assert await database.read(list_removals) == [("lacking", "@user:lacking")]
    assert await database.read(storage.missed_events, "lacking", 4, 10) == [(5, False)]
    assert await database.read(storage.missed_events, "lacking", 5, 10) == []
    await database.write(storage.delete_behind, ["lacking"], 4)
    assert len(await database.read(list_removals)) == 1
    await database.write(storage.delete_behind, ["lacking"], 5)
    assert await database.read(list_removals) == []


async def test_removal_that_a_server_has_is_not_kept(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        await register(near, BEN)
        room_id = await invited_to_new_room(far, near)
        async with sending(far):
            await far.world.set_membership(room_id, ANN, BEN, "leave")
            assert await far.process.base.database.read(list_removals) == [(NEAR, BEN)]
            await wait_for_membership(near, room_id, "leave")
            await wait_for_no_removals(far.process.base.database)
