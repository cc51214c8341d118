"""Servers that join after an event was sent are not sent it, however late the sender is."""

import orjson
import trio.testing

from hs.core.ids import ServerName, UserID
from hs.storage.database import Database
from tests.services.federation.outbound.test_catching_up import wait_until_behind
from tests.services.federation.sending import announce_heard, sending, wait_until
from tests.services.federation.shared_rooms import join_through
from tests.support.federation import PeerNetwork, open_server, open_servers

NEAR, FAR, THIRD = (ServerName(f"{name}.example") for name in ("near", "far", "third"))
ANN, BOB, CAT = (
    UserID("@ann:near.example"),
    UserID("@bob:far.example"),
    UserID("@cat:third.example"),
)


def sent_to(network: PeerNetwork, server: ServerName) -> list[str]:
    """Return what a server was sent: the bodies of messages, the memberships of others."""
    pdus = [
        pdu
        for _, request in network.sent
        if request.server == server and "/send/" in request.uri
        for pdu in orjson.loads(request.body or b"")["pdus"]
    ]
    return [pdu["content"].get("body") or pdu["content"]["membership"] for pdu in pdus]


async def test_restarted_sender_sends_nothing_from_before_a_join(database: Database) -> None:
    network = PeerNetwork()
    async with open_servers(FAR, THIRD, network=network) as (far, third):
        async with open_server(NEAR, network, database) as near:
            room_id = await near.world.create_room(ANN)
            await join_through(near, far, room_id, BOB)
            async with sending(near):
                pass
            await near.world.send(room_id, ANN, "before")
            await join_through(near, third, room_id, CAT)
            await near.world.send(room_id, ANN, "after")
        async with open_server(NEAR, network, database) as near, sending(near):
            await wait_until(lambda: "after" in sent_to(network, FAR))
            await wait_until(lambda: "after" in sent_to(network, THIRD))

    assert sent_to(network, FAR) == ["before", "after"]
    assert sent_to(network, THIRD) == ["after"]


async def test_server_that_left_and_joined_again_misses_what_was_sent_between(
    database: Database,
) -> None:
    network = PeerNetwork()
    async with open_servers(FAR, network=network) as (far,):
        async with open_server(NEAR, network, database) as near:
            room_id = await near.world.create_room(ANN)
            await join_through(near, far, room_id, BOB)
            async with sending(near):
                pass
            await near.world.send(room_id, ANN, "while there")
            await near.world.set_membership(room_id, ANN, BOB, "leave")
            await near.world.send(room_id, ANN, "while away")
            await join_through(near, far, room_id, BOB)
            await near.world.send(room_id, ANN, "when back")
            await near.world.set_membership(room_id, ANN, BOB, "ban")
            await near.world.send(room_id, ANN, "at last")
        async with open_server(NEAR, network, database) as near, sending(near):
            await wait_until(lambda: "ban" in sent_to(network, FAR))
            await near.world.send(room_id, ANN, "later")
            await trio.testing.wait_all_tasks_blocked()

    assert sent_to(network, FAR) == ["while there", "leave", "when back", "ban"]


async def test_server_that_catches_up_misses_what_was_sent_before_its_join(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        old_room = await near.world.create_room(ANN)
        await join_through(near, far, old_room, BOB)
        new_room = await near.world.create_room(ANN)
        async with sending(near):
            near.network.down.add(FAR)
            await near.world.send(old_room, ANN, "missed")
            await wait_until_behind(near)
            await near.world.send(new_room, ANN, "before")
            await join_through(near, far, new_room, BOB)
            near.network.sent.clear()  # attempts that failed
            near.network.down.clear()
            await announce_heard(near, FAR)
            await wait_until(lambda: "missed" in sent_to(near.network, FAR))
            await near.world.send(new_room, ANN, "after")
            await wait_until(lambda: "after" in sent_to(near.network, FAR))

    assert sent_to(near.network, FAR) == ["missed", "after"]
