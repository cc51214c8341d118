"""The services of a process as production composes them, over a test's database, without sockets.

async with open_process(database, attrs.evolve(SETTINGS, rooms=RoomSettings())) as process:
    await process.services.members.joins.join(...)

Several processes of one server share a `Neighbourhood`: rows go straight from feed to feed, and
calls go through the whole path of RPC but for the sockets.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import attrs
import msgspec
import trio

from hs.apis.web.app import Application
from hs.apis.web.auth import Authenticator
from hs.apis.web.drain import Drain
from hs.apis.web.limits import Admission
from hs.apis.web.route import collect
from hs.core.errors import RemoteFault
from hs.core.ids import ServerName
from hs.core.streams import CATALOGUE
from hs.lib.aio import Bridge
from hs.lib.clock import FixedClock
from hs.lib.http_client import HttpClient, HttpUnreachable
from hs.lib.http_client.directed import OpenResponse
from hs.nursery.plan import plan_of
from hs.nursery.process_base import ProcessBase, build_process_base
from hs.nursery.services import Network, Services, build_services
from hs.nursery.wiring.federation.remote_servers import RemoteServers
from hs.nursery.wiring.http_clients import HttpClients
from hs.repl.announced import AnnouncedProcesses
from hs.repl.calls.client import RpcClients
from hs.repl.calls.endpoint import RpcEndpoint
from hs.repl.calls.inproc import InProcSender
from hs.repl.calls.sender import LinkSender
from hs.repl.calls.server import RpcServer
from hs.repl.cluster import Cluster, Connect
from hs.repl.feed import Batch, Feed, Interest
from hs.repl.freshness import Freshness, Look
from hs.repl.inproc import InProcHub, InProcTransport
from hs.repl.intake import Intake
from hs.repl.memory_writer import attach_writers
from hs.repl.ownership import Ownership
from hs.repl.recent_rows import RecentRows
from hs.repl.row_codec import decode_rows, encode_rows
from hs.services.accounts.sessions.server_blocking import with_server_blocking
from hs.services.federation_client.peer_transport import (
    PeerRequest,
    PeerResponse,
    PeerTransport,
    StreamedResponse,
)
from hs.settings.sections.accounts import RegistrationSettings
from hs.settings.sections.federation import KeyExchangeSettings, PeerRequestSettings
from hs.settings.sections.rate_limits import (
    InviteRates,
    JoinRates,
    LoginRates,
    Rate,
    RateLimitSettings,
)
from hs.settings.sections.server import ServerSettings, SigningKeySettings
from hs.settings.sections.workers import InstanceAddress, WorkerSettings
from hs.settings.settings import Settings
from hs.storage.database import Database
from tests.support.web import WebClient

SERVER = ServerName("test.example")
SEED = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"  # the bytes 0 to 31
PLENTY = Rate(1000, 1000)
NO_LIMITS = RateLimitSettings(
    rc_message=PLENTY,
    rc_delayed_event_mgmt=PLENTY,
    rc_registration=PLENTY,
    rc_registration_token_validity=PLENTY,
    rc_login=LoginRates(address=PLENTY, account=PLENTY, failed_attempts=PLENTY),
    rc_joins=JoinRates(local=PLENTY, remote=PLENTY),
    rc_joins_per_room=PLENTY,
    rc_invites=InviteRates(per_room=PLENTY, per_user=PLENTY, per_issuer=PLENTY),
)
SETTINGS = Settings(
    server=ServerSettings(server_name=SERVER, allow_guest_access=True),
    registration=RegistrationSettings(enable_registration=True, bcrypt_rounds=4),
    rate_limits=NO_LIMITS,
    signing_keys=SigningKeySettings(signing_key=f"ed25519 key {SEED}"),
    # Tests that stop and restart servers would have to wait; those of the backoff set a time.
    peer_requests=PeerRequestSettings(destination_min_retry_interval=0),
    key_exchange=KeyExchangeSettings(trusted_key_servers=()),
)
SECRET = "replication secret"


@attrs.define(eq=False)
class Neighbourhood:
    """The processes of one server in one trio run."""

    hub: InProcHub = attrs.Factory(InProcHub)
    sender: InProcSender = attrs.Factory(InProcSender)

    def connect(
        self,
        settings: Settings,
        feed: Feed,
        ownership: Ownership,
        database: Database,
    ) -> tuple[InProcTransport, Cluster]:
        """Connect a process to the others; see `hs.repl.cluster.Connect`."""
        instance = ownership.topology.instance
        transport = self.make_transport(feed)
        intake = Intake(
            feed,
            instance,
            database,
            lambda other: clients.proxy(RecentRows, other),
            slots=ownership.slots,
        )
        look = self.look_of(feed, intake)
        clients = RpcClients(self.sender, feed, look=look)
        server = RpcServer(lambda: transport.sources)
        endpoint = RpcEndpoint(server, SECRET)
        self.sender.connect(instance, server)
        cluster = Cluster(
            clients=clients,
            server=server,
            endpoint=endpoint,
            sender=LinkSender({}, SECRET, instance),
            traffic=_NoTraffic(),
            intake=intake,
            freshness=Freshness(feed, instance, database, look),
            announced=AnnouncedProcesses(""),
            find_bus_fault=_no_fault,
        )
        return transport, cluster

    def make_transport(self, feed: Feed) -> InProcTransport:
        """Return the transport of a process."""
        return InProcTransport(feed, self.hub)

    def look_of(self, feed: Feed, intake: Intake) -> Look:
        """Return what a process calls to look for rows that are late."""
        return intake.look


async def _no_fault() -> str | None:
    return None


@attrs.frozen
class _NoTraffic:
    connected: bool = True
    connections: int = 0
    received: int = 0
    sent: int = 0
    dropped: int = 0
    waiting_in: int = 0
    waiting_out: int = 0


class NoDownloads:
    """The Downloads of a process that reaches nobody."""

    def stream(
        self, url: str, *, timeout_s: float, max_bytes: int
    ) -> AbstractAsyncContextManager[OpenResponse]:
        """Raise HttpUnreachable."""
        raise HttpUnreachable(f"{url} cannot be reached")


class UnreachablePeers:
    """The PeerTransport of tests without other servers: none can be reached."""

    async def send(self, request: PeerRequest) -> PeerResponse:
        """Raise RemoteFault."""
        raise RemoteFault(request.server, "there are no other servers")

    def stream(self, request: PeerRequest) -> AbstractAsyncContextManager[StreamedResponse]:
        """Raise RemoteFault."""
        raise RemoteFault(request.server, "there are no other servers")


class _NoBridge:
    """The bridge of tests that run on virtual time, and so may not use asyncio."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError("this test has no asyncio loop")


