"""How the processes of one server reach each other: rows over a transport, calls by RPC."""

import importlib
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import attrs

from hs.repl.announced import AnnouncedProcesses
from hs.repl.calls.client import RpcClients
from hs.repl.calls.endpoint import RpcEndpoint
from hs.repl.calls.sender import LinkSender
from hs.repl.calls.server import RpcServer
from hs.repl.feed import Feed
from hs.repl.freshness import Freshness
from hs.repl.intake import Intake
from hs.repl.ownership import Ownership
from hs.repl.transport import Transport, TransportMetrics
from hs.settings.settings import Settings
from hs.storage.database import Database


@attrs.frozen(eq=False, kw_only=True)
class Cluster:
    """How this process calls the others and answers their calls.

    `find_bus_fault` returns why Redis does not carry messages, or None.
    """

    clients: RpcClients
    server: RpcServer
    endpoint: RpcEndpoint
    sender: LinkSender
    traffic: TransportMetrics
    intake: Intake
    freshness: Freshness
    announced: AnnouncedProcesses
    find_bus_fault: Callable[[], Awaitable[str | None]]


Connect: TypeAlias = Callable[[Settings, Feed, Ownership, Database], tuple[Transport, Cluster]]
"""Builds the transport to the other processes of a server, and the RPC to them."""


def connect_by_redis(
    settings: Settings, feed: Feed, ownership: Ownership, database: Database
) -> tuple[Transport, Cluster]:
    """Build the transport over Redis, and the RPC over sockets; nothing is connected yet.

    Raises: SettingsError, if there is no signing key.
    """
    # Imported only when called: a single process needs neither the module nor Redis's library.
    redis_cluster = importlib.import_module("hs.repl.redis_cluster")
    connected: tuple[Transport, Cluster] = redis_cluster.connect(
        settings, feed, ownership, database
    )
    return connected
