"""The keys of servers: where they come from, how long they count, and this server as a notary."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from hs.core.ids import ServerName
from hs.core.signing.keys import Signer, SigningKey, VerifyKey
from hs.core.signing.signed_json import sign_json, verify_json
from hs.lib.clock import FixedClock
from hs.services.federation_client import server_keys
from hs.services.federation_client.key_responses import KEYS_URI, QUERY_URI
from hs.services.federation_client.key_ring import VerifyKeyRequest
from hs.services.federation_client.peer_transport import PeerRequest, PeerResponse
from hs.services.federation_client.server_keys import ServerKeys
from hs.settings.sections.federation import KeyExchangeSettings, KeyServerSettings
from hs.settings.sections.server import OldKey
from hs.storage.database import Database, Tx
from tests.support.composition import SETTINGS, ComposedProcess, open_process
from tests.support.federation import PeerNetwork, ScriptedPeer, open_servers, settings_of
from tests.support.peers import signer_of
from tests.support.sql.databases import fresh_inline
from tests.support.web import WebClient

NEAR, FAR, NOTARY = (ServerName(f"{name}.example") for name in ("near", "far", "notary"))
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
KEY = signer_of(FAR).key.verify_key


@attrs.define
class KeyPublisher(ScriptedPeer):
    """A server whose keys are valid for a day at a time."""

    clock: FixedClock = attrs.Factory(FixedClock)
    old_keys: Mapping[str, Any] = attrs.Factory(dict)
    key: SigningKey | None = None

    @property
    def signer(self) -> Signer:
        return signer_of(self.name) if self.key is None else Signer(self.name, self.key)

    def keys(self) -> dict[str, Any]:
        key = self.signer.key.verify_key
        response = {
            "server_name": self.name,
            "valid_until_ts": self.clock.ms + DAY_MS,
            "verify_keys": {key.key_id: {"key": key.base64}},
            "old_verify_keys": self.old_keys,
        }
        return sign_json(response, self.signer)


def needs(valid_at_ms: int | None, server: ServerName = FAR, key: VerifyKey = KEY) -> Any:
    return VerifyKeyRequest(server, frozenset([key.key_id]), valid_at_ms)


@asynccontextmanager
async def near(
    database: Database,
    network: PeerNetwork,
    clock: FixedClock,
    *notaries: KeyServerSettings,
    **old: OldKey,
) -> AsyncIterator[ComposedProcess]:
    settings = settings_of(NEAR, SETTINGS)
    exchange = KeyExchangeSettings(trusted_key_servers=notaries)
    old_keys = {f"ed25519:{name}": key for name, key in old.items()}
    signing = attrs.evolve(settings.signing_keys, old_signing_keys=old_keys)
    settings = attrs.evolve(settings, key_exchange=exchange, signing_keys=signing)
    peers = network.transport_of(NEAR)
    async with open_process(database, settings, clock=clock, peers=peers) as process:
        network.answers[NEAR] = lambda request: answer(process.client(), request)
        yield process


async def answer(client: WebClient, request: PeerRequest) -> PeerResponse:
    response = await client.request(request.method, request.uri, body=request.body or b"")
    return PeerResponse(response.status, {}, response.body)


async def is_found(process: ComposedProcess, need: VerifyKeyRequest) -> bool:
    """Return whether the right key is found, and no other one."""
    keys: ServerKeys = process.services.core.federation.keys
    found = (await keys.keys_for([need]))[need]
    assert set(found) <= need.key_ids
    return bool(found)


async def test_key_is_fetched_once_and_stored(database: Database) -> None:
    clock, network = FixedClock(), PeerNetwork()
    KeyPublisher(FAR, network, clock=clock)
    async with near(database, network, clock) as process:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(is_found, process, needs(clock.ms))
        assert await is_found(process, needs(clock.ms))
    async with near(database, network, clock) as process:
        assert await is_found(process, needs(clock.ms))

    assert network.uris(FAR) == [KEYS_URI]


async def test_key_counts_beyond_its_validity_only_where_that_is_allowed(
    database: Database,
) -> None:
    clock, network = FixedClock(), PeerNetwork()
    KeyPublisher(FAR, network, clock=clock)
    async with near(database, network, clock) as process:
        assert await is_found(process, needs(clock.ms + DAY_MS))
        network.down.add(FAR)
        clock.advance(2 * DAY_MS)

        assert not await is_found(process, needs(clock.ms))
        assert await is_found(process, needs(clock.ms - DAY_MS - 1))
        assert await is_found(process, needs(None))


async def test_expired_key_is_fetched_again(database: Database) -> None:
    clock, network = FixedClock(), PeerNetwork()
    KeyPublisher(FAR, network, clock=clock)
    async with near(database, network, clock) as process:
        assert await is_found(process, needs(clock.ms))
        clock.advance(2 * DAY_MS)
        assert await is_found(process, needs(clock.ms))

    assert len(network.uris(FAR)) == 2


async def test_key_is_refreshed_after_half_of_its_validity(database: Database) -> None:
    clock, network = FixedClock(), PeerNetwork()
    KeyPublisher(FAR, network, clock=clock)
    async with near(database, network, clock) as process:
        keys = process.services.core.federation.keys
        fetches = []
        for passed_ms in (0, 11 * HOUR_MS, HOUR_MS, HOUR_MS):
            clock.advance(passed_ms)
            assert await is_found(process, needs(clock.ms))
            await keys.refresh()
            fetches.append(len(network.uris(FAR)))

    assert fetches == [1, 1, 2, 2]


async def test_keys_of_a_server_that_is_down_are_refreshed_at_intervals(
    database: Database,
) -> None:
    clock, network = FixedClock(), PeerNetwork()
    KeyPublisher(FAR, network, clock=clock)
    minutes = []
    async with near(database, network, clock) as process:
        keys = process.services.core.federation.keys
        assert await is_found(process, needs(clock.ms))
        network.down.add(FAR)
        clock.advance(12 * HOUR_MS)
        for minute in range(40):
            before = len(network.sent)
            assert await is_found(process, needs(clock.ms))
            await keys.refresh()
            if len(network.sent) > before:
                minutes.append(minute)
            clock.advance(60_000)

    assert minutes == [0, 15, 30]


async def test_server_without_keys_is_asked_at_growing_intervals(database: Database) -> None:
    clock, network = FixedClock(), PeerNetwork(down={FAR})
    minutes = []
    async with near(database, network, clock) as process:
        for minute in range(200):
            before = len(network.sent)
            assert not await is_found(process, needs(clock.ms))
            if len(network.sent) > before:
                minutes.append(minute)
            clock.advance(60_000)

    assert minutes == [0, 1, 3, 7, 15, 31, 63, 123, 183]


async def test_attempt_counts_once_for_all_that_wait(database: Database) -> None:
    clock, network = FixedClock(), PeerNetwork(down={FAR})
    publisher = KeyPublisher(FAR, network, clock=clock)
    async with near(database, network, clock) as process:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(is_found, process, needs(clock.ms))
        network.down.clear()
        clock.advance(60_000)

        assert await is_found(process, needs(clock.ms))
    assert len(publisher.received) == 1


async def test_time_far_in_the_future_causes_no_requests(database: Database) -> None:
    clock, network = FixedClock(), PeerNetwork()
    KeyPublisher(FAR, network, clock=clock)
    async with near(database, network, clock) as process:
        assert not await is_found(process, needs(clock.ms + 8 * DAY_MS))

    assert network.sent == []


async def test_retired_key_verifies_what_was_signed_before(database: Database) -> None:
    clock, network = FixedClock(), PeerNetwork()
    publisher = KeyPublisher(FAR, network, clock=clock)
    async with near(database, network, clock) as process:
        assert await is_found(process, needs(clock.ms))
        retired_ms = clock.ms + HOUR_MS
        publisher.key = SigningKey.from_seed("later", bytes(32))
        publisher.old_keys = {KEY.key_id: {"key": KEY.base64, "expired_ts": retired_ms}}
        clock.advance(2 * DAY_MS)

        assert await is_found(process, needs(clock.ms, key=publisher.key.verify_key))
        assert await is_found(process, needs(retired_ms))
        assert not await is_found(process, needs(retired_ms + 1))


@pytest.mark.parametrize("fault", ["other server", "unsigned", "no keys", "no time", "many keys"])
async def test_false_keys_are_refused(database: Database, fault: str) -> None:
    clock, network = FixedClock(), PeerNetwork()
    response: dict[str, Any] = KeyPublisher(FAR, network, clock=clock).keys()
    match fault:
        case "other server":
            response = KeyPublisher(NOTARY, network, clock=clock).keys()
        case "unsigned":
            del response["signatures"]
        case "no keys":
            response["verify_keys"] = []
        case "no time":
            response["valid_until_ts"] = "later"
        case "many keys":
            key = {"key": KEY.base64}
            response["verify_keys"] = {f"ed25519:{n}": key for n in range(1000)}

    class Forger(ScriptedPeer):
        def keys(self) -> dict[str, Any]:
            return response

    Forger(FAR, network)
    async with near(database, network, clock) as process:
        assert not await is_found(process, needs(clock.ms))


def notary_answering(
    network: PeerNetwork, clock: FixedClock, *responses: Mapping[str, Any]
) -> KeyPublisher:
    content = {"server_keys": [dict(response) for response in responses]}
    return KeyPublisher(NOTARY, network, {f"POST {QUERY_URI}": (200, content)}, clock=clock)


@pytest.mark.parametrize("is_key_known", [True, False])
async def test_notary_has_the_keys_of_a_server_that_is_down(
    database: Database, is_key_known: bool
) -> None:
    clock, network = FixedClock(), PeerNetwork()
    response = KeyPublisher(FAR, network, clock=clock).keys()
    network.down.add(FAR)
    notary = notary_answering(network, clock, sign_json(response, signer_of(NOTARY)))
    key = signer_of(NOTARY).key.verify_key
    known = {key.key_id: key} if is_key_known else {}
    settings = KeyServerSettings(server_name=NOTARY, verify_keys=known)
    async with near(database, network, clock, settings) as process:
        assert await is_found(process, needs(clock.ms))
        assert await is_found(process, needs(clock.ms))
    async with near(database, network, clock) as process:
        assert await is_found(process, needs(clock.ms))

    assert len([r for r in notary.received if r.uri == QUERY_URI]) == 1


async def test_server_of_this_kind_serves_as_notary(database: Database) -> None:
    clock, network = FixedClock(), PeerNetwork()
    KeyPublisher(FAR, network, clock=clock)
    async with (
        open_servers(NOTARY, clock=clock, network=network) as (notary,),
        near(database, network, clock, KeyServerSettings(server_name=NOTARY)) as process,
    ):
        await notary.process.services.core.federation.keys.keys_for([needs(clock.ms)])
        network.down.add(FAR)

        assert await is_found(process, needs(clock.ms))


@pytest.mark.parametrize("missing", [FAR, NOTARY])
async def test_keys_from_a_notary_need_both_signatures(
    database: Database, missing: ServerName
) -> None:
    clock, network = FixedClock(), PeerNetwork()
    response = sign_json(KeyPublisher(FAR, network, clock=clock).keys(), signer_of(NOTARY))
    del response["signatures"][missing]
    network.down.add(FAR)
    notary_answering(network, clock, response)
    async with near(database, network, clock, KeyServerSettings(server_name=NOTARY)) as process:
        assert not await is_found(process, needs(clock.ms))


async def test_own_former_keys_are_published_and_verify_old_events(database: Database) -> None:
    clock, network = FixedClock(), PeerNetwork()
    former = SigningKey.from_seed("former", bytes(32)).verify_key
    old = OldKey(key=former.base64, expired_ts=clock.ms - DAY_MS)
    async with near(database, network, clock, former=old) as process:
        response = (await process.client().get(KEYS_URI)).json

        assert response["old_verify_keys"] == {
            former.key_id: {"key": former.base64, "expired_ts": clock.ms - DAY_MS}
        }
        assert await is_found(process, needs(clock.ms - DAY_MS, NEAR, former))
        assert not await is_found(process, needs(clock.ms, NEAR, former))
        assert await is_found(process, needs(clock.ms, NEAR, signer_of(NEAR).key.verify_key))


async def test_this_server_is_a_notary(database: Database) -> None:
    clock, network = FixedClock(), PeerNetwork()
    publisher = KeyPublisher(FAR, network, clock=clock)
    async with near(database, network, clock) as process:
        web = process.client()
        for _ in range(2):
            (response,) = (await web.get(f"{QUERY_URI}/{FAR}")).json["server_keys"]
            own = signer_of(NEAR).key.verify_key
            verify_json(response, NEAR, {own.key_id: own})
            verify_json(response, FAR, {KEY.key_id: KEY})
        assert len(network.uris(FAR)) == 1

        # Not valid for long enough: the server is asked again.
        clock.advance(HOUR_MS)
        until = f"minimum_valid_until_ts={clock.ms + DAY_MS}"
        (response,) = (await web.get(f"{QUERY_URI}/{FAR}?{until}")).json["server_keys"]
        assert response["valid_until_ts"] == clock.ms + DAY_MS
        assert len(network.uris(FAR)) == 2

        network.down.add(FAR)
        clock.advance(2 * DAY_MS)
        criteria: dict[str, Any] = {FAR: {KEY.key_id: {}}, NOTARY: {}, NEAR: {}}
        batch = await web.post(QUERY_URI, {"server_keys": criteria})
        names = [response["server_name"] for response in batch.json["server_keys"]]

    assert names == [FAR, NEAR]
    assert publisher.old_keys == {}


async def test_notary_keeps_keys_that_their_server_no_longer_publishes(database: Database) -> None:
    clock, network = FixedClock(), PeerNetwork()
    publisher = KeyPublisher(FAR, network, clock=clock)
    async with near(database, network, clock) as process:
        web = process.client()
        await web.get(f"{QUERY_URI}/{FAR}")
        expired_ms = clock.ms + DAY_MS
        publisher.key = SigningKey.from_seed("later", bytes(32))
        clock.advance(2 * DAY_MS)
        later = publisher.key.verify_key.key_id
        for key_ids in ([KEY.key_id], [later], [KEY.key_id, later]):
            criteria = {key_id: {"minimum_valid_until_ts": expired_ms} for key_id in key_ids}
            response = await web.post(QUERY_URI, {"server_keys": {FAR: criteria}})
            found = {
                key_id for each in response.json["server_keys"] for key_id in each["verify_keys"]
            }
            assert found == set(key_ids)
        (response,) = (await web.get(f"{QUERY_URI}/{FAR}")).json["server_keys"]

    assert response["verify_keys"].keys() == {later}
    assert len(network.uris(FAR)) == 2


async def test_notary_asks_a_server_with_expired_keys_a_few_times(database: Database) -> None:
    clock, network = FixedClock(), PeerNetwork()
    publisher = KeyPublisher(FAR, network, clock=clock)
    async with near(database, network, clock) as process:
        web = process.client()
        for _ in range(30):
            until = f"minimum_valid_until_ts={clock.ms + 2 * DAY_MS}"
            (response,) = (await web.get(f"{QUERY_URI}/{FAR}?{until}")).json["server_keys"]
            assert response["valid_until_ts"] == clock.ms + DAY_MS
        clock.advance(60_000)
        await web.get(f"{QUERY_URI}/{FAR}?minimum_valid_until_ts={clock.ms + 2 * DAY_MS}")

    assert len(publisher.received) == 11


@pytest.mark.parametrize(
    "criteria",
    [
        {f"s{n}.example": {} for n in range(101)},
        {"no server name/": {}},
        {FAR: {"ed25519:a": {"minimum_valid_until_ts": "soon"}}},
        {FAR: []},
    ],
    ids=["many servers", "name", "time", "list"],
)
async def test_malformed_query_is_refused(database: Database, criteria: dict[str, Any]) -> None:
    clock, network = FixedClock(), PeerNetwork()
    async with near(database, network, clock) as process:
        response = await process.client().post(QUERY_URI, {"server_keys": criteria})

    assert response.status == 400
    assert network.sent == []


async def test_requests_of_silent_servers_do_not_delay_the_keys_of_events(
    autojump_clock: trio.testing.MockClock,
) -> None:
    clock, network = FixedClock(), PeerNetwork()
    KeyPublisher(FAR, network, clock=clock)
    silent = [ServerName(f"s{number}.example") for number in range(200)]

    async def say_nothing(request: PeerRequest) -> PeerResponse:
        await trio.sleep_forever()

    network.answers.update(dict.fromkeys(silent, say_nothing))
    async with fresh_inline() as database:
        async with near(database, network, clock) as process, trio.open_nursery() as nursery:
            keys = process.services.core.federation.keys
            for server in silent:
                nursery.start_soon(keys.keys_of_origin, needs(clock.ms, server))
            await trio.testing.wait_all_tasks_blocked()

            assert await is_found(process, needs(clock.ms))
            assert trio.current_time() == 0
        # Those that got no turn gave up.
        assert trio.current_time() <= 61


async def count_keys(tx: Tx) -> int:
    count: int = await tx.fetchval("SELECT count(*) FROM server_keys WHERE server = $1", FAR)
    return count


@pytest.mark.parametrize("through_notary", [False, True])
async def test_limited_number_of_keys_of_a_server_is_kept(
    database: Database, monkeypatch: pytest.MonkeyPatch, through_notary: bool
) -> None:
    monkeypatch.setattr(server_keys, "MAX_FURTHER_KEYS", 10)
    clock, network = FixedClock(), PeerNetwork()
    far = KeyPublisher(FAR, network, clock=clock)
    notary = KeyPublisher(NOTARY, network, clock=clock)
    notary.responses[f"POST {QUERY_URI}"] = lambda request: (
        200,
        {"server_keys": [sign_json(far.keys(), notary.signer)]},
    )
    if through_notary:
        network.down.add(FAR)
    async with near(database, network, clock, KeyServerSettings(server_name=NOTARY)) as process:
        keys: ServerKeys = process.services.core.federation.keys
        for number in range(5):
            retired = {
                f"ed25519:{number}_{old}": {"key": KEY.base64, "expired_ts": clock.ms - old}
                for old in range(8)
            }
            far.old_keys = retired
            clock.advance(2 * DAY_MS)
            assert await is_found(process, needs(clock.ms))
            newest = VerifyKeyRequest(FAR, frozenset(retired), None)
            assert len((await keys.keys_for([newest]))[newest]) == 8

        assert await database.read(count_keys) <= 10 + 9
