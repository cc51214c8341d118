"""The nest of nurseries around a composed process; the nesting is the order.

Outermost first: replication, preparations, writers, runners, duties, public listeners. Leaving
the nest is the drain, in reverse.
"""

import logging
from collections.abc import Callable, Sequence

import attrs
import trio

from hs.apis.health import HealthApi, MetricsApi
from hs.apis.replication import ReplicationApi
from hs.apis.web.app import Application
from hs.apis.web.drain import Drain
from hs.apis.web.listeners import Bound, ListenerSpec
from hs.apis.web.route import Endpoint, collect
from hs.apis.web.server import serve_listeners
from hs.core.errors import Unavailable
from hs.lib.tasks import Duty, keep_running
from hs.nursery import systemd
from hs.nursery.part import Runner
from hs.nursery.process import Process, ProcessReadiness
from hs.repl.leases import LeaseLost
from hs.repl.rpc_reply import RpcUnavailable
from hs.settings.sections.listeners import Listener
from hs.settings.settings import Settings

_INTERNAL = frozenset(("replication", "metrics", "health"))
# What duties fail with while a database or another process is away.
_PASSING = (Unavailable, LeaseLost, RpcUnavailable)

log = logging.getLogger(__name__)


@attrs.define(eq=False)
class Leaving:
    """The wish to end: before the process is ready it cancels the start, later it drains."""

    asked: trio.Event = attrs.Factory(trio.Event)
    start: trio.CancelScope = attrs.Factory(trio.CancelScope)
    is_ready: bool = False

    def ask(self) -> None:
        """Begin to leave; idempotent."""
        self.asked.set()
        if not self.is_ready:
            self.start.cancel()


async def live(process: Process, leaving: Leaving, ready: Callable[[list[Bound]], None]) -> None:
    """Start everything, call `ready` with the public listeners, and leave when asked to.

    Raises: in a group, what a writer, runner or listener failed with.
    """
    base = process.base
    internal_drain = Drain()
    internal = Application(_own_endpoints(process), process.authenticator, drain=internal_drain)
    inside = [one for one in base.plan.listeners if one.names <= _INTERNAL]
    try:
        async with trio.open_nursery() as replication:
            if base.cluster is not None:
                await replication.start(base.cluster.server.run)
            await _listen(replication, internal, inside, base.settings)
            await replication.start(base.transport.run)
            for prepare in process.preparations:
                await prepare()
            await _write(process, leaving, ready)
            internal_drain.begin()
            await internal_drain.wait_idle()
            replication.cancel_scope.cancel()
    finally:
        if base.cluster is not None:
            await base.cluster.sender.aclose()


async def _write(process: Process, leaving: Leaving, ready: Callable[[list[Bound]], None]) -> None:
    async with trio.open_nursery() as writers:
        for writer in process.base.table_writers.values():
            await writers.start(writer.run)
        for memory in process.base.memory_writers.values():
            memory.attach()
        await _run(process, leaving, ready, process.runners)
        writers.cancel_scope.cancel()


async def _run(
    process: Process,
    leaving: Leaving,
    ready: Callable[[list[Bound]], None],
    runners: Sequence[tuple[str, Runner]],
) -> None:
    """Start the runners, one nest inside the other, and in the innermost duties and listeners."""
    if runners:
        (_, first), *rest = runners
        async with trio.open_nursery() as nest:
            await nest.start(first)
            await _run(process, leaving, ready, rest)
            nest.cancel_scope.cancel()
        return
    async with trio.open_nursery() as duties:
        for duty in process.duties:
            supervised = duty if duty.plan_duty is None else _leased(process, duty)
            duties.start_soon(keep_running, supervised, _PASSING, process.supervision)
        await _serve(process, leaving, ready)
        duties.cancel_scope.cancel()


async def _serve(process: Process, leaving: Leaving, ready: Callable[[list[Bound]], None]) -> None:
    plan = process.base.plan
    public = [one for one in plan.listeners if not one.names <= _INTERNAL]
    async with trio.open_nursery() as listening:
        bound = await _listen(listening, _public_app(process), public, process.base.settings)
        leaving.is_ready = True
        ready(bound)
        await leaving.asked.wait()
        log.info("draining: no new requests, running ones have their time to end")
        systemd.notify(systemd.STOPPING)
        process.drain.begin()


async def _listen(
    nursery: trio.Nursery, app: Application, listeners: list[Listener], settings: Settings
) -> list[Bound]:
    if not listeners:
        return []
    specs = [spec for one in listeners for spec in _specs(one, settings)]
    bound: list[Bound] = await nursery.start(serve_listeners, app, specs)
    return bound


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
        [*process.endpoints, *_own_endpoints(process)],
        process.authenticator,
        rates=process.rates,
        admission=process.admission,
        drain=process.drain,
        metrics=process.metrics,
        freshness=None if cluster is None else cluster.freshness,
    )


def _own_endpoints(process: Process) -> list[Endpoint]:
    """Give what every process answers about itself, and to its siblings."""
    base = process.base
    apis: list[object] = [HealthApi(ProcessReadiness(base, process.drain))]
    if base.settings.metrics.enable_metrics:
        apis.append(MetricsApi(process.metrics))
    if base.cluster is not None:
        apis.append(ReplicationApi(base.cluster.endpoint))
    return collect(*apis)


def _leased(process: Process, duty: Duty) -> Duty:
    """Return a duty that does its work under a lease, once no other process holds it."""

    async def run() -> None:
        async with process.base.leases.hold(f"duty:{duty.name}", wait_s=float("inf")):
            await duty.perform()

    return Duty(duty.name, run, duty.waiting)
