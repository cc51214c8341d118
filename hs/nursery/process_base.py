"""The base of every process: feed, transport, RPC, ownership, leases and stream writers.

Constructors only: nothing here starts, waits or connects.
"""

import secrets
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

import attrs

from hs.core.signing.keys import Signer
from hs.core.stream_def import StreamDef, StreamKind, StreamWriters
from hs.core.streams import CATALOGUE, EVENTS, RATES, SLOTS, SlotsRow
from hs.lib.aio import Bridge
from hs.lib.clock import Clock
from hs.lib.tasks import Duty
from hs.nursery.part import Part
from hs.nursery.plan import Plan
from hs.repl.calls.reply import RpcUnavailable
from hs.repl.cluster import Cluster, Connect, connect_by_redis
from hs.repl.feed import Feed, Interest
from hs.repl.freshness import RefusalRechecks
from hs.repl.inproc import local_transport
from hs.repl.leases import Leases, holder_name, instance_lease
from hs.repl.memory_writer import MemoryWriter, epoch_at
from hs.repl.ownership import Location, Ownership, Topology
from hs.repl.sharding import KeyGuard, OwnerCalls, guarded, sharded_proxy, unguarded
from hs.repl.shared_writer import SharedTableWriter
from hs.repl.signing_key import signing_key_of
from hs.repl.slots.fences import KeyFence, fence_keys, unfenced
from hs.repl.slots.keeper import SlotKeeper
from hs.repl.slots.key_writers import KeyWriters
from hs.repl.slots.table import Listener, Matches, SlotTable
from hs.repl.transport import Transport
from hs.repl.writers import TableWriter
from hs.services.accounts.limits.rate_limits import LimiterFactory, make_local_limiter
from hs.services.accounts.limits.shared_rate_limits import SharedRateLimits
from hs.settings.sections.workers import MAIN, WorkerSettings
from hs.settings.settings import Settings
from hs.storage.database import Database

P = TypeVar("P")
R = TypeVar("R")

UNFENCED: Final = frozenset(stream.name for stream in CATALOGUE if stream.kind is StreamKind.MEMORY)


