"""Several servers in one trio run, connected by a network in memory.

async with open_servers("near.example", "far.example") as (near, far):
    await near.client.get(far.name, "/_matrix/federation/v1/version")

Requests are signed, routed and checked as in production; only sockets, TLS and the discovery of
addresses are left out. A `ScriptedPeer` is a server that a test controls.
"""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import attrs
import orjson
import trio

from hs.core.canonical_json import JsonObject
from hs.core.errors import RemoteFault
from hs.core.ids import ServerName
from hs.core.signing.keys import Signer
from hs.core.signing.signed_json import sign_json
from hs.core.unpadded_base64 import encode_base64
from hs.lib.clock import FixedClock
from hs.lib.http_client import HttpClient
from hs.nursery.wiring.federation.remote_servers import RemoteServers
from hs.services.federation_client.client import FederationClient
from hs.services.federation_client.key_responses import KEYS_URI
from hs.services.federation_client.peer_transport import (
    PeerRequest,
    PeerResponse,
    StreamedResponse,
)
from hs.settings.sections.server import SigningKeySettings
from hs.settings.settings import Settings
from hs.storage.database import Database
from tests.support.composition import SETTINGS, ComposedProcess, Neighbourhood, open_process
from tests.support.peers import TEST_SERVER, signer_of
from tests.support.rooms import World
from tests.support.sql.databases import fresh_inline
from tests.support.web import WebClient

Answer = Callable[[PeerRequest], Awaitable[PeerResponse]]


@attrs.define(eq=False)
class PeerNetwork:
    """Connects servers by name. `down` are servers that nobody reaches.

    `sent` are all requests, in their order, with the name of their sender.
    """

    answers: dict[ServerName, Answer] = attrs.Factory(dict)
    down: set[ServerName] = attrs.Factory(set)
    sent: list[tuple[ServerName, PeerRequest]] = attrs.Factory(list)

    def transport_of(self, sender: ServerName) -> "NetworkTransport":
        """Return the PeerTransport of a server."""
        return NetworkTransport(self, sender)

    def uris(self, server: ServerName) -> list[str]:
        """Return the URIs of all requests to a server."""
        return [request.uri for _, request in self.sent if request.server == server]


@attrs.frozen(eq=False)
class NetworkTransport:
    """The PeerTransport of one server."""

    _network: PeerNetwork
    _sender: ServerName

    async def send(self, request: PeerRequest) -> PeerResponse:
        """Deliver a request; fail if either server is down."""
        network = self._network
        await trio.lowlevel.checkpoint()
        network.sent.append((self._sender, request))
        answer = network.answers.get(request.server)
        if answer is None or network.down & {request.server, self._sender}:
            raise RemoteFault(request.server, "connection refused")
        with trio.move_on_after(request.timeout_s):
            response = await answer(request)
            if len(response.body) > request.max_bytes:
                raise RemoteFault(request.server, "its response is too large", retry=False)
            return response
        raise RemoteFault(request.server, f"timed out after {request.timeout_s:g} s")

    @asynccontextmanager
    async def stream(self, request: PeerRequest) -> AsyncIterator[StreamedResponse]:
        """Deliver a request; the parts of the response are 64 KiB long."""
        response = await self.send(request)

        async def parts() -> AsyncGenerator[bytes, None]:
            for start in range(0, len(response.body), 1 << 16):
                await trio.lowlevel.checkpoint()
                yield response.body[start : start + (1 << 16)]

        async with aclosing(parts()) as body:
            yield StreamedResponse(response.status, response.headers, body)


def answering(client: WebClient) -> Answer:
    """Return what the application of a client answers."""

    async def answer(request: PeerRequest) -> PeerResponse:
        response = await client.request(
            request.method,
            request.uri,
            body=request.body or b"",
            headers=dict(request.headers),
        )
        headers = {name.lower(): value for name, value in response.headers.items()}
        return PeerResponse(response.status, headers, response.body)

    return answer


