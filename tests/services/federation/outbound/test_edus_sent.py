"""EDUs that leave: typing, receipts, presence, device lists and to-device messages."""

from typing import Any

import attrs
import pytest
import trio
import trio.testing

from hs.core.canonical_json import encode_lenient
from hs.core.ids import EventID, RoomID, ServerName, UserID
from hs.core.requester import Requester
from hs.nursery.wiring.federation.outbound import wire_outgoing_messages
from hs.services.devices.device_list_writer import NewSignature, SigningKeyUpload
from hs.services.devices.remote_devices import OutgoingMessage
from hs.services.ephemeral.receipts import Move
from hs.services.federation.outbound.delivery import KEEP_S
from hs.storage.database import Database, Tx
from hs.storage.devices import device_keys
from hs.storage.federation import outgoing_to_device
from tests.services.federation.sending import (
    JOIN,
    ReceivingPeer,
    receive,
    sending,
    shared_room,
    wait_until,
)
from tests.support.devices import KeyPair
from tests.support.federation import FederatedServer, PeerNetwork, open_server, open_servers

NEAR, FAR, OTHER = (ServerName(f"{name}.example") for name in ("near", "far", "other"))
ANN = UserID("@ann:near.example")


async def test_typing_is_sent(autojump_clock: trio.testing.MockClock) -> None:
    async with open_servers(NEAR) as (near,):
        far = ReceivingPeer(FAR, near.network)
        room_id, _ = await shared_room(near, far)
        typing = near.process.services.ephemeral.typing
        async with sending(near), near.process.duties("typing"):
            await typing.set_typing(Requester(ANN), room_id, ANN, 60_000)
            await wait_until(lambda: len(far.edus("m.typing")) == 2)
            await typing.set_typing(Requester(ANN), room_id, ANN, 0)
            await wait_until(lambda: len(far.edus("m.typing")) == 3)

    content = {"room_id": room_id, "user_id": ANN}
    assert far.edus() == [
        {**content, "typing": True},
        {**content, "typing": True},
        {**content, "typing": False},
    ]


async def move_receipt(
    server: FederatedServer, room_id: RoomID, event_id: EventID, **changes: Any
) -> None:
    """Move a receipt of Ann, by default the public one of the whole room."""
    move = Move(room_id, "m.read", ANN, event_id, None, thread_id="", ts=5)
    await server.process.services.ephemeral.reading.writer.move([attrs.evolve(move, **changes)])


async def test_receipts_are_sent_unless_they_are_private(database: Database) -> None:
    network = PeerNetwork()
    async with open_server(NEAR, network, database) as near:
        far = ReceivingPeer(FAR, near.network)
        room_id, _ = await shared_room(near, far)
        sent = await near.world.send(room_id, ANN)
        async with sending(near):
            await move_receipt(near, room_id, sent.event_id, receipt_type="m.read.private")
            await move_receipt(near, room_id, sent.event_id)
            await move_receipt(near, room_id, sent.event_id, thread_id="main", ts=6)
            await wait_until(lambda: len(far.edus("m.receipt")) == 2)

    data = [edu[room_id]["m.read"][ANN] for edu in far.edus("m.receipt")]
    assert data == [
        {"event_ids": [sent.event_id], "data": {"ts": 5}},
        {"event_ids": [sent.event_id], "data": {"ts": 6, "thread_id": "main"}},
    ]