NO_BRIDGE: Any = _NoBridge()


@attrs.frozen(eq=False, kw_only=True, repr=False)
class ComposedProcess:
    """A process whose writers and runners work; its duties run when a test runs them."""

    base: ProcessBase
    services: Services
    clock: FixedClock
    drain: Drain

    async def run_duty(self, name: str) -> None:
        """Run a duty until it is over or cancelled."""
        (duty,) = (
            duty for part in self.services.parts for duty in part.duties if duty.name == name
        )
        await duty.run()

    @asynccontextmanager
    async def duties(self, *names: str) -> AsyncIterator[None]:
        """Run duties until the block ends."""
        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(self.run_duty, name)
            yield
            nursery.cancel_scope.cancel()

    def client(self, authenticator: Authenticator | None = None) -> WebClient:
        """Return a client of all endpoints, with the tokens of sessions or of a fake."""
        endpoints = [endpoint for part in self.services.parts for endpoint in part.endpoints]
        sessions = self.services.core.sessions
        cluster = self.base.cluster
        application = Application(
            collect(*endpoints),
            authenticator
            or with_server_blocking(sessions.authenticator, self.base.settings.blocking),
            origins=self.services.core.federation.origins,
            rates=sessions.rates,
            freshness=None if cluster is None else cluster.freshness,
        )
        return WebClient(application)


def worker_settings(
    settings: Settings, instance: str, *others: str, **writers: tuple[str, ...]
) -> Settings:
    """Return the settings of one of several processes; `writers` maps streams to their writers."""
    names = {instance, *others}.union(*writers.values())
    addresses = {name: InstanceAddress(host="127.0.0.1", port=1) for name in sorted(names)}
    defaults = WorkerSettings()
    workers = attrs.evolve(
        defaults, name=instance, instances=addresses, writers={**defaults.writers, **writers}
    )
    return attrs.evolve(settings, workers=workers)


def check_rows(feed: Feed) -> list[str]:
    """Return a list to which all rows are added from now on that other processes cannot decode."""
    malformed: list[str] = []

    def check(batch: Batch[Any]) -> None:
        try:
            decode_rows(batch.stream, encode_rows(batch.rows))
        except msgspec.DecodeError as error:
            malformed.append(f"{batch.rows}: {error}")

    for stream in CATALOGUE:
        # Those of other processes are checked where they are written.
        feed.subscribe(stream, check, Interest.OWN)
    return malformed


@asynccontextmanager
async def open_process(
    database: Database,
    settings: Settings = SETTINGS,
    *,
    clock: FixedClock | None = None,
    neighbours: Neighbourhood | None = None,
    remote: RemoteServers | None = None,
    http: HttpClient | None = None,
    peers: PeerTransport | None = None,
    bridge: Bridge | None = None,
) -> AsyncIterator[ComposedProcess]:
    """Compose a process and run its writers and runners until the block ends.

    Another process on the same database afterwards is a restart. `http` answers all requests that
    the process sends.
    """
    neighbours = neighbours or Neighbourhood()
    connect: Connect = neighbours.connect
    clock = clock or FixedClock()
    base = build_process_base(
        settings, plan_of(settings), clock, bridge or NO_BRIDGE, database, connect=connect
    )
    clients = None
    if http is not None:
        clients = HttpClients(
            public=http, direct=http, trusted=http, previews=http, downloads=NoDownloads()
        )
    drain = Drain()
    services = build_services(
        base,
        Admission(),
        drain,
        Network(http=clients, peers=peers or UnreachablePeers(), remote=remote),
    )
    if isinstance(base.transport, InProcTransport) and base.cluster is not None:
        # As in production, rows of other processes arrive once all subscribers are there.
        neighbours.hub.enter(base.transport)
    process = ComposedProcess(base=base, services=services, clock=clock, drain=drain)
    malformed = check_rows(base.feed)
    async with trio.open_nursery() as streams:
        if base.cluster is not None:
            await streams.start(base.cluster.server.run)
        for writer in base.table_writers.values():
            await streams.start(writer.run)
        for shared in base.shared_writers.values():
            await shared.attach()
        await attach_writers(base.database, base.memory_writers.values())
        if base.slots is not None:
            await base.slots.start()
        async with trio.open_nursery() as runners:
            for part in services.parts:
                if part is services.core.http.part and bridge is None:
                    continue  # its clients send nothing, and close their connections by the bridge
                for _, runner in part.runners:
                    await runners.start(runner)
            yield process
            runners.cancel_scope.cancel()
        streams.cancel_scope.cancel()
    assert not malformed
