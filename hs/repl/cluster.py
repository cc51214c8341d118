"""How the processes of one server reach each other: rows over a transport, calls by RPC."""

import importlib

import attrs

from hs.lib.aio import Bridge
from hs.repl.feed import Feed
from hs.repl.freshness import Freshness
from hs.repl.inproc import alone
from hs.repl.intake import Intake
from hs.repl.ownership import Ownership
from hs.repl.rpc_client import RpcClients
from hs.repl.rpc_connection import PooledSender
from hs.repl.rpc_http import RpcEndpoint
from hs.repl.rpc_server import RpcServer
from hs.repl.transport import Traffic, Transport
from hs.settings.settings import Settings
from hs.storage.database import Database


@attrs.frozen(eq=False, kw_only=True)
class Cluster:
    """How this process calls the others and answers their calls."""

    clients: RpcClients
    server: RpcServer
    endpoint: RpcEndpoint
    sender: PooledSender
    traffic: Traffic
    intake: Intake
    freshness: Freshness


def connect(
    settings: Settings,
    feed: Feed,
    ownership: Ownership,
    bridge: Bridge,
    database: Database,
    *,
    is_shared: bool,
) -> tuple[Transport, Cluster | None]:
    """Build the transport of this process and, where there are other processes, the RPC to them.

    Nothing is connected yet. Raises: SettingsError, if there is no signing key.
    """
    if not is_shared:
        return alone(feed), None
    # Imported only here: a single process needs neither the module nor the Redis library.
    redis_cluster = importlib.import_module("hs.repl.redis_cluster")
    connected: tuple[Transport, Cluster] = redis_cluster.connect_by_redis(
        settings, feed, ownership, bridge, database
    )
    return connected
