"""A second process of a name is refused while the first one runs, and starts once it is dead."""

import attrs
import pytest

from tests.support.servers.postgres import PostgresServer
from tests.support.servers.processes import running_cluster
from tests.support.servers.redis import RedisServer

pytestmark = [pytest.mark.process, pytest.mark.postgres, pytest.mark.redis]

START_S = 300.0  # of a process, on a slow machine


def test_second_process_of_a_name_is_refused_until_the_first_is_dead(
    postgres_server: PostgresServer, redis_server: RedisServer
) -> None:
    with running_cluster("T2", postgres_server, redis_server) as cluster:
        first = cluster.processes["persister1"]
        second = attrs.evolve(first, log=cluster.folder / "second.log", process=None)

        second.begin()
        assert second.process is not None
        _, cause = second.process.communicate(timeout=START_S)
        told = first.log.read_text() + second.log.read_text()  # of one log configuration

        assert second.process.returncode == 1
        assert b"another process runs under this name (persister1@" in cause
        assert b"give each process its own worker_name" in cause
        assert b"has instance:persister1, waiting up to 4 s for its end" in told.encode() + cause

        first.kill()
        first.start()  # at once, although the lease of the dead process has not expired