@attrs.frozen(eq=False, kw_only=True)
class ProcessBase:
    """What all services of a process are built on.

    `cluster` and `slots` are None for a server's only process.
    """

    settings: Settings
    plan: Plan
    clock: Clock
    bridge: Bridge
    database: Database
    feed: Feed
    ownership: Ownership
    transport: Transport
    cluster: Cluster | None
    leases: Leases
    signer: Signer
    table_writers: dict[str, TableWriter[Any]]
    memory_writers: dict[str, MemoryWriter[Any]]
    shared_writers: dict[str, SharedTableWriter[Any]]
    shared_rates: SharedRateLimits | None
    slots: SlotKeeper | None

    @property
    def limiters(self) -> LimiterFactory:
        """The maker of rate limiters, which count the requests of all processes together."""
        return make_local_limiter if self.shared_rates is None else self.shared_rates.make

    @property
    def rechecks(self) -> RefusalRechecks:
        """What repeats requests that were refused because this process was behind."""
        return RefusalRechecks(self.feed, None if self.cluster is None else self.cluster.freshness)

    @property
    def part(self) -> Part:
        """The duties of the base itself."""
        if self.shared_rates is None:
            return Part()
        return Part(duties=[Duty("rate limits", self.shared_rates.run)])

    def interest_if_asked(self, otherwise: Interest) -> Interest:
        """Return which rows a cache takes that saves reads for requests and duties.

        A process that nobody asks and that has no duties can do without the others.
        """
        return Interest.ALL if self.plan.answers_requests or self.plan.duties else otherwise

    def interest_if_read(self, stream: StreamDef[Any]) -> Interest:
        """Return which rows a process takes of a stream that requests, duties and writers read.

        A writer reads what the other writers have published about keys that it takes over.
        """
        takes_over = self.ownership.writes(stream) and len(self.ownership.writers(stream)) > 1
        return Interest.ALL if takes_over else self.interest_if_asked(Interest.OWN)

    def is_connected(self) -> bool:
        """Return whether rows of other processes arrive; always true for a single process."""
        return self.transport.connected

    def table(self, stream: StreamDef[R]) -> TableWriter[R]:
        """Return this process's writer of a table stream that it owns."""
        return self.table_writers[stream.name]

    def memory(self, stream: StreamDef[R]) -> MemoryWriter[R]:
        """Return this process's writer of a memory stream that it owns."""
        return self.memory_writers[stream.name]

    def shared(self, stream: StreamDef[R]) -> SharedTableWriter[R]:
        """Return this process's writer of a table stream that any process may write."""
        return self.shared_writers[stream.name]

    def owned(self, protocol: type[P], stream: StreamDef[Any], make: Callable[[], P]) -> P:
        """Return the service that only the writer of a stream may provide.

        In the writer's process it is made here and offered to the other processes by RPC;
        elsewhere the result is a proxy that calls that process.
        """
        return self.owned_by(self.ownership.owner(stream), protocol, make)

    def sharded(self, protocol: type[P], stream: StreamDef[Any], make: Callable[[], P]) -> P:
        """Return the service of all writers of a sharded stream, or of the only one.

        Each call goes to the process that owns the key, which is the first argument.
        """
        owners = self.owner_calls(stream)
        if owners is None:
            return self.owned(protocol, stream, make)

        def make_guarded() -> P:
            return guarded(protocol, make(), owners)

        return sharded_proxy(protocol, self.by_owner(protocol, stream, make_guarded), owners)

    def owner_calls(self, stream: StreamDef[Any]) -> OwnerCalls | None:
        """Return how the owners of keys of a stream are called; None if it has no slots."""
        if self.slots is None or not self.slots.table.has_slots(stream):
            return None
        return OwnerCalls(stream.writer_setting or "", self.slots.table, self.slots.refresh)

    def key_guard(self, stream: StreamDef[Any]) -> KeyGuard:
        """Return what a service enters while it writes keys of a stream; see KeyGuard."""
        if self.slots is None or not self.slots.table.has_slots(stream):
            return unguarded
        return partial(self.slots.table.calling, stream.writer_setting or stream.name)

    def key_fence(self, stream: StreamDef[Any]) -> KeyFence:
        """Return what a writer of a memory stream stores its keys with; see KeyFence."""
        if self.slots is None or not self.slots.table.has_slots(stream):
            return unfenced
        return partial(fence_keys, self.slots.table, stream.writer_setting or stream.name)

    def key_writer(self, stream: StreamDef[Any]) -> Callable[[str], str | None]:
        """Return a function from keys to the writers whose rows cover them; see KeyWriters."""
        if self.slots is None or not self.slots.table.has_slots(stream):
            return partial(self.ownership.owner, stream)
        reader = KeyWriters(stream, self.feed)
        self.slots.readers.append(reader)
        return reader.writer_of

    def on_lost(self, stream: StreamDef[Any], drop: Callable[[Matches], None]) -> None:
        """Call `drop` when this process loses slots of a stream, or gives them away."""
        if self.slots is not None:
            self.slots.table.on_lost.append(_of_stream(stream, drop))

    def on_gained(self, stream: StreamDef[Any], take: Callable[[Matches], None]) -> None:
        """Call `take` when this process holds slots of a stream that it did not hold."""
        if self.slots is not None:
            self.slots.table.on_gained.append(_of_stream(stream, take))

    def by_owner(
        self, protocol: type[P], stream: StreamDef[Any], make: Callable[[], P]
    ) -> Callable[[str], P]:
        """Return a function from processes to their services, of which this one makes its own.

        It makes one if it writes the stream, or may write slots of it.
        """
        local = None
        if self.ownership.writes(stream):
            local = self.owned_by(self.plan.instance, protocol, make)

        def service_of(instance: str) -> P:
            if instance != self.plan.instance:
                assert self.cluster is not None
                return self.cluster.clients.proxy_of_holder(protocol, instance)
            if local is None:
                raise RpcUnavailable(instance, f"it is not configured to write {stream.name}")
            return local

        return service_of

    def owned_by(self, instance: str, protocol: type[P], make: Callable[[], P]) -> P:
        """Return a service of one process: made here if it is this one, else a proxy."""
        if instance != self.plan.instance:
            assert self.cluster is not None
            return self.cluster.clients.proxy(protocol, instance)
        local = make()
        if self.cluster is not None:
            self.cluster.server.register(protocol, local)
        return local

    def planned(self, plan_duty: str, make: Callable[[], P]) -> P | None:
        """Build what a leased duty runs, if this process's plan has the duty; else return None.

        For what follows the feed from its construction on: elsewhere it would accumulate rows
        that nobody takes.
        """
        return make() if plan_duty in self.plan.duties else None


def _of_stream(stream: StreamDef[Any], call: Callable[[Matches], None]) -> Listener:
    def listen(name: str, matches: Matches) -> None:
        if name == stream.name:
            call(matches)

    return listen


