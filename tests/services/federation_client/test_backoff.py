"""Requests to servers that do not respond fail at once, in all processes, until they are heard."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import attrs
import pytest

from hs.core.errors import RemoteFault
from hs.core.ids import ServerName
from hs.lib.clock import FixedClock
from hs.lib.limiter import RateLimiter, TokenBucketRate
from hs.services.federation_client import server_backoff
from hs.services.federation_client.peer_transport import PeerResponse
from hs.services.federation_client.retry_after import retry_after_s
from hs.settings.sections.federation import FederationSettings, PeerRequestSettings
from hs.settings.settings import Settings
from hs.storage.database import Database
from tests.support.composition import SETTINGS, Neighbourhood, open_process, worker_settings
from tests.support.federation import FederatedServer, PeerNetwork, ScriptedPeer, settings_of
from tests.support.web import Tokens

NEAR, FAR = ServerName("near.example"), ServerName("far.example")
PATH = "/_matrix/federation/v1/version"
MINUTE_MS = 60_000
BACKOFF = settings_of(
    NEAR, attrs.evolve(SETTINGS, peer_requests=PeerRequestSettings(max_long_retries=0))
)


@asynccontextmanager
async def two_processes(
    database: Database, network: PeerNetwork, clock: FixedClock, settings: Settings = BACKOFF
) -> AsyncIterator[tuple[FederatedServer, FederatedServer]]:
    """Run two processes of one server."""
    neighbours = Neighbourhood()
    of_each = [worker_settings(settings, name, "main", "reader") for name in ("main", "reader")]
    transport = network.transport_of(NEAR)
    async with open_process(
        database, of_each[0], clock=clock, neighbours=neighbours, peers=transport
    ) as main:
        async with open_process(
            database, of_each[1], clock=clock, neighbours=neighbours, peers=transport
        ) as reader:
            yield FederatedServer(NEAR, network, main), FederatedServer(NEAR, network, reader)


async def fails(server: FederatedServer, text: str) -> None:
    with pytest.raises(RemoteFault, match=text):
        await server.client.get(FAR, PATH)


async def test_failing_server_is_left_alone_by_all_processes(database: Database) -> None:
    clock, network = FixedClock(), PeerNetwork(down={FAR})
    peer = ScriptedPeer(FAR, network, {f"GET {PATH}": (200, {})})
    async with two_processes(database, network, clock) as (main, reader):
        await fails(main, "connection refused")
        await fails(main, "next attempt is in 600 s")
        await fails(reader, "next attempt is in 600 s")
        assert len(network.sent) == 1

        network.down.clear()
        clock.advance(10 * MINUTE_MS)
        await reader.client.get(FAR, PATH)
        await main.client.get(FAR, PATH)

        assert main.process.services.core.federation.backoff.count() == 0
    assert len(peer.received) == 2


async def test_interval_grows_up_to_a_limit(database: Database) -> None:
    clock, network = FixedClock(), PeerNetwork(down={FAR})
    async with two_processes(database, network, clock) as (main, _):
        backoff = main.process.services.core.federation.backoff
        intervals = []
        for _ in range(14):
            await fails(main, "connection refused")
            failing = backoff.failing(FAR)
            assert failing is not None
            intervals.append(failing.interval_ms)
            clock.advance(failing.interval_ms)

    assert intervals[0] == 10 * MINUTE_MS
    assert all(1.6 <= later / before <= 2.5 for before, later in pairwise(intervals[:9]))
    assert 0.8 <= intervals[-1] / (7 * 24 * 60 * MINUTE_MS) <= 1


async def test_first_intervals_begin_with_a_second(database: Database) -> None:
    clock, network = FixedClock(), PeerNetwork(down={FAR})
    chosen = PeerRequestSettings(max_long_retries=4, max_long_retry_delay=3_000)
    settings = settings_of(NEAR, attrs.evolve(SETTINGS, peer_requests=chosen))
    intervals = []
    for _ in range(3):  # each time after a restart
        async with two_processes(database, network, clock, settings) as processes:
            for server in processes:
                await fails(server, "connection refused")
                await fails(server, "next attempt")
                failing = server.process.services.core.federation.backoff.failing(FAR)
                assert failing is not None
                intervals.append(failing.interval_ms / 1000)
                clock.advance(failing.interval_ms)

    longest = [1, 2, 3, 3, 600, 1200]
    assert all(0.8 * most <= each <= most for each, most in zip(intervals, longest, strict=True))
    assert intervals[4] == 600


async def test_response_ends_the_count_of_failures(database: Database) -> None:
    clock, network = FixedClock(), PeerNetwork(down={FAR})
    ScriptedPeer(FAR, network, {f"GET {PATH}": (200, {})})
    settings = settings_of(NEAR, attrs.evolve(SETTINGS, peer_requests=PeerRequestSettings()))
    async with two_processes(database, network, clock, settings) as (main, reader):
        for _ in range(3):
            for server in (main, reader):
                await fails(server, "connection refused")
                clock.advance(2_000)
            network.down.clear()
            await main.client.get(FAR, PATH)
            network.down.add(FAR)


async def test_backoff_survives_a_restart(database: Database) -> None:
    clock, network = FixedClock(), PeerNetwork(down={FAR})
    async with two_processes(database, network, clock) as (main, _):
        await fails(main, "connection refused")
    async with two_processes(database, network, clock) as (_, reader):
        await fails(reader, "next attempt is in 600 s")


async def test_request_that_ignores_the_backoff_is_sent(database: Database) -> None:
    clock, network = FixedClock(), PeerNetwork(down={FAR})
    ScriptedPeer(FAR, network, {f"GET {PATH}": (200, {})})
    async with two_processes(database, network, clock) as (main, reader):
        await fails(main, "connection refused")
        network.down.clear()

        await main.client.request(FAR, "GET", PATH, None, ignores_backoff=True)
        await reader.client.get(FAR, PATH)


async def test_signed_request_of_a_server_ends_its_backoff(database: Database) -> None:
    clock, network = FixedClock(), PeerNetwork(down={FAR})
    peer = ScriptedPeer(FAR, network, {f"GET {PATH}": (200, {})})
    query = "/_matrix/federation/v1/query/directory"
    async with two_processes(database, network, clock) as (main, reader):
        main.connect()
        network.down.clear()
        with pytest.raises(RemoteFault):  # no such alias; the key of the server is known now
            await peer.client.get(NEAR, query, {"room_alias": f"#a:{NEAR}"})
        network.down.add(FAR)
        await fails(reader, "connection refused")
        network.down.clear()

        with pytest.raises(RemoteFault):
            await peer.client.get(NEAR, query, {"room_alias": f"#a:{NEAR}"})
        await fails(reader, "next attempt")  # within a minute of the failure
        clock.advance(MINUTE_MS)
        with pytest.raises(RemoteFault):
            await peer.client.get(NEAR, query, {"room_alias": f"#a:{NEAR}"})

        await reader.client.get(FAR, PATH)


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_gateway_error_counts_as_failure(database: Database, status: int) -> None:
    clock, network = FixedClock(), PeerNetwork()
    ScriptedPeer(FAR, network, {f"GET {PATH}": (status, {})})
    async with two_processes(database, network, clock) as (main, _):
        await fails(main, f"status {status}")
        await fails(main, "next attempt")


@pytest.mark.parametrize("status", [400, 404, 429, 500])
async def test_error_response_is_no_failure(database: Database, status: int) -> None:
    clock, network = FixedClock(), PeerNetwork()
    ScriptedPeer(FAR, network, {f"GET {PATH}": (status, {"errcode": "M_X", "error": "no"})})
    async with two_processes(database, network, clock) as (main, _):
        await fails(main, "M_X")
        await fails(main, "M_X")


async def test_whitelist_closes_the_federation_in_both_directions(database: Database) -> None:
    network = PeerNetwork()
    friend = ScriptedPeer(ServerName("friend.example"), network, {f"GET {PATH}": (200, {})})
    stranger = ScriptedPeer(FAR, network, {f"GET {PATH}": (200, {})})
    allowed = FederationSettings(federation_domain_whitelist=(friend.name,))
    settings = settings_of(NEAR, attrs.evolve(SETTINGS, federation=allowed))
    query = "/_matrix/federation/v1/query/directory"
    async with open_process(database, settings, peers=network.transport_of(NEAR)) as process:
        server = FederatedServer(NEAR, network, process)
        server.connect()
        await server.client.get(friend.name, PATH)
        with pytest.raises(RemoteFault, match="federation_domain_whitelist"):
            await server.client.get(FAR, PATH)
        assert stranger.received == []

        with pytest.raises(RemoteFault, match="M_NOT_FOUND"):
            await friend.client.get(NEAR, query, {"room_alias": f"#a:{NEAR}"})
        with pytest.raises(RemoteFault, match="M_FORBIDDEN"):
            await stranger.client.get(NEAR, query, {"room_alias": f"#a:{NEAR}"})


@pytest.mark.parametrize("names", [None, ("friend.example",)])
async def test_users_see_the_whitelist_if_it_is_served(
    database: Database, names: tuple[str, ...] | None
) -> None:
    path = "/_synapse/client/v1/config/federation_whitelist"
    allowed = None if names is None else tuple(map(ServerName, names))
    chosen = FederationSettings(
        federation_domain_whitelist=allowed, federation_whitelist_endpoint_enabled=True
    )
    settings = attrs.evolve(SETTINGS, federation=chosen)
    tokens = Tokens()
    tokens.user("alice")
    async with open_process(database, settings) as process:
        refused = await process.client(tokens).get(path)
        served = await process.client(tokens).get(path, token="alice")
    async with open_process(database) as process:
        missing = await process.client(tokens).get(path, token="alice")

    assert (refused.status, missing.status) == (401, 404)
    assert served.json == {"whitelist_enabled": names is not None, "whitelist": list(names or ())}


async def test_server_that_limits_requests_is_left_alone_for_as_long_as_it_says(
    database: Database,
) -> None:
    clock, network = FixedClock(), PeerNetwork()
    limited = (429, {"errcode": "M_LIMIT_EXCEEDED", "error": "", "retry_after_ms": 90_000})
    peer = ScriptedPeer(FAR, network, {f"GET {PATH}": limited})
    async with two_processes(database, network, clock) as (main, reader):
        backoff = main.process.services.core.federation.backoff
        await fails(main, "M_LIMIT_EXCEEDED")
        await fails(reader, "it limits requests; the next attempt is in 90 s")
        clock.advance(70_000)
        await backoff.heard(FAR)
        await fails(main, "the next attempt is in 20 s")

        peer.responses[f"GET {PATH}"] = (200, {})
        clock.advance(20_000)
        await main.client.get(FAR, PATH)

        assert backoff.count() == 0
    assert len(peer.received) == 2


async def test_limit_does_not_lengthen_the_intervals_of_failures(database: Database) -> None:
    clock, network = FixedClock(), PeerNetwork()
    ScriptedPeer(FAR, network, {f"GET {PATH}": (429, {"retry_after_ms": 3_600_000})})
    async with two_processes(database, network, clock) as (main, _):
        await fails(main, "429")
        clock.advance(3_600_000)
        network.down.add(FAR)
        await fails(main, "connection refused")
        await fails(main, "next attempt is in 600 s")


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ({"retry-after": "120"}, b"{}", 120),
        ({"retry-after": "120"}, b'{"retry_after_ms": 5000}', 120),
        ({}, b'{"retry_after_ms": 5000}', 5),
        ({}, b'{"retry_after_ms": 1e300}', None),
        ({}, b'{"retry_after_ms": -5}', 0),
        ({}, b"not JSON", None),
        ({"retry-after": "99999999"}, b"", 3600),
        ({"retry-after": "-1"}, b"", None),
        (
            {
                "retry-after": "Tue, 01 Dec 2026 10:00:30 GMT",
                "date": "Tue, 01 Dec 2026 10:00:00 GMT",
            },
            b"",
            30,
        ),
        ({"retry-after": "Tue, 01 Dec 2026 10:00:30 GMT"}, b"", None),
    ],
)
def test_time_in_a_response(headers: dict[str, str], body: bytes, expected: float | None) -> None:
    assert retry_after_s(PeerResponse(429, headers, body)) == expected
    assert retry_after_s(PeerResponse(500, headers, body)) is None


async def test_names_of_servers_that_do_not_exist_are_noted_up_to_a_limit(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_backoff, "MAX_FAILING", 20)
    monkeypatch.setattr(server_backoff, "FORGOTTEN_AT_ONCE", 5)
    clock, network = FixedClock(), PeerNetwork()
    async with two_processes(database, network, clock) as (main, reader):
        for _ in range(2):
            await fails(main, "connection refused")
            clock.advance(10 * MINUTE_MS)
        for number in range(60):
            with pytest.raises(RemoteFault):
                await main.client.get(ServerName(f"invented{number}.example"), PATH)

        for process in (main, reader):
            backoff = process.process.services.core.federation.backoff
            await backoff.load()
            assert 15 <= backoff.count() <= 20
            # It has failed for longer than the others.
            assert backoff.failing(FAR) is not None


async def test_few_invented_names_are_noted_per_second(database: Database) -> None:
    clock, network = FixedClock(), PeerNetwork()
    async with two_processes(database, network, clock) as (main, _):
        backoff = main.process.services.core.federation.backoff
        rate = TokenBucketRate(per_second=1, burst=5)
        backoff._new = RateLimiter(rate)
        for number in range(20):
            with pytest.raises(RemoteFault):
                await main.client.get(ServerName(f"invented{number}.example"), PATH)
        assert backoff.count() == 5
