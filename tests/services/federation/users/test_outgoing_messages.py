"""To-device messages of our users to users of other servers."""

from collections.abc import AsyncIterator

import pytest

from hs.core.edus import DIRECT_TO_DEVICE
from hs.storage.database import Database
from hs.storage.federation import outgoing_to_device
from tests.services.federation.sending import sending, wait_until
from tests.services.federation.users.remote_lists import (
    ANN,
    FAR,
    USER,
    Near,
    open_near,
    share_room,
)
from tests.support.federation import PeerNetwork


@pytest.fixture
async def near(database: Database) -> AsyncIterator[Near]:
    async with open_near(PeerNetwork(), database) as near:
        yield near


async def test_message_is_delivered_once(near: Near) -> None:
    far = await share_room(near)
    token = await near.devices.device(ANN, "HERS")
    messages = {USER: {"PHONE": {"n": 1}, "*": {"n": 2}}, ANN: {"HERS": {"n": 3}}}

    async with sending(near.server):
        for _ in range(2):
            response = await near.devices.send(token, "t", messages)
            assert response.status == 200, response.body
        await near.devices.send(token, "last", {USER: {"PHONE": {"n": 4}}})
        await wait_until(lambda: len(far.peer.edus(DIRECT_TO_DEVICE)) == 2)

    first, last = far.peer.edus(DIRECT_TO_DEVICE)
    assert first["message_id"] != last["message_id"]
    assert first["messages"] == {USER: {"PHONE": {"n": 1}, "*": {"n": 2}}}
    assert (first["sender"], first["type"]) == (ANN, "m.test")
    assert len((await near.devices.sync(ANN, "HERS"))["to_device"]["events"]) == 1


async def test_message_is_stored_before_the_request_is_answered(database: Database) -> None:
    network = PeerNetwork()
    async with open_near(network, database) as near:
        far = await share_room(near)
        token = await near.devices.device(ANN, "HERS")
        await near.devices.send(token, "t", {USER: {"PHONE": {"n": 1}}})
        stored = await database.read(outgoing_to_device.list_of_destination, FAR, 10)

    async with open_near(network, database) as near, sending(near.server):
        await wait_until(lambda: far.peer.edus(DIRECT_TO_DEVICE))

    assert len(stored) == 1


async def test_malformed_messages_are_not_stored(near: Near) -> None:
    token = await near.devices.device(ANN, "HERS")

    response = await near.devices.send(token, "t", {USER: {"PHONE": {"n": 1}, "X": 7}})

    assert (response.status, response.errcode) == (400, "M_BAD_JSON")
    assert await near.server.world.database.read(outgoing_to_device.list_destinations) == []