@attrs.define(eq=False)
class FederatedServer:
    """A server of one process; its duties run when a test runs them."""

    name: ServerName
    network: PeerNetwork
    process: ComposedProcess

    @property
    def world(self) -> World:
        """The rooms of the server."""
        return World(self.process)

    @property
    def client(self) -> FederationClient:
        """What the server sends signed requests with."""
        return self.process.services.core.federation.client

    def connect(self) -> None:
        """Have this process answer the requests to the server."""
        self.network.answers[self.name] = answering(self.web())

    def web(self) -> WebClient:
        """Return an HTTP client of the server."""
        return self.process.client()


def settings_of(name: ServerName, settings: Settings = SETTINGS) -> Settings:
    """Return settings with the name of a server and the key that `signer_of` derives from it."""
    seed = bytes(range(32)) if name == TEST_SERVER else hashlib.sha256(name.encode()).digest()
    return attrs.evolve(
        settings,
        server=attrs.evolve(settings.server, server_name=name),
        signing_keys=SigningKeySettings(signing_key=f"ed25519 key {encode_base64(seed)}"),
    )


@asynccontextmanager
async def open_server(
    name: str,
    network: PeerNetwork,
    database: Database,
    *,
    settings: Settings = SETTINGS,
    clock: FixedClock | None = None,
    neighbours: Neighbourhood | None = None,
    http: HttpClient | None = None,
    remote: RemoteServers | None = None,
) -> AsyncIterator[FederatedServer]:
    """Start a server and connect it; leaving the block stops it."""
    server_name = ServerName(name)
    async with open_process(
        database,
        settings_of(server_name, settings),
        clock=clock,
        neighbours=neighbours,
        remote=remote,
        peers=network.transport_of(server_name),
        http=http,
    ) as process:
        network.answers[server_name] = answering(process.client())
        try:
            yield FederatedServer(server_name, network, process)
        finally:
            network.answers.pop(server_name, None)  # another process may have gone before


@asynccontextmanager
async def open_servers(
    *names: str,
    clock: FixedClock | None = None,
    network: PeerNetwork | None = None,
    settings: Settings = SETTINGS,
) -> AsyncIterator[tuple[FederatedServer, ...]]:
    """Start servers, each on a database of its own, with the same clock."""
    clock, network = clock or FixedClock(), network or PeerNetwork()
    async with AsyncExitStack() as stack:
        servers = []
        for name in names:
            database = await stack.enter_async_context(fresh_inline())
            server = open_server(name, network, database, settings=settings, clock=clock)
            servers.append(await stack.enter_async_context(server))
        yield tuple(servers)


@attrs.define(eq=False)
class ScriptedPeer:
    """A server whose responses a test scripts; it publishes its key.

    `responses` maps the beginning of "METHOD path" to a status and content, or to a function of
    the request that returns them. The longest match counts.
    """

    name: ServerName
    network: PeerNetwork
    responses: dict[str, Any] = attrs.Factory(dict)
    received: list[PeerRequest] = attrs.Factory(list)

    def __attrs_post_init__(self) -> None:
        self.network.answers[self.name] = self.answer

    @property
    def signer(self) -> Signer:
        """What the server signs with."""
        return signer_of(self.name)

    @property
    def client(self) -> FederationClient:
        """What the server sends signed requests with."""
        return FederationClient(self.signer, self.network.transport_of(self.name))

    async def answer(self, request: PeerRequest) -> PeerResponse:
        """Return the scripted response; 404 M_UNRECOGNIZED without one."""
        await trio.lowlevel.checkpoint()
        self.received.append(request)
        if request.uri == KEYS_URI:
            return _json(200, self.keys())
        line = f"{request.method} {request.uri}"
        matches = [start for start in self.responses if line.startswith(start)]
        if not matches:
            return _json(404, {"errcode": "M_UNRECOGNIZED", "error": "Not scripted"})
        response = self.responses[max(matches, key=len)]
        status, content = response(request) if callable(response) else response
        return _json(status, content)

    def keys(self) -> JsonObject:
        """Return the signed response with the server's key."""
        key = self.signer.key.verify_key
        response = {
            "server_name": self.name,
            "valid_until_ts": 2**52,
            "verify_keys": {key.key_id: {"key": key.base64}},
            "old_verify_keys": {},
        }
        return sign_json(response, self.signer)


def _json(status: int, content: Any) -> PeerResponse:
    body = content if isinstance(content, bytes) else orjson.dumps(content)
    return PeerResponse(status, {"content-type": "application/json"}, body)
