"""A federation sender that starts again: nothing is lost, whatever it was doing."""

import attrs

from hs.core.ids import ServerName, UserID
from hs.repl.slots.assignment import shard_of
from hs.settings.settings import Settings
from hs.storage.database import Database, Tx
from tests.services.federation.sending import (
    JOIN,
    ReceivingPeer,
    have_pdus,
    receive,
    sending,
    shared_room,
    wait_until,
)
from tests.support.composition import SETTINGS, Neighbourhood, worker_settings
from tests.support.federation import PeerNetwork, open_server

NEAR, FAR, OTHER = (ServerName(f"{name}.example") for name in ("near", "far", "other"))
ANN = UserID("@ann:near.example")


async def test_events_sent_while_no_sender_ran_follow(database: Database) -> None:
    network = PeerNetwork()
    async with open_server(NEAR, network, database) as near:
        far = ReceivingPeer(FAR, network)
        room_id, _ = await shared_room(near, far)
        async with sending(near):
            await near.world.send(room_id, ANN, "0")
            await wait_until(far.bodies)
        for number in range(1, 4):
            await near.world.send(room_id, ANN, str(number))
    async with open_server(NEAR, network, database) as near, sending(near):
        await wait_until(lambda: len(far.bodies()) == 4)

    assert far.bodies() == ["0", "1", "2", "3"]


async def test_crash_of_the_sender_loses_nothing(database: Database) -> None:
    network = PeerNetwork()
    async with open_server(NEAR, network, database) as near:
        far = ReceivingPeer(FAR, network)
        room_id, _ = await shared_room(near, far)
        async with sending(near):
            await near.world.send(room_id, ANN, "0")
            await wait_until(far.bodies)
            before = await database.read(list_rows)
        async with sending(near):
            far.status = 502
            await near.world.send(room_id, ANN, "1")
            await near.world.set_membership(room_id, ANN, far.user, "leave")
        # What the duty stores when it ends in good order, a killed process does not.
        await database.write(restore_rows, before)
    far.status = 200
    async with open_server(NEAR, network, database) as near, sending(near):
        await wait_until(lambda: far.pdus()[-1]["type"] == "m.room.member")

    assert list(dict.fromkeys(far.bodies())) == ["0", "1"]


async def list_rows(tx: Tx) -> list[tuple[object, ...]]:
    """Return the stored positions."""
    return [tuple(row) for row in await tx.fetch("SELECT * FROM federation_positions")]


async def restore_rows(tx: Tx, rows: list[tuple[object, ...]]) -> None:
    """Put back the stored positions."""
    await tx.execute("DELETE FROM federation_positions")
    for row in rows:
        await tx.execute("INSERT INTO federation_positions VALUES ($1, $2, $3, $4, $5)", *row)


def sharded(name: str, senders: tuple[str, ...]) -> Settings:
    """Return the settings of a process of a server with federation senders."""
    settings = worker_settings(SETTINGS, name, "main", "a", "b")
    workers = attrs.evolve(settings.workers, federation_senders=senders)
    return attrs.evolve(settings, workers=workers)


async def test_senders_share_the_servers(database: Database) -> None:
    network, neighbours = PeerNetwork(), Neighbourhood()
    senders = ("a", "b")
    peers = [ReceivingPeer(ServerName(f"far{n}.example"), network) for n in range(8)]
    async with (
        open_server(
            NEAR, network, database, settings=sharded("main", senders), neighbours=neighbours
        ) as near,
        open_server(
            NEAR, network, database, settings=sharded("a", senders), neighbours=neighbours
        ) as first,
        open_server(
            NEAR, network, database, settings=sharded("b", senders), neighbours=neighbours
        ) as second,
    ):
        room_id, _ = await shared_room(near, *peers)
        async with sending(first, "federation sender 1 of 2"):
            await near.world.send(room_id, ANN, "0")
            mine = [peer for peer in peers if shard_of(peer.name, 2) == 0]
            await wait_until(lambda: all(peer.bodies() for peer in mine))
            assert 0 < len(mine) < 8
            assert all(not peer.bodies() for peer in peers if peer not in mine)
        async with sending(second, "federation sender 2 of 2"):
            await near.world.send(room_id, ANN, "1")
            rest = [peer for peer in peers if peer not in mine]
            await wait_until(lambda: all(len(peer.bodies()) == 2 for peer in rest))

    assert all(peer.bodies() == ["0", "1"] for peer in rest)


async def test_changed_list_of_senders_loses_nothing(database: Database) -> None:
    network, neighbours = PeerNetwork(), Neighbourhood()
    peers = [ReceivingPeer(ServerName(f"far{n}.example"), network) for n in range(8)]
    async with open_server(NEAR, network, database) as near:
        room_id, _ = await shared_room(near, *peers)
        async with sending(near):
            await near.world.send(room_id, ANN, "0")
            await wait_until(have_pdus(1, *peers))
        await near.world.send(room_id, ANN, "1")
    senders = ("a", "b")
    async with (
        open_server(
            NEAR, network, database, settings=sharded("main", senders), neighbours=neighbours
        ),
        open_server(
            NEAR, network, database, settings=sharded("a", senders), neighbours=neighbours
        ) as first,
        open_server(
            NEAR, network, database, settings=sharded("b", senders), neighbours=neighbours
        ) as second,
        sending(first, "federation sender 1 of 2"),
        sending(second, "federation sender 2 of 2"),
    ):
        await wait_until(have_pdus(2, *peers))

    assert all(list(dict.fromkeys(peer.bodies())) == ["0", "1"] for peer in peers)
    senders_stored = {row[0] for row in await database.read(list_rows)}
    assert senders_stored == {"a", "b"}


async def test_relayed_events_follow_after_a_restart(database: Database) -> None:
    network = PeerNetwork()
    far, other = ReceivingPeer(FAR, network), ReceivingPeer(OTHER, network)
    async with open_server(NEAR, network, database) as near:
        _, history = await shared_room(near, far)
        async with sending(near):
            pass
        joined = history.add(other.user, "m.room.member", JOIN, other.user)
        await receive(near, joined, relay=True)
    async with open_server(NEAR, network, database) as near, sending(near):
        await wait_until(have_pdus(1, far))

    assert [pdu["state_key"] for pdu in far.pdus()] == [other.user]
    assert other.pdus() == []
