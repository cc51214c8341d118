"""What every process stands on: the feed, its transport, RPC, ownership, leases and writers.

Constructors only: nothing here starts, waits or connects.
"""

import hashlib
import importlib
from collections.abc import Callable
from typing import Any, TypeVar

import attrs

from hs.core.errors import InvalidSigningKey
from hs.core.signing.keys import Signer, SigningKey, parse_signing_keys
from hs.lib.aio import Bridge
from hs.lib.clock import Clock
from hs.lib.tasks import Duty
from hs.nursery.plan import Plan
from hs.repl.feed import Feed
from hs.repl.freshness import Freshness
from hs.repl.inproc import alone
from hs.repl.intake import Intake
from hs.repl.leases import Leases, holder_name
from hs.repl.memory_writer import MemoryWriter, epoch_at
from hs.repl.ownership import Location, Ownership, Topology
from hs.repl.rpc_client import RpcClients
from hs.repl.rpc_connection import PooledSender
from hs.repl.rpc_http import RpcEndpoint
from hs.repl.rpc_server import RpcServer
from hs.repl.streams import CATALOGUE, RATES, Kind, StreamDef
from hs.repl.transport import Traffic, Transport
from hs.repl.writers import TableWriter
from hs.services.accounts.limits.rate_limits import MakeLimiter, own_limiter
from hs.services.accounts.limits.shared_rate_limits import SharedRates
from hs.settings.errors import Problem, SettingsError
from hs.settings.sections.workers import MAIN, WorkerSettings
from hs.settings.settings import Settings
from hs.storage.database import Database

P = TypeVar("P")
R = TypeVar("R")


@attrs.frozen(eq=False)
class Remote:
    """How this process calls others and answers their calls."""

    clients: RpcClients
    server: RpcServer
    endpoint: RpcEndpoint
    sender: PooledSender
    traffic: Traffic
    intake: Intake
    freshness: Freshness


@attrs.frozen(eq=False, kw_only=True)
class Foundation:
    """The ground of one process; `remote` is None where there are no other processes."""

    settings: Settings
    plan: Plan
    clock: Clock
    bridge: Bridge
    database: Database
    feed: Feed
    ownership: Ownership
    transport: Transport
    remote: Remote | None
    leases: Leases
    signer: Signer
    table_writers: dict[str, TableWriter[Any]]
    memory_writers: dict[str, MemoryWriter[Any]]
    shared_rates: SharedRates | None

    @property
    def limiters(self) -> MakeLimiter:
        """Give what makes rate limiters, which count for all processes together."""
        return own_limiter if self.shared_rates is None else self.shared_rates.make

    @property
    def duties(self) -> list[Duty]:
        """Give what goes on in every process for the ground's sake."""
        if self.shared_rates is None:
            return []
        return [Duty("rate limits", self.shared_rates.run)]

    def hears_others(self) -> bool:
        """Tell whether what other processes say arrives; always so where there are none."""
        return self.transport.connected

    def table(self, stream: StreamDef[R]) -> TableWriter[R]:
        """Give this process's writer of a table stream that it owns."""
        return self.table_writers[stream.name]

    def memory(self, stream: StreamDef[R]) -> MemoryWriter[R]:
        """Give this process's writer of a memory stream that it owns."""
        return self.memory_writers[stream.name]

    def owned(self, protocol: type[P], stream: StreamDef[Any], make: Callable[[], P]) -> P:
        """Give the one who does what only the writer of a stream may do: made here, or a proxy.

        What is made here is also offered to the other processes.
        """
        owner = self.ownership.owner(stream)
        if owner != self.plan.instance:
            assert self.remote is not None
            return self.remote.clients.proxy(protocol, owner)
        local = make()
        if self.remote is not None:
            self.remote.server.register(protocol, local)
        return local


def lay_foundation(
    settings: Settings, plan: Plan, clock: Clock, bridge: Bridge, database: Database
) -> Foundation:
    """Put together what services are given. Raises: SettingsError (no signing key)."""
    feed = Feed()
    ownership = Ownership(_topology(settings.workers))
    transport: Transport
    remote: Remote | None = None
    if plan.shared:
        # Not imported above: a process that is alone does without all of it.
        several = importlib.import_module("hs.nursery.cluster")
        transport, remote = several.connect(settings, plan, bridge, database, feed, ownership)
    else:
        transport = alone(feed)
    tables: dict[str, TableWriter[Any]] = {}
    memories: dict[str, MemoryWriter[Any]] = {}
    for stream in CATALOGUE:
        if not ownership.writes(stream):
            continue
        if stream.kind is Kind.TABLE:
            tables[stream.name] = TableWriter(
                stream, plan.instance, database, transport, clock.now_ms
            )
        else:
            epoch = epoch_at(clock.now_ms())
            memories[stream.name] = MemoryWriter(stream, plan.instance, transport, epoch)
    return Foundation(
        settings=settings,
        plan=plan,
        clock=clock,
        bridge=bridge,
        database=database,
        feed=feed,
        ownership=ownership,
        transport=transport,
        remote=remote,
        leases=Leases(database, holder_name(plan.instance), clock.now_ms),
        signer=Signer(settings.server.server_name, signing_key_of(settings)),
        table_writers=tables,
        memory_writers=memories,
        shared_rates=SharedRates(feed, memories[RATES.name]) if plan.shared else None,
    )


def signing_key_of(settings: Settings) -> SigningKey:
    """Read the key that signs events. Raises: SettingsError."""
    keys = settings.signing_keys
    text, path = keys.signing_key, keys.signing_key_path
    try:
        if text is None:
            assert path is not None
            text = path.read_text("ascii")
        return parse_signing_keys(text)[0]
    except (OSError, ValueError, InvalidSigningKey) as error:
        is_inline = keys.signing_key is not None
        cause = (isinstance(error, OSError) and error.strerror) or error
        raise SettingsError(
            [
                Problem(
                    key="signing_key" if is_inline else "signing_key_path",
                    message=f"the key {'given' if is_inline else path} cannot be read: {cause}",
                    remedy="`hs generate-config` writes one; restore the old one if you had one",
                )
            ]
        ) from None


def secret_of(key: SigningKey) -> str:
    """Make a secret that only those know who have the server's signing key: its processes."""
    return hashlib.sha256(key.sign(b"replication between our processes").encode()).hexdigest()


def _topology(workers: WorkerSettings) -> Topology:
    locations = {
        name: Location(one.host, one.port, one.tls, str(one.path) if one.path else None)
        for name, one in workers.instances.items()
    }
    writers = {stream: tuple(names) for stream, names in workers.writers.items()}
    writers["backfill"] = writers["events"]
    return Topology(workers.name, MAIN, writers, locations)
