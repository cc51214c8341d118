"""Rooms with a policy server: only events that it signs are sent."""

from collections.abc import Mapping
from typing import Any

import attrs
import orjson
import pytest
import trio
import trio.testing

from hs.core.errors import Forbidden, MatrixError, RemoteFault
from hs.core.events.hashes import essential_bytes
from hs.core.events.policy import KEY_ID
from hs.core.ids import RoomID, ServerName
from hs.core.signing.keys import SigningKey
from hs.core.signing.signed_json import check_signatures
from hs.core.versions import room_version
from hs.nursery.wiring.federation.remote_servers import RemoteServers
from hs.services.rooms.append import policy_servers
from hs.storage.database import Database
from tests.support.composition import SERVER
from tests.support.rooms import ALICE, BOB, World, open_world

KEY = SigningKey.from_seed("policy_server", bytes(range(32)))
POLICY = {"via": SERVER, "public_keys": {"ed25519": KEY.verify_key.base64}}
VERSIONS = ("1", "11", "12")


@attrs.define
class PolicyServer:
    """Signs events whose body is not "spam", with its own key."""

    version: str = "11"
    key: SigningKey = KEY
    asked: list[str] = attrs.Factory(list)
    fault: Exception | None = None
    silent: bool = False

    async def sign(self, server: ServerName, pdu: bytes) -> Mapping[str, Any]:
        event = orjson.loads(pdu)
        self.asked.append(event["type"])
        if self.silent:
            await trio.sleep_forever()
        if self.fault is not None:
            raise self.fault
        if event["content"].get("body") == "spam":
            error = Forbidden("The message appears to contain possible spam")
            raise RemoteFault(server, "refused", error=error)
        signature = self.key.sign(essential_bytes(event, room_version(self.version)))
        return {server: {KEY_ID: signature}}


async def create_room_with_policy(world: World, version: str = "11") -> RoomID:
    room_id = await world.create_room(ALICE, version=version, join=[BOB])
    await world.set_state(room_id, ALICE, "m.room.policy", POLICY)
    return room_id


@pytest.mark.parametrize("version", VERSIONS)
async def test_event_has_both_signatures(database: Database, version: str) -> None:
    server = PolicyServer(version)
    async with open_world(database, remote=RemoteServers(policies=server)) as world:
        room_id = await create_room_with_policy(world, version)
        sent = await world.send(room_id, BOB, "hello")
        await world.set_state(room_id, ALICE, "m.room.policy", {})
        await world.send(room_id, BOB, "unchecked")

    async with open_world(database) as world:
        stored = await world.events.get_one(sent.event_id)

    assert server.asked == ["m.room.message"]
    assert stored is not None
    pdu, rules = stored.event.pdu, stored.event.rules
    message = essential_bytes(pdu, rules)
    check_signatures(pdu, SERVER, {KEY_ID: KEY.verify_key}, message)
    assert len(pdu["signatures"][SERVER]) == 2


async def test_event_refused_by_the_policy_server_is_not_sent(database: Database) -> None:
    async with open_world(database, remote=RemoteServers(policies=PolicyServer())) as world:
        room_id = await create_room_with_policy(world)

        with pytest.raises(Forbidden, match="possible spam"):
            await world.send(room_id, BOB, "spam")
        sent = await world.send(room_id, BOB, "fine")

        rows = [row for _, row in world.seen if row.type == "m.room.message"]
        assert [row.event_id for row in rows] == [sent.event_id]


@pytest.mark.parametrize(
    ("server", "status"),
    [
        (PolicyServer(fault=RemoteFault("x", "away")), 502),
        (PolicyServer(silent=True), 502),
        (PolicyServer(key=SigningKey.from_seed("policy_server", bytes(32))), 403),
    ],
)
async def test_only_the_policy_can_be_changed_without_a_valid_signature(
    database: Database, server: PolicyServer, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_servers, "SIGN_TIMEOUT_S", 0.05)
    async with open_world(database, remote=RemoteServers(policies=server)) as world:
        room_id = await create_room_with_policy(world)

        with pytest.raises(MatrixError) as refused:
            await world.send(room_id, BOB, "hello")
        assert refused.value.status == status
        await world.set_state(room_id, ALICE, "m.room.policy", {})
        await world.send(room_id, BOB, "free again")


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"via": SERVER},
        {"via": SERVER, "public_keys": {"ed25519": "no key"}},
        {"via": 1, "public_keys": POLICY["public_keys"]},
        {**POLICY, "via": "elsewhere.example"},
    ],
)
async def test_invalid_or_absent_policy_server_is_not_asked(
    database: Database, content: dict[str, Any]
) -> None:
    server = PolicyServer()
    async with open_world(database, remote=RemoteServers(policies=server)) as world:
        room_id = await world.create_room(ALICE, join=[BOB])
        await world.set_state(room_id, ALICE, "m.room.policy", content)
        await world.send(room_id, BOB, "hello")

    assert server.asked == []


async def test_waiting_for_a_policy_server_does_not_block_other_rooms(
    database: Database,
) -> None:
    server = PolicyServer()
    async with open_world(database, remote=RemoteServers(policies=server)) as world:
        slow, other = await create_room_with_policy(world), await world.create_room(ALICE)
        server.silent = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.send, slow, BOB)
            await trio.testing.wait_all_tasks_blocked()
            with trio.fail_after(60):
                await world.send(other, ALICE, "at once")
            nursery.cancel_scope.cancel()
