"""Events that leave: to the servers in the room, in order, once the network allows it."""

import trio
import trio.testing

from hs.core.events import event_types
from hs.core.ids import ServerName, UserID
from hs.services.rooms.append.drafts import Draft
from tests.services.federation.sending import (
    JOIN,
    ReceivingPeer,
    receive,
    sending,
    shared_room,
    wait_until,
)
from tests.support.federation import open_servers

NEAR, FAR, OTHER = (ServerName(f"{name}.example") for name in ("near", "far", "other"))
ANN = UserID("@ann:near.example")


async def test_events_are_sent_in_order() -> None:
    async with open_servers(NEAR) as (near,):
        far = ReceivingPeer(FAR, near.network)
        room_id, _ = await shared_room(near, far)
        async with sending(near):
            for number in range(120):
                await near.world.send(room_id, ANN, str(number))
            await wait_until(lambda: len(far.pdus()) == 120)

    assert far.bodies() == [str(number) for number in range(120)]
    assert all(len(transaction["pdus"]) <= 50 for transaction in far.transactions)
    assert {transaction["origin"] for transaction in far.transactions} == {NEAR}


async def test_rooms_of_local_users_are_not_sent() -> None:
    async with open_servers(NEAR) as (near,):
        far = ReceivingPeer(FAR, near.network)
        shared, _ = await shared_room(near, far)
        async with sending(near):
            private = await near.world.create_room(ANN)
            await near.world.send(private, ANN, "private")
            await near.world.send(shared, ANN, "shared")
            await wait_until(far.bodies)

    assert far.bodies() == ["shared"]
    assert len(far.pdus()) == 1


async def test_events_of_other_servers_are_sent_only_if_relayed() -> None:
    async with open_servers(NEAR) as (near,):
        far, other = ReceivingPeer(FAR, near.network), ReceivingPeer(OTHER, near.network)
        _, history = await shared_room(near, far)
        async with sending(near):
            joined = history.add(other.user, "m.room.member", JOIN, other.user)
            await receive(near, joined, relay=True)
            await receive(near, history.add(far.user, "m.room.message", {"body": "x"}))
            await wait_until(far.pdus)

    assert [pdu["state_key"] for pdu in far.pdus()] == [other.user]
    assert other.pdus() == []


async def test_dummy_events_are_not_sent() -> None:
    async with open_servers(NEAR) as (near,):
        far = ReceivingPeer(FAR, near.network)
        room_id, _ = await shared_room(near, far)
        async with sending(near):
            await near.world.append(room_id, Draft(event_types.DUMMY, ANN, {}))
            await near.world.send(room_id, ANN, "after")
            await wait_until(far.bodies)

    assert [pdu["type"] for pdu in far.pdus()] == ["m.room.message"]


async def test_kick_reaches_the_server_that_leaves() -> None:
    async with open_servers(NEAR) as (near,):
        far, other = ReceivingPeer(FAR, near.network), ReceivingPeer(OTHER, near.network)
        room_id, _ = await shared_room(near, far, other)
        async with sending(near):
            await near.world.send(room_id, ANN, "before")
            await near.world.set_membership(room_id, ANN, far.user, "leave")
            await near.world.send(room_id, ANN, "after")
            await wait_until(lambda: len(other.pdus()) == 3)
            await wait_until(lambda: len(far.pdus()) == 2)

    assert far.bodies() == ["before"]
    assert far.pdus()[-1]["content"]["membership"] == "leave"
    assert other.bodies() == ["before", "after"]


async def test_last_leave_of_this_server_is_sent() -> None:
    async with open_servers(NEAR) as (near,):
        far = ReceivingPeer(FAR, near.network)
        room_id, _ = await shared_room(near, far)
        async with sending(near):
            await near.world.set_membership(room_id, ANN, ANN, "leave")
            await wait_until(far.pdus)

    assert far.pdus()[0]["state_key"] == ANN


async def test_join_through_another_server_is_not_sent_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_servers(NEAR) as (near,):
        far = ReceivingPeer(FAR, near.network)
        async with sending(near):
            room_id, _ = await shared_room(near, far)
            await near.world.send(room_id, ANN, "first")
            await wait_until(far.bodies)
            await trio.sleep(10)

    assert [pdu["type"] for pdu in far.pdus()] == ["m.room.message"]
