"""Three servers that federate over TLS: on SQLite, on PostgreSQL, and split into processes."""

from collections.abc import Iterator

import pytest

from tests.support.servers.federated import federated_servers
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.processes import Cluster
from tests.support.servers.redis import RedisServer


@pytest.fixture(scope="module")
def three_servers(
    postgres_server: PostgresServer, redis_server: RedisServer
) -> Iterator[dict[str, Cluster]]:
    """The servers by name; the last one is split."""
    with federated_servers(
        {"127.0.0.1": "T0", "localhost": "T1", "127.0.0.2": "T2"},
        postgres_server,
        redis_server,
        allow_public_rooms_over_federation=True,
    ) as servers:
        yield servers
