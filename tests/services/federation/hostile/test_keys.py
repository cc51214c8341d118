"""Servers and notaries that lie about keys."""

from typing import Any

import canonicaljson
import pytest
import trio

from hs.core.ids import ServerName
from hs.core.signing.keys import Signer, SigningKey
from hs.core.signing.signed_json import sign_json
from hs.lib.clock import FixedClock
from hs.services.federation_client import server_keys
from hs.services.federation_client.key_responses import QUERY_URI
from hs.services.federation_client.peer_transport import PeerRequest, PeerResponse
from hs.settings.sections.federation import KeyServerSettings
from hs.storage.database import Database
from tests.services.federation.hostile.conftest import ServerLog
from tests.services.federation_client.test_server_keys import (
    DAY_MS,
    FAR,
    KEY,
    NOTARY,
    KeyPublisher,
    is_found,
    near,
    needs,
    notary_answering,
)
from tests.support.federation import PeerNetwork, ScriptedPeer
from tests.support.peers import signer_of

FORGED = SigningKey.from_seed("key", bytes([7]) * 32)  # with the ID of the true key


def published(**changes: Any) -> dict[str, Any]:
    """Return a response that FAR has signed, with changes."""
    return {
        "server_name": FAR,
        "valid_until_ts": 2**52,
        "verify_keys": {KEY.key_id: {"key": KEY.base64}},
        "old_verify_keys": {},
        **changes,
    }


class Publisher(ScriptedPeer):
    """A server that publishes what its name says, signed without any check."""

    content: Any = None

    def keys(self) -> Any:
        return self.content


def publish(network: PeerNetwork, content: Any) -> None:
    """Have FAR publish something."""
    peer = Publisher(FAR, network)
    peer.content = content


def signed_as_far(content: dict[str, Any]) -> dict[str, Any]:
    """Sign content that is not canonical JSON as far.example would."""
    signer = signer_of(FAR)
    message = canonicaljson.encode_canonical_json(content)
    return {**content, "signatures": {FAR: {signer.key.key_id: signer.key.sign(message)}}}


@pytest.mark.parametrize(
    "change",
    [
        {"more": 1.5},
        {"more": 2**60},
        {"valid_until_ts": 2**63 - 1},
        {"valid_until_ts": -(2**62)},
        {"valid_until_ts": True},
        {"verify_keys": {KEY.key_id: {"key": KEY.base64}, "ed25519:a\0b": {"key": KEY.base64}}},
        {"verify_keys": {KEY.key_id: {"key": KEY.base64}, "ed25519:" + "x" * 300: {"key": "x"}}},
        {"old_verify_keys": {"ed25519:old": {"key": KEY.base64, "expired_ts": 1.5}}},
        {"old_verify_keys": {"ed25519:a\0b": {"key": KEY.base64, "expired_ts": 5}}},
        {"old_verify_keys": {"ed25519:old": {"key": "short", "expired_ts": 5}}},
        {"old_verify_keys": [1], "server_name": [FAR]},
    ],
)
async def test_odd_keys_of_a_server_fail_nobody_else(
    database: Database, change: Any, server_log: ServerLog
) -> None:
    clock, network = FixedClock(), PeerNetwork()
    publish(network, signed_as_far(published(**change)))
    KeyPublisher(NOTARY, network, clock=clock)
    other = needs(clock.ms, NOTARY, signer_of(NOTARY).key.verify_key)
    async with near(database, network, clock) as process:
        found = await process.services.core.federation.keys.keys_for([needs(clock.ms), other])

    assert found[other]
    assert len(server_log.lines()) <= 1


async def test_deeply_nested_keys_are_refused(database: Database, server_log: ServerLog) -> None:
    clock, network = FixedClock(), PeerNetwork()
    nested: Any = []
    for _ in range(220):
        nested = [nested]
    publish(network, signed_as_far(published(more=nested)))
    async with near(database, network, clock) as process:
        assert not await is_found(process, needs(clock.ms))

    assert len(server_log.lines()) == 1


async def test_key_cannot_be_retired_in_the_future(database: Database) -> None:
    clock, network = FixedClock(), PeerNetwork()
    later = SigningKey.from_seed("later", bytes(32))
    publisher = KeyPublisher(FAR, network, clock=clock, key=later)
    publisher.old_keys = {KEY.key_id: {"key": KEY.base64, "expired_ts": clock.ms + 300 * DAY_MS}}
    async with near(database, network, clock) as process:
        assert await is_found(process, needs(clock.ms))
        assert not await is_found(process, needs(clock.ms + 1))