async def test_receipts_of_a_large_room_are_gathered(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_servers(NEAR) as (near,):
        peers = [ReceivingPeer(ServerName(f"far{n}.example"), near.network) for n in range(20)]
        room_id, _ = await shared_room(near, *peers)
        async with sending(near):
            for number in range(10):
                event_id = EventID(f"${number}")
                await move_receipt(near, room_id, event_id, event_stream_id=number + 1)
                await trio.sleep(0.001)
            await trio.sleep(10)

    for peer in peers:
        assert [edu[room_id]["m.read"][ANN]["event_ids"] for edu in peer.edus()] == [["$0"], ["$9"]]


async def test_presence_is_sent(autojump_clock: trio.testing.MockClock) -> None:
    async with open_servers(NEAR) as (near,):
        far = ReceivingPeer(FAR, near.network)
        await shared_room(near, far)
        writer = near.process.services.ephemeral.presence.writer
        async with sending(near), near.process.duties("presence"):
            await writer.set_presence(ANN, "PHONE", "online", "here")
            await wait_until(lambda: far.edus("m.presence"))

    (update,) = far.edus("m.presence")[0]["push"]
    assert (update["user_id"], update["presence"], update["status_msg"]) == (ANN, "online", "here")


async def test_server_that_joins_gets_presence(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_servers(NEAR) as (near,):
        far, other = ReceivingPeer(FAR, near.network), ReceivingPeer(OTHER, near.network)
        _, history = await shared_room(near, far)
        writer = near.process.services.ephemeral.presence.writer
        async with sending(near), near.process.duties("presence"):
            await writer.set_presence(ANN, "PHONE", "online", "here")
            await wait_until(lambda: far.edus("m.presence"))
            await receive(near, history.add(other.user, "m.room.member", JOIN, other.user))
            await wait_until(lambda: other.edus("m.presence"))

    assert other.edus("m.presence")[0]["push"][0]["user_id"] == ANN
    assert len(far.edus("m.presence")) == 1


async def test_device_updates_are_a_chain(database: Database) -> None:
    network = PeerNetwork()
    async with open_server(NEAR, network, database) as near:
        far = ReceivingPeer(FAR, near.network)
        await shared_room(near, far)
        lists = near.process.services.core.device_writers.lists
        await database.write(add_device)
        async with sending(near):
            await lists.announce(ANN, ["PHONE"])
            await wait_until(lambda: len(far.edus()) == 1)
            await lists.forget(ANN, ["GONE"])
            await wait_until(lambda: len(far.edus()) == 2)

    first, second = far.edus("m.device_list_update")
    assert first == {
        "user_id": ANN,
        "device_id": "PHONE",
        "stream_id": first["stream_id"],
        "prev_id": [],
    }
    assert second == {
        "user_id": ANN,
        "device_id": "GONE",
        "stream_id": second["stream_id"],
        "prev_id": [first["stream_id"]],
        "deleted": True,
    }


async def add_device(tx: Tx) -> None:
    """Add a device without keys."""
    await tx.execute(
        "INSERT INTO devices (user_id, device_id, display_name, created_ms, inbox) "
        "VALUES ($1, 'PHONE', 'secret', 1, 7)",
        ANN,
    )


async def test_keys_are_sent_with_the_signatures_of_their_owner(database: Database) -> None:
    network = PeerNetwork()
    master, phone = KeyPair.of_user(ANN, 1), KeyPair.of_device(ANN, "PHONE", 2)
    content = phone.device_keys()
    async with open_server(NEAR, network, database) as near:
        far = ReceivingPeer(FAR, near.network)
        await shared_room(near, far)
        lists = near.process.services.core.device_writers.lists
        await database.write(add_device)
        await database.write(device_keys.put_device_keys, ANN, "PHONE", encode_lenient(content))
        usable = master.usable_as("master")
        async with sending(near):
            upload = SigningKeyUpload("master", master.public, encode_lenient(usable))
            await lists.put_cross_signing(ANN, [upload], True)
            await wait_until(lambda: len(far.edus()) == 2)
            signature = NewSignature(ANN, "PHONE", f"ed25519:{master.name}", "signature")
            await lists.put_signatures(ANN, [signature])
            await wait_until(lambda: len(far.edus()) == 3)

    keys = {"user_id": ANN, "master_key": usable}
    assert far.edus("m.signing_key_update") == [keys]
    assert far.edus("org.matrix.signing_key_update") == [keys]
    (update,) = far.edus("m.device_list_update")
    content["signatures"][ANN][f"ed25519:{master.name}"] = "signature"
    assert update["keys"] == {**content, "unsigned": {}}
    assert "device_display_name" not in update


async def test_messages_are_sent_once_they_are_stored(database: Database) -> None:
    network = PeerNetwork()
    async with open_server(NEAR, network, database) as near:
        far = ReceivingPeer(FAR, near.network)
        await send_messages(near, OutgoingMessage(far.user, "A", {"number": 0}))
        async with sending(near):
            await wait_until(lambda: len(far.edus()) == 1)
            await send_messages(
                near, *(OutgoingMessage(far.user, device, {"share": 0.5}) for device in ("A", "*"))
            )
            await wait_until(lambda: len(far.edus()) == 2)
            await wait_until_delivered(database)

    first, second = far.edus("m.direct_to_device")
    assert first["messages"] == {far.user: {"A": {"number": 0}}}
    assert second["messages"] == {far.user: {"A": {"share": 0.5}, "*": {"share": 0.5}}}
    assert (first["sender"], first["type"]) == (ANN, "m.test")
    assert first["message_id"] != second["message_id"]


async def send_messages(server: FederatedServer, *messages: OutgoingMessage) -> None:
    """Store messages of Ann and wake the senders, as the writer of inboxes does."""
    base = server.process.base
    outgoing = wire_outgoing_messages(base)
    edus = outgoing.encode_messages(ANN, "m.test", messages)
    await base.database.write(outgoing_to_device.insert, edus, base.clock.now_ms())
    outgoing.announce_messages(edus)


async def wait_until_delivered(database: Database) -> None:
    """Wait until no message is stored."""
    with trio.fail_after(10):
        while await database.read(outgoing_to_device.list_destinations):  # noqa: ASYNC110  # bounded
            await trio.sleep(0.05)


@pytest.mark.parametrize("away_s", [10, 2 * KEEP_S])
async def test_single_message_is_sent_again_after_failures(
    away_s: float, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_servers(NEAR) as (near,):
        far = ReceivingPeer(FAR, near.network)
        near.network.down.add(FAR)
        async with sending(near):
            await send_messages(near, OutgoingMessage(far.user, "A", {"number": 0}))
            await trio.sleep(away_s)
            near.network.down.clear()
            await wait_until(lambda: len(far.edus()) == 1, within_s=4000)


async def test_messages_wait_while_the_server_is_away(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_servers(NEAR) as (near,):
        far = ReceivingPeer(FAR, near.network)
        near.network.down.add(FAR)
        async with sending(near):
            for number in range(150):
                await send_messages(near, OutgoingMessage(far.user, "A", {"number": number}))
            await trio.sleep(300)
            near.network.down.clear()
            await wait_until(lambda: len(far.edus()) == 150, within_s=4000)

    numbers = [edu["messages"][far.user]["A"]["number"] for edu in far.edus()]
    assert numbers == list(range(150))
    assert max(len(transaction["edus"]) for transaction in far.transactions) == 100
