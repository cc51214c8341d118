"""What a process stands on where there are several: Redis between them, and calls to each other."""

import ssl

from hs.lib.aio import Bridge
from hs.nursery.plan import Plan
from hs.nursery.process_base import Remote, secret_of, signing_key_of
from hs.repl.feed import Feed
from hs.repl.freshness import Freshness
from hs.repl.intake import Intake
from hs.repl.ownership import Ownership
from hs.repl.recent_rows import LocalRecentRows, RecentRows
from hs.repl.redis import RedisAddress, RedisLink, RedisTransport, channel_of
from hs.repl.rpc_client import RpcClients
from hs.repl.rpc_connection import PooledSender
from hs.repl.rpc_http import RpcEndpoint
from hs.repl.rpc_server import RpcServer
from hs.settings.sections.server import RedisSettings
from hs.settings.settings import Settings
from hs.storage.database import Database


def connect(
    settings: Settings,
    plan: Plan,
    bridge: Bridge,
    database: Database,
    feed: Feed,
    ownership: Ownership,
) -> tuple[RedisTransport, Remote]:
    """Build the transport to the other processes, and the way to call them."""
    secret = settings.workers.secret or secret_of(signing_key_of(settings))
    sender = PooledSender(ownership.topology.locations, ssl.create_default_context())

    async def look() -> None:
        await intake.look()

    clients = RpcClients(sender, secret, feed, look=look)
    intake = Intake(feed, plan.instance, database, lambda other: clients.proxy(RecentRows, other))
    channel = channel_of(settings.server.server_name)
    link = RedisLink(_redis_address(settings.redis), channel, plan.instance, bridge)
    transport = RedisTransport(
        feed, plan.instance, link, bridge, intake, ownership.expected(), sender.expect_back
    )
    server = RpcServer(lambda: transport.sources)
    server.register(RecentRows, LocalRecentRows(lambda: transport.sources))
    freshness = Freshness(feed, plan.instance, database, intake.look)
    return transport, Remote(
        clients, server, RpcEndpoint(server, secret), sender, transport, intake, freshness
    )


def _redis_address(redis: RedisSettings) -> RedisAddress:
    return RedisAddress(
        host=redis.host,
        port=redis.port,
        path=str(redis.path) if redis.path else None,
        database=redis.dbid,
        username=redis.username,
        password=redis.password,
        tls=redis.use_tls,
        ca_file=str(redis.ca_file) if redis.ca_file else None,
        certificate_file=str(redis.certificate_file) if redis.certificate_file else None,
        private_key_file=str(redis.private_key_file) if redis.private_key_file else None,
    )