async def test_notary_cannot_replace_a_known_key(database: Database) -> None:
    clock, network = FixedClock(), PeerNetwork()
    honest = KeyPublisher(FAR, network, clock=clock)
    settings = KeyServerSettings(server_name=NOTARY)
    async with near(database, network, clock, settings) as process:
        assert await is_found(process, needs(clock.ms))

        network.down.add(FAR)
        clock.advance(2 * DAY_MS)
        forged = KeyPublisher(FAR, PeerNetwork(), clock=clock, key=FORGED).keys()
        notary_answering(network, clock, sign_json(forged, signer_of(NOTARY)))
        keys = process.services.core.federation.keys
        found = (await keys.keys_for([needs(clock.ms)]))[needs(clock.ms)]

    assert FORGED.verify_key not in found.values()
    assert honest.received


@pytest.mark.parametrize(
    "responses",
    [
        [{"server_name": []}],
        [{"server_name": {"a": 1}}],
        [[], None, 5, "x"],
        {"far.example": {}},
        [{"server_name": FAR, "signatures": []}],
        [{"server_name": FAR, "signatures": {NOTARY: {"ed25519:key": []}}}],
        [{"server_name": FAR}] * 10_000,
    ],
)
async def test_malformed_answers_of_a_notary_are_ignored(
    database: Database, responses: Any, server_log: ServerLog
) -> None:
    clock, network = FixedClock(), PeerNetwork()
    content = {"server_keys": responses}
    KeyPublisher(NOTARY, network, {f"POST {QUERY_URI}": (200, content)}, clock=clock)
    async with near(database, network, clock, KeyServerSettings(server_name=NOTARY)) as process:
        assert not await is_found(process, needs(clock.ms))

    assert len(server_log.lines()) <= 3


async def test_keys_in_another_name_are_not_stored(database: Database) -> None:
    clock, network = FixedClock(), PeerNetwork()
    # The key of far.example, published and signed by another server.
    response = sign_json(published(), signer_of(FAR))
    peer = Publisher(NOTARY, network)
    peer.content = response
    async with near(database, network, clock) as process:
        asked = needs(clock.ms, NOTARY)
        keys = process.services.core.federation.keys
        assert not (await keys.keys_for([asked]))[asked]
        assert not await is_found(process, needs(clock.ms))


class Tarpits:
    """Servers that accept requests and never respond; `asked` are their names."""

    def __init__(self, network: PeerNetwork, names: list[ServerName]) -> None:
        self.asked: list[str] = []
        for name in names:
            network.answers[name] = self.answer

    async def answer(self, request: PeerRequest) -> PeerResponse:
        self.asked.append(request.server)
        await trio.sleep_forever()
        raise AssertionError


async def test_queries_for_silent_servers_leave_fetches_to_others(
    inline_database: Database, autojump_clock: Any
) -> None:
    clock, network, database = FixedClock(), PeerNetwork(), inline_database
    KeyPublisher(FAR, network, clock=clock)
    names = [ServerName(f"s{number}.example") for number in range(100)]
    tarpits = Tarpits(network, names)
    body: Any = {"server_keys": {name: {} for name in names}}
    async with near(database, network, clock) as process, trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(process.client().post, QUERY_URI, body)
        await trio.sleep(0.5)

        with trio.fail_after(1):
            assert await is_found(process, needs(clock.ms))
        assert len(tarpits.asked) <= server_keys.CONCURRENT_FOR_OTHERS
        nursery.cancel_scope.cancel()


async def test_servers_that_were_not_asked_in_time_are_asked_later(
    inline_database: Database, autojump_clock: Any
) -> None:
    clock, network, database = FixedClock(), PeerNetwork(), inline_database
    names = [ServerName(f"s{number}.example") for number in range(200)]
    Tarpits(network, names)
    KeyPublisher(FAR, network, clock=clock)
    key = Signer(FAR, FORGED).key.verify_key
    async with near(database, network, clock) as process:
        keys = process.services.core.federation.keys
        many = [needs(clock.ms, name, key) for name in names]
        await keys.keys_for([*many, needs(clock.ms)])

        assert await is_found(process, needs(clock.ms))
