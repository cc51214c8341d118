"""A process among others: rows over Redis, calls over connections of their own."""

import secrets
from functools import partial

from hs.lib.default_tls import default_tls
from hs.repl.announced import AnnouncedProcesses
from hs.repl.calls.client import RpcClients
from hs.repl.calls.endpoint import RpcEndpoint
from hs.repl.calls.sender import LinkSender
from hs.repl.calls.server import RpcServer
from hs.repl.cluster import Cluster
from hs.repl.envelope import Envelopes, envelope_key
from hs.repl.feed import Feed
from hs.repl.freshness import Freshness, TargetPositions
from hs.repl.intake import Intake
from hs.repl.leases import instance_lease
from hs.repl.ownership import Ownership
from hs.repl.recent_rows import LocalRecentRows, RecentRows
from hs.repl.redis import RedisTransport, channel_name, client_name
from hs.repl.redis_link import RedisAddress, RedisLink
from hs.repl.signing_key import replication_secret_of
from hs.settings.digests import digest_of_all
from hs.settings.sections.server import RedisSettings
from hs.settings.settings import Settings
from hs.storage import leases
from hs.storage.database import Database, Tx
from hs.storage.identity import identity_of, place_of


def connect(
    settings: Settings, feed: Feed, ownership: Ownership, database: Database
) -> tuple[RedisTransport, Cluster]:
    """Build the transport to the other processes, and the RPC to them.

    Raises: SettingsError, if there is no signing key.
    """
    instance = ownership.topology.instance
    secret = replication_secret_of(settings)
    sender = LinkSender(
        ownership.topology.locations,
        secret,
        f"{instance}/{secrets.token_hex(12)}",
        default_tls(),
    )

    async def look(targets: TargetPositions) -> None:
        await intake.look(targets)

    clients = RpcClients(sender, feed, look=look)
    recent = partial(clients.proxy, RecentRows)
    intake = Intake(feed, instance, database, recent, slots=ownership.slots)
    link = RedisLink(
        redis_address(settings.redis),
        channel_name(settings.server.server_name),
        client_name(instance),
    )

    announced = AnnouncedProcesses(digest_of_all(settings.digests))

    async def make_envelopes() -> Envelopes:
        return await database.write(_read_envelopes, secret, instance)

    transport = RedisTransport(
        feed=feed,
        instance=instance,
        link=link,
        make_envelopes=make_envelopes,
        intake=intake,
        expected=ownership.expected(),
        on_leaving=sender.expect_restart,
        announced_processes=announced,
    )
    server = RpcServer(lambda: transport.sources)
    server.register(RecentRows, LocalRecentRows(lambda: transport.sources))
    cluster = Cluster(
        clients=clients,
        server=server,
        endpoint=RpcEndpoint(server, secret),
        sender=sender,
        traffic=transport,
        intake=intake,
        freshness=Freshness(feed, instance, database, intake.look),
        announced=announced,
        find_bus_fault=transport.find_fault,
    )
    return transport, cluster


async def _read_envelopes(tx: Tx, secret: str, instance: str) -> Envelopes:
    key = await read_envelope_key(tx, secret, secrets.token_hex(16))
    lease = await leases.read(tx, instance_lease(instance))
    # The lease on the name of this process, which grows with every life of it.
    life = 0 if lease is None else lease.fence
    return Envelopes(key, instance, life)


async def read_envelope_key(tx: Tx, secret: str, new_identity: str) -> bytes:
    """Return the key of messages; the database gets the new identity if it has none."""
    identity = await identity_of(tx, new_identity)
    return envelope_key(secret, f"{identity}/{await place_of(tx)}")


def redis_address(redis: RedisSettings) -> RedisAddress:
    """Return the address of Redis in the settings."""
    return RedisAddress(
        host=redis.host,
        port=redis.port,
        path=str(redis.path) if redis.path else None,
        database=redis.dbid,
        username=redis.username,
        password=redis.password,
        tls=redis.use_tls,
        ca_file=str(redis.ca_file) if redis.ca_file else None,
        ca_path=str(redis.ca_path) if redis.ca_path else None,
        certificate_file=str(redis.certificate_file) if redis.certificate_file else None,
        private_key_file=str(redis.private_key_file) if redis.private_key_file else None,
    )
