"""Events of a room with a policy server are soft-failed unless the policy server signs them."""

from collections.abc import Mapping
from typing import Any

import attrs
import orjson

from hs.core.errors import Forbidden, RemoteFault
from hs.core.events.hashes import essential_bytes
from hs.core.events.policy import KEY_ID
from hs.core.ids import ServerName
from hs.core.signing.keys import SigningKey
from hs.core.versions import room_version
from hs.nursery.wiring.federation.remote_servers import RemoteServers
from hs.services.rooms.store.stored_event import EventStatus
from hs.storage.database import Database
from tests.services.federation.inbound.inbound_scene import ONE, TWO, open_inbound
from tests.support.peers import ADMIN, CORA

KEY = SigningKey.from_seed("policy_server", bytes(range(32)))
POLICY = {"via": TWO, "public_keys": {"ed25519": KEY.verify_key.base64}}


@attrs.define
class PolicyServer:
    """Signs events whose body is not "spam"."""

    asked: list[str] = attrs.Factory(list)

    async def sign(self, server: ServerName, pdu: bytes) -> Mapping[str, Any]:
        """Sign an event, or refuse it."""
        event = orjson.loads(pdu)
        self.asked.append(event["content"]["body"])
        if event["content"]["body"] == "spam":
            raise RemoteFault(server, "refused", error=Forbidden("spam"))
        signature = KEY.sign(essential_bytes(event, room_version("11")))
        return {server: {KEY_ID: signature}}


async def test_unsigned_events_are_soft_failed_if_the_policy_server_refuses(
    database: Database,
) -> None:
    policies = PolicyServer()
    async with open_inbound(database, remote=RemoteServers(policies=policies)) as inbound:
        history = inbound.history
        policy = history.add(ADMIN, "m.room.policy", POLICY, "")
        await inbound.send(policy)
        good = history.add(CORA, "m.room.message", {"body": "hello"})
        spam = history.add(CORA, "m.room.message", {"body": "spam"})

        results = await inbound.send(good, spam, origin=ONE)
        await inbound.send(good, spam, origin=TWO)

        assert results == {good.event_id: {}, spam.event_id: {}}
        assert await inbound.status(policy) is EventStatus.ACCEPTED
        assert await inbound.status(good) is EventStatus.ACCEPTED
        assert await inbound.status(spam) is EventStatus.SOFT_FAILED
        stored = await inbound.server.world.events.get_one(good.event_id)
    assert stored is not None
    assert KEY_ID in stored.event.pdu["signatures"][TWO]
    assert sorted(policies.asked) == ["hello", "spam"]
