"""Requests to other servers over TLS, on this machine."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from hs.core.errors import RemoteFault
from hs.core.ids import ServerName
from hs.lib.aio import open_bridge
from hs.lib.clock import SystemClock
from hs.lib.http_client import HttpFault, HttpNotConnected, HttpResponse
from hs.lib.http_client.addresses import ALLOW_ALL, AddressRules
from hs.lib.http_client.bridged import BridgedHttpClient
from hs.lib.http_client.directed import DirectedHttpClient, DirectedRequest
from hs.lib.http_client.sessions import HttpSessions
from hs.lib.http_client.targets import NO_PROXIES, Proxies
from hs.lib.srv_records import SrvAnswer, SrvRecord, SrvUnavailable
from hs.services.federation_client.delegations import CachedDelegations
from hs.services.federation_client.network_transport import NetworkTransport
from hs.services.federation_client.peer_tls import peer_tls
from hs.services.federation_client.peer_transport import PeerRequest
from hs.settings.sections.federation import FederationSettings, PeerRequestSettings
from tests.support.outgoing import ONE_PUBLIC, PRIVATE
from tests.support.servers.certificates import Certificates, make_certificates
from tests.support.servers.sites import Site, SiteRequest, SiteResponse, open_proxy, open_site

URI = "/_matrix/federation/v1/version"
WELL_KNOWN = "/.well-known/matrix/server"
QUICK = PeerRequestSettings(max_short_retries=2, max_short_retry_delay=1)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    return make_certificates(folder, "DNS:far.example", "DNS:delegated.example")


@attrs.define
class Network:
    """A transport and the one site that all names lead to."""

    site: Site
    transport: NetworkTransport
    hops: list[str]
    srv: dict[str, tuple[SrvRecord, ...]] = attrs.Factory(dict)

    async def look_up(self, name: str) -> SrvAnswer:
        if name not in self.srv:
            raise SrvUnavailable("SERVFAIL")
        return SrvAnswer(self.srv[name], 300)

    async def get(self, server: str, **more: object) -> str:
        """Return the body of a response."""
        response = await self.transport.send(request_to(server, **more))
        return response.body.decode()


def request_to(server: str, **more: object) -> PeerRequest:
    request = PeerRequest(
        server=ServerName(server),
        method="GET",
        uri=URI,
        headers={},
        body=None,
        timeout_s=20,
        max_bytes=10_000,
    )
    return attrs.evolve(request, **more)  # type: ignore[arg-type]  # passed on


@asynccontextmanager
async def open_network(
    certificates: Certificates,
    rules: AddressRules = ALLOW_ALL,
    settings: Mapping[str, object] = MappingProxyType({}),
    is_proxied: bool = False,
) -> AsyncIterator[Network]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)
    resolve = all_names_lead_here()
    chosen = FederationSettings(
        **{"federation_custom_ca_list": (certificates.authority,), **settings}  # type: ignore[arg-type]  # passed on
    )
    tls = peer_tls(chosen)
    async with open_bridge() as bridge, open_site(context) as site, open_proxy(site) as proxy:
        proxies = Proxies(https=proxy[0]) if is_proxied else NO_PROXIES
        files = BridgedHttpClient(
            HttpSessions(bridge, rules, tls=tls.verifying, resolve=resolve), "test/1"
        )
        requests = DirectedHttpClient(rules, proxies, resolve)
        network: Network

        class Lookups:
            async def look_up(self, name: str) -> SrvAnswer:
                return await network.look_up(name)

        delegations = CachedDelegations(lambda host: files, Lookups(), SystemClock(), site.port)
        transport = NetworkTransport(delegations, requests, tls, "test/1", QUICK)
        network = Network(site, transport, proxy[1])
        site.pages[URI] = SiteResponse(b"{}")
        try:
            yield network
        finally:
            with trio.CancelScope(shield=True):
                await files.sessions.aclose()
                requests.close()


def all_names_lead_here() -> Callable[[str], Awaitable[Sequence[str]]]:
    async def resolve(host: str) -> Sequence[str]:
        return ["127.0.0.1"]

    return resolve


async def test_server_with_port_is_reached_and_told_its_name(certificates: Certificates) -> None:
    async with open_network(certificates) as network:
        server = f"far.example:{network.site.port}"

        assert await network.get(server) == "{}"

    (request,) = network.site.requests
    assert request.headers["host"] == server
    assert request.headers["user-agent"] == "test/1"


async def test_server_that_is_an_address_is_reached(certificates: Certificates) -> None:
    async with open_network(certificates) as network:
        assert await network.get(f"127.0.0.1:{network.site.port}") == "{}"


async def test_well_known_delegates_to_another_name(certificates: Certificates) -> None:
    async with open_network(certificates) as network:
        delegated = f"delegated.example:{network.site.port}"
        network.site.pages[WELL_KNOWN] = SiteResponse(b'{"m.server": "%s"}' % delegated.encode())
        for _ in range(2):
            await network.get("far.example")

    paths = [(request.path, request.headers["host"]) for request in network.site.requests]
    assert paths == [
        (WELL_KNOWN, f"far.example:{network.site.port}"),
        (URI, delegated),
        (URI, delegated),
    ]
    assert network.site.connections == 2


async def test_redirected_well_known_is_followed(certificates: Certificates) -> None:
    async with open_network(certificates) as network:
        moved = network.site.url("/moved", "delegated.example")
        network.site.pages[WELL_KNOWN] = SiteResponse(b"", 302, {"location": moved})
        delegated = f"delegated.example:{network.site.port}"
        network.site.pages["/moved"] = SiteResponse(b'{"m.server": "%s"}' % delegated.encode())

        assert await network.get("far.example") == "{}"


async def test_srv_target_presents_the_certificate_of_the_server(
    certificates: Certificates,
) -> None:
    async with open_network(certificates) as network:
        record = SrvRecord(1, 1, network.site.port, "target.example")
        network.srv["_matrix-fed._tcp.far.example"] = (record,)
        network.srv["_matrix-fed._tcp.other.example"] = (record,)

        assert await network.get("far.example") == "{}"
        with pytest.raises(RemoteFault, match="certificate"):
            await network.get("other.example")  # not on the connection that is open

    (request,) = [request for request in network.site.requests if request.path == URI]
    assert request.headers["host"] == "far.example"


async def test_next_address_is_tried_if_one_is_down(certificates: Certificates) -> None:
    async with open_network(certificates) as network:
        with trio.socket.socket() as unused:
            await unused.bind(("127.0.0.1", 0))
            network.srv["_matrix-fed._tcp.far.example"] = (
                SrvRecord(1, 1, unused.getsockname()[1], "first.example"),
                SrvRecord(2, 1, network.site.port, "second.example"),
            )

            assert await network.get("far.example") == "{}"
            async with network.transport.stream(request_to("far.example")) as response:
                assert [part async for part in response.parts] == [b"{}"]


@pytest.mark.parametrize(
    ("settings", "is_reached"),
    [
        ({}, False),
        ({"federation_certificate_verification_whitelist": ("*.org", "*.exampl?")}, True),
        ({"federation_certificate_verification_whitelist": ("*.org",)}, False),
        ({"federation_verify_certificates": False}, True),
        ({"federation_verify_certificates": False, "federation_custom_ca_list": ()}, True),
        (
            {
                "federation_verify_certificates": False,
                "federation_client_minimum_tls_version": "1.3",
            },
            True,
        ),
    ],
)
async def test_wrong_certificate_is_accepted_only_by_setting(
    certificates: Certificates, settings: dict[str, object], is_reached: bool
) -> None:
    async with open_network(certificates, settings=settings) as network:
        server = f"wrong.example:{network.site.port}"
        if is_reached:
            assert await network.get(server) == "{}"
        else:
            with pytest.raises(RemoteFault, match="certificate"):
                await network.get(server)


async def test_authority_of_the_system_does_not_count_beside_a_list(
    certificates: Certificates, tmp_path: Path
) -> None:
    others = make_certificates(tmp_path)
    settings = {"federation_custom_ca_list": (others.authority,)}

    async with open_network(certificates, settings=settings) as network:
        with pytest.raises(RemoteFault, match="certificate"):
            await network.get(f"far.example:{network.site.port}")


@pytest.mark.parametrize("server", ["far.example", "127.0.0.1"])
async def test_blocked_address_is_not_contacted(certificates: Certificates, server: str) -> None:
    async with open_network(certificates, PRIVATE) as network:
        with pytest.raises(RemoteFault, match="blocked address") as caught:
            await network.get(f"{server}:{network.site.port}")

    assert not caught.value.retry
    assert network.site.connections == 0


async def test_permitted_address_among_blocked_ones_is_contacted(
    certificates: Certificates,
) -> None:
    async with open_network(certificates, ONE_PUBLIC) as network:
        assert await network.get(f"far.example:{network.site.port}") == "{}"


async def test_connection_that_breaks_is_tried_again(certificates: Certificates) -> None:
    async def close(stream: trio.abc.Stream) -> None:
        await stream.aclose()

    responses = [SiteResponse(raw=close), SiteResponse(b"down", 503), SiteResponse(b"up")]
    async with open_network(certificates) as network:
        network.site.pages[URI] = lambda request: responses.pop(0)

        assert await network.get(f"far.example:{network.site.port}") == "up"


async def test_request_that_may_not_be_repeated_is_sent_once(certificates: Certificates) -> None:
    async with open_network(certificates) as network:
        network.site.pages[URI] = SiteResponse(b"down", 503)
        request = request_to(f"far.example:{network.site.port}", method="POST", body=b"{}")

        response = await network.transport.send(request)

    assert response.status == 503
    assert len(network.site.requests) == 1


async def test_endless_response_is_cut_off(certificates: Certificates) -> None:
    async def endless(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
        while True:
            await stream.send_all(b" " * 65536)

    async with open_network(certificates) as network:
        network.site.pages[URI] = SiteResponse(raw=endless)
        with pytest.raises(RemoteFault, match="larger than 10000 bytes") as caught:
            await network.get(f"far.example:{network.site.port}")

    assert not caught.value.retry


async def test_silent_server_is_given_up(certificates: Certificates) -> None:
    async with open_network(certificates) as network:

        async def say_nothing(request: SiteRequest) -> SiteResponse:
            await trio.sleep_forever()

        network.site.pages[URI] = say_nothing
        with pytest.raises(RemoteFault, match="timed out"):
            await network.get(f"far.example:{network.site.port}", timeout_s=0.5)


async def test_server_that_is_down_is_reported(certificates: Certificates) -> None:
    async with open_network(certificates) as network:
        with trio.socket.socket() as unused:
            await unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
            with pytest.raises(RemoteFault) as caught:
                await network.get(f"far.example:{port}")

    assert caught.value.retry
    assert caught.value.server == f"far.example:{port}"


async def test_body_is_streamed(certificates: Certificates) -> None:
    content = bytes(range(256)) * 4096
    async with open_network(certificates) as network:
        network.site.pages[URI] = SiteResponse(content)
        server = f"far.example:{network.site.port}"
        for _ in range(2):
            request = request_to(server, max_bytes=len(content))
            async with network.transport.stream(request) as response:
                parts = [part async for part in response.parts]
            assert b"".join(parts) == content
        async with network.transport.stream(request_to(server)) as response:
            with pytest.raises(RemoteFault, match="larger than"):
                async for _ in response.parts:
                    pass

    assert network.site.connections == 1


async def test_proxy_is_told_the_target_and_the_certificate_is_that_of_the_server(
    certificates: Certificates,
) -> None:
    async with open_network(certificates, is_proxied=True) as network:
        record = SrvRecord(1, 1, network.site.port, "target.example")
        network.srv["_matrix-fed._tcp.far.example"] = (record,)
        network.srv["_matrix-fed._tcp.other.example"] = (record,)

        assert await network.get("far.example") == "{}"
        with pytest.raises(RemoteFault, match="certificate"):
            await network.get("other.example")

    assert network.hops == [f"CONNECT target.example:{network.site.port}"] * len(network.hops)
    assert network.hops


async def test_blocked_address_is_not_reached_through_the_proxy(
    certificates: Certificates,
) -> None:
    async with open_network(certificates, PRIVATE, is_proxied=True) as network:
        with pytest.raises(RemoteFault, match="blocked address"):
            await network.get(f"far.example:{network.site.port}")

    assert network.hops == []


class SilentWebServer:
    """The Delegations of a host that ignores requests for its well-known file."""

    def __init__(self) -> None:
        self.is_known = False

    async def delegated_name(self, hostname: str) -> ServerName | None:
        if not self.is_known:
            await trio.sleep(10)
        self.is_known = True
        return None

    async def srv_records(self, name: str) -> Sequence[SrvRecord]:
        return ()


@attrs.define
class ScriptedHttp:
    """A client whose requests fail with these faults in turn, and then succeed."""

    faults: list[HttpFault] = attrs.Factory(list)
    requests: list[DirectedRequest] = attrs.Factory(list)

    async def send(self, request: DirectedRequest) -> HttpResponse:
        self.requests.append(request)
        if self.faults:
            raise self.faults.pop(0)
        return HttpResponse(200, {}, b"{}", request.uri)


def scripted(http: ScriptedHttp) -> NetworkTransport:
    client: Any = http
    tls = peer_tls(FederationSettings())
    return NetworkTransport(SilentWebServer(), client, tls, "test/1", PeerRequestSettings())


async def test_silent_web_server_does_not_use_up_the_time_of_requests(
    autojump_clock: trio.testing.MockClock,
) -> None:
    http = ScriptedHttp()

    response = await scripted(http).send(request_to("far.example", timeout_s=5))

    assert response.status == 200
    assert [(request.host, request.port) for request in http.requests] == [("far.example", 8448)]


async def test_request_is_repeated_for_seconds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    http = ScriptedHttp([HttpNotConnected("refused") for _ in range(10)])

    with pytest.raises(RemoteFault, match="refused"):
        await scripted(http).send(request_to("far.example"))

    assert len(http.requests) == 4
    assert trio.current_time() < 10 + 5
