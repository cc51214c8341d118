"""The servers of end-to-end tests; each test runs on every layout of processes.

T1 is between T0 and T2, which has PostgreSQL too, so it is left to the long tests.
"""

from collections.abc import Iterator
from typing import Literal

import pytest

from tests.support.servers.postgres import PostgresServer
from tests.support.servers.processes import Cluster, Layout, running_cluster
from tests.support.servers.redis import RedisServer
from tests.support.servers.whole import is_whole


def scope_of_server(fixture_name: str, config: pytest.Config) -> Literal["module", "session"]:
    """Return the scope of a server: many processes take long to start."""
    return "session" if is_whole() else "module"


@pytest.fixture(
    scope=scope_of_server,
    params=[
        "T0",
        pytest.param("T1", marks=[pytest.mark.postgres, pytest.mark.long]),
        pytest.param("T2", marks=[pytest.mark.postgres, pytest.mark.redis]),
    ],
)
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A running server, once per layout."""
    layout: Layout = request.param
    postgres: PostgresServer | None = None
    redis: RedisServer | None = None
    if layout != "T0":
        postgres = request.getfixturevalue("postgres_server")
    if layout == "T2":
        redis = request.getfixturevalue("redis_server")
    with running_cluster(layout, postgres, redis) as running:
        yield running
