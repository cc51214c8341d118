"""The tree of nurseries in which a composed process runs; the nesting is the order of starting.

Outermost first: replication, preparations, writers, runners, duties, public listeners. The drain
leaves them in reverse, so that whatever a component needs is still running when it ends.
"""

import logging
from collections.abc import Callable, Iterable, Sequence

import attrs
import trio

from hs.apis.health import HealthApi, MetricsApi
from hs.apis.replication import ReplicationApi
from hs.apis.web.app import Application
from hs.apis.web.client_address import TrustedProxies
from hs.apis.web.drain import Drain
from hs.apis.web.http1_limits import HttpLimits
from hs.apis.web.listeners import BoundListener, ListenerSpec
from hs.apis.web.route import Endpoint, collect
from hs.apis.web.server import serve_listeners
from hs.core.errors import ProcessUnavailable, Unavailable
from hs.lib.tasks import Duty, keep_running
from hs.nursery.health.probes import CHECKS
from hs.nursery.part import Runner
from hs.nursery.pid_file import open_file_limit
from hs.nursery.plan import INTERNAL_RESOURCES
from hs.nursery.process import Process
from hs.repl.leases import LeaseLost, instance_lease
from hs.repl.memory_writer import attach_writers
from hs.settings.sections.connections import ConnectionSettings
from hs.settings.sections.listeners import Listener
from hs.settings.settings import Settings

# Connections may take these parts of the files that the system allows; the rest is for the
# database, logs, connections to other processes, and media: each connection of a client may upload
# or download a file.
_CLIENTS_SHARE_OF_FILES = 0.35
_INTERNAL_SHARE_OF_FILES = 0.1
# Of all connections, one address may have this part, even if it may have more of them.
_ADDRESS_SHARE = 0.5
# Failures of duties while the database or another process is unreachable.
_TRANSIENT = (Unavailable, LeaseLost, ProcessUnavailable)

# Called with the public listeners, and with the internal ones.
OnListening = Callable[[list[BoundListener], list[BoundListener]], None]
OnReady = Callable[[list[BoundListener]], None]

log = logging.getLogger(__name__)


@attrs.define(eq=False)
class Shutdown:
    """The request to stop: cancels a process that is still starting, drains one that is ready."""

    requested: trio.Event = attrs.Factory(trio.Event)
    startup: trio.CancelScope = attrs.Factory(trio.CancelScope)
    is_ready: bool = False

    def request(self) -> None:
        """Begin to stop; idempotent."""
        self.requested.set()
        if not self.is_ready:
            self.startup.cancel()


async def run_tree(process: Process, shutdown: Shutdown, on_listening: OnListening) -> None:
    """Start everything, call `on_listening` with the listeners, and stop when requested.

    Raises: an exception group with the failure of a writer, runner or listener.
    """
    base = process.base
    internal_drain = Drain()
    internal = Application(
        _own_endpoints(process, internal_drain), process.authenticator, drain=internal_drain
    )
    internal_listeners = [
        listener for listener in base.plan.listeners if listener.names <= INTERNAL_RESOURCES
    ]
    async with trio.open_nursery() as replication:
        await replication.start(process.health.run)
        if base.cluster is not None:
            await replication.start(base.cluster.sender.run)
            await replication.start(base.cluster.server.run)
        limits = _internal_limits(base.settings.connections)
        bound = await _listen(replication, process, internal, internal_listeners, limits)
        await replication.start(base.transport.run)
        for prepare in process.preparations:
            await prepare()
        await _write(process, shutdown, lambda public: on_listening(public, bound), internal_drain)
        replication.cancel_scope.cancel()


async def _write(
    process: Process, shutdown: Shutdown, on_ready: OnReady, internal_drain: Drain
) -> None:
    async with trio.open_nursery() as writers:
        for writer in process.base.table_writers.values():
            await writers.start(writer.run)
        for shared in process.base.shared_writers.values():
            await shared.attach()
        await attach_writers(process.base.database, process.base.memory_writers.values())
        if process.base.slots is not None:
            await process.base.slots.start()
        await _run(process, shutdown, on_ready, process.runners, internal_drain)
        writers.cancel_scope.cancel()


async def _run(
    process: Process,
    shutdown: Shutdown,
    on_ready: OnReady,
    runners: Sequence[tuple[str, Runner]],
    internal_drain: Drain,
) -> None:
    """Start the runners, each in a nursery inside the last, then the duties and listeners.

    Calls of other processes are drained before the runners stop: a call that came later would find
    them stopped. It is sent again, to the next process of this name.
    """
    if runners:
        (_, first), *rest = runners
        async with trio.open_nursery() as nursery:
            await nursery.start(first)
            await _run(process, shutdown, on_ready, rest, internal_drain)
            nursery.cancel_scope.cancel()
        return
    await _run_duties(process, shutdown, on_ready)
    internal_drain.begin()
    await internal_drain.wait_idle()