def build_process_base(
    settings: Settings,
    plan: Plan,
    clock: Clock,
    bridge: Bridge,
    database: Database,
    connect: Connect = connect_by_redis,
) -> ProcessBase:
    """Build the base of a process. Raises: SettingsError (no signing key)."""
    feed = Feed()
    topology = topology_of(settings.workers)
    table = SlotTable(plan.instance, slot_writers(topology), UNFENCED) if plan.shared else None
    ownership = Ownership(topology, table)
    transport: Transport
    cluster: Cluster | None = None
    if plan.shared:
        transport, cluster = connect(settings, feed, ownership, database)
    else:
        transport = local_transport(feed)
    leases = Leases(database, holder_name(plan.instance), clock.now_ms)
    tables: dict[str, TableWriter[Any]] = {}
    memories: dict[str, MemoryWriter[Any]] = {}
    shared: dict[str, SharedTableWriter[Any]] = {}
    for stream in CATALOGUE:
        if not ownership.writes(stream):
            continue
        if stream.writers is StreamWriters.ANY:
            look = None if cluster is None else cluster.freshness.look
            shared[stream.name] = SharedTableWriter(stream, database, transport, clock.now_ms, look)
        elif stream.kind is StreamKind.TABLE:
            tables[stream.name] = _table_writer(
                stream, plan.instance, leases, database, transport, clock, table
            )
        else:
            epoch = epoch_at(clock.now_ms())
            memories[stream.name] = MemoryWriter(stream, plan.instance, transport, epoch)
    keeper = None
    if table is not None and cluster is not None:
        table.on_departed.append(cluster.sender.release)
        keeper = _slot_keeper(table, database, leases, feed, tables, shared[SLOTS.name], cluster)
    return ProcessBase(
        settings=settings,
        plan=plan,
        clock=clock,
        bridge=bridge,
        database=database,
        feed=feed,
        ownership=ownership,
        transport=transport,
        cluster=cluster,
        leases=leases,
        signer=Signer(settings.server.server_name, signing_key_of(settings)),
        table_writers=tables,
        memory_writers=memories,
        shared_writers=shared,
        shared_rates=SharedRateLimits(feed, memories[RATES.name]) if plan.shared else None,
        slots=keeper,
    )


def _table_writer(
    stream: StreamDef[Any],
    instance: str,
    leases: Leases,
    database: Database,
    transport: Transport,
    clock: Clock,
    table: SlotTable | None,
) -> TableWriter[Any]:
    """Return the writer of a table stream."""
    return TableWriter(
        stream,
        instance,
        database,
        transport,
        clock.now_ms,
        on_fenced=table.lose_all if table and table.has_slots(stream) else None,
        may_be_replaced=partial(leases.has_expired, instance_lease(instance)),
    )


def slot_writers(topology: Topology) -> dict[str, tuple[str, ...]]:
    """Return the configured writers of each stream that has slots.

    These are events, and each other stream whose keys several processes share out. The order
    matters to the first start only: it is what earlier releases chose the owners by.
    """
    writers = tuple(topology.writers.get(EVENTS.name, ())) or (topology.main,)
    others = {
        stream.name: tuple(sorted(topology.writers.get(stream.name, ())))
        for stream in CATALOGUE
        if stream.writers is StreamWriters.SHARDED and stream.writer_setting == stream.name
    }
    return {
        **{name: names for name, names in others.items() if len(names) > 1},
        EVENTS.name: writers,
    }


def slot_holders(workers: WorkerSettings) -> frozenset[str]:
    """Return the processes that may hold slots of some stream."""
    return frozenset(
        name for names in slot_writers(topology_of(workers)).values() for name in names
    )


def _slot_keeper(
    table: SlotTable,
    database: Database,
    leases: Leases,
    feed: Feed,
    writers: dict[str, TableWriter[Any]],
    changes: SharedTableWriter[SlotsRow],
    cluster: Cluster,
) -> SlotKeeper:
    table.follow(feed)
    written = {
        name: [
            stream
            for stream in CATALOGUE
            if stream.writer_setting == name and stream.kind is StreamKind.TABLE
        ]
        for name in table.configured
    }
    return SlotKeeper(
        table=table,
        life=secrets.token_hex(8),
        writers={
            name: [writers[stream.name] for stream in streams]
            for name, streams in written.items()
            if table.instance in table.configured[name]
        },
        tables=written,
        database=database,
        leases=leases,
        feed=feed,
        changes=changes,
        look=cluster.freshness.look,
    )


def topology_of(workers: WorkerSettings) -> Topology:
    """Return the configured processes."""
    locations = {
        name: Location(
            host=address.host,
            port=address.port,
            tls=address.tls,
            path=str(address.path) if address.path else None,
        )
        for name, address in workers.instances.items()
    }
    writers = {
        stream.name: workers.writers[stream.writer_setting]
        for stream in CATALOGUE
        if stream.writer_setting is not None
    }
    return Topology(workers.name, MAIN, writers, locations)