async def _run_duties(process: Process, shutdown: Shutdown, on_ready: OnReady) -> None:
    """Run the duties and the listeners, and the slots around them.

    Slots are handed over while calls are still answered, so callers learn of the new owner.
    """
    async with trio.open_nursery() as slots:
        if process.base.slots is not None:
            await slots.start(process.base.slots.run)
        async with trio.open_nursery() as duties:
            for duty in process.duties:
                supervised = duty if duty.plan_duty is None else _leased(process, duty)
                duties.start_soon(keep_running, supervised, _TRANSIENT, process.supervision)
            await _serve(process, shutdown, on_ready)
            duties.cancel_scope.cancel()
        slots.cancel_scope.cancel()


async def _serve(process: Process, shutdown: Shutdown, on_ready: OnReady) -> None:
    plan = process.base.plan
    public = [listener for listener in plan.listeners if not listener.names <= INTERNAL_RESOURCES]
    async with trio.open_nursery() as listening:
        limits = public_limits(process.base.settings.connections)
        bound = await _listen(listening, process, _public_app(process), public, limits)
        shutdown.is_ready = process.progress.is_serving = True
        on_ready(bound)
        await shutdown.requested.wait()
        log.info("draining: accepting no new requests, waiting for running ones")
        process.drain.begin()
        await process.base.leases.announce_end(instance_lease(plan.instance))


async def _listen(
    nursery: trio.Nursery,
    process: Process,
    app: Application,
    listeners: list[Listener],
    limits: HttpLimits,
) -> list[BoundListener]:
    if not listeners:
        return []
    settings = process.base.settings
    specs = _specs_of(listeners, settings)
    proxies = TrustedProxies(settings.connections.trusted_proxies)
    bound: list[BoundListener] = await nursery.start(
        serve_listeners, app, specs, limits, proxies, process.sockets
    )
    return bound


def public_limits(settings: ConnectionSettings) -> HttpLimits:
    """Return the limits for clients; connections leave files for what they need."""
    connections = min(settings.max_connections, int(open_file_limit() * _CLIENTS_SHARE_OF_FILES))
    of_address = min(settings.max_connections_per_address, int(connections * _ADDRESS_SHARE))
    return HttpLimits(
        connections=connections,
        connections_per_source=of_address,
        unlimited_networks=settings.unlimited_addresses,
        buffered_bytes=settings.max_buffered_bytes,
    )


def _internal_limits(settings: ConnectionSettings) -> HttpLimits:
    """Return the limits for the other processes of this server, which may share an address."""
    return HttpLimits(
        connections=min(
            settings.max_connections, int(open_file_limit() * _INTERNAL_SHARE_OF_FILES)
        ),
        connections_per_source=0,
        buffered_bytes=settings.max_buffered_bytes,
    )


def listener_specs(settings: Settings) -> list[ListenerSpec]:
    """Return the addresses that a process with these settings opens."""
    return _specs_of(settings.opened_listeners, settings)


def _specs_of(listeners: Iterable[Listener], settings: Settings) -> list[ListenerSpec]:
    return [spec for listener in listeners for spec in _specs(listener, settings)]


def _specs(listener: Listener, settings: Settings) -> list[ListenerSpec]:
    certificate, key = settings.tls.tls_certificate_path, settings.tls.tls_private_key_path
    template = ListenerSpec(
        resources=listener.names,
        port=listener.port or 0,
        path=str(listener.path) if listener.path else None,
        mode=listener.mode,
        certificate_path=str(certificate) if listener.tls and certificate else None,
        private_key_path=str(key) if listener.tls and key else None,
        x_forwarded=listener.x_forwarded,
    )
    hosts = listener.bind_addresses if listener.path is None else ("",)
    return [attrs.evolve(template, host=host) for host in hosts]


def _public_app(process: Process) -> Application:
    cluster = process.base.cluster
    return Application(
        [*process.endpoints, *_own_endpoints(process, process.drain)],
        process.authenticator,
        origins=process.origins,
        rates=process.rates,
        admission=process.admission,
        drain=process.drain,
        metrics=process.metrics,
        freshness=None if cluster is None else cluster.freshness,
    )


def _own_endpoints(process: Process, drain: Drain) -> list[Endpoint]:
    """Return the endpoints for health checks, metrics and the other processes."""
    base = process.base
    apis: list[object] = [HealthApi(process.health, CHECKS)]
    if base.settings.metrics.enable_metrics:
        apis.append(MetricsApi(process.metrics))
    if base.cluster is not None:
        apis.append(ReplicationApi(base.cluster.endpoint, drain))
    return collect(*apis)


def _leased(process: Process, duty: Duty) -> Duty:
    """Return a duty that does its work under a lease, once no other process holds it."""

    async def run() -> None:
        async with process.base.leases.hold(f"duty:{duty.name}", wait_s=float("inf")):
            await duty.perform()

    return Duty(duty.name, run, duty.waiting)
