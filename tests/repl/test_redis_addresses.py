"""Every configurable way to connect to Redis, with and without the right credentials."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from hs.lib.aio import Bridge
from hs.repl.redis import channel_name
from hs.repl.redis_link import RedisAddress
from hs.storage.database import Database
from tests.repl.conftest import Note
from tests.repl.nodes import CHANNEL, Cluster
from tests.support.servers.certificates import make_certificates
from tests.support.servers.processes import free_ports
from tests.support.servers.redis import RedisMissing, running_redis

pytestmark = pytest.mark.redis

WAYS = ["tcp", "password", "user", "tls", "client certificate", "database"]
# The least permissions that a user in an access list of Redis needs.
LEAST = (
    f"on >wonder resetchannels &{CHANNEL}* -@all +publish +subscribe +unsubscribe +ping "
    "+client|setname"
)


@contextmanager
def redis_reached_by(way: str, folder: Path) -> Iterator[RedisAddress]:
    """Run a Redis that accepts connections in one way only, besides the socket of the tests."""
    (port,) = free_ports(1)
    address = RedisAddress(host="127.0.0.1", port=port)
    options: list[str] = ["--bind", "127.0.0.1"]
    password = ""
    match way:
        case "password":
            options += ["--port", str(port)]
            password = "open sesame"
            address = RedisAddress(host="127.0.0.1", port=port, password=password)
        case "user":
            options += ["--port", str(port), "--user", "alice", *LEAST.split()]
            address = RedisAddress(host="127.0.0.1", port=port, username="alice", password="wonder")
        case "database":
            options += ["--port", str(port)]
            address = RedisAddress(host="127.0.0.1", port=port, database=3)
        case "tls" | "client certificate":
            made = make_certificates(folder)
            needs_certificate = "yes" if way == "client certificate" else "no"
            options += ["--tls-port", str(port), "--tls-cert-file", str(made.certificate)]
            options += ["--tls-key-file", str(made.key), "--tls-ca-cert-file", str(made.authority)]
            options += ["--tls-auth-clients", needs_certificate]
            has_own = way == "client certificate"
            address = RedisAddress(
                host="127.0.0.1",
                port=port,
                tls=True,
                ca_file=str(made.authority),
                certificate_file=str(made.certificate) if has_own else None,
                private_key_file=str(made.key) if has_own else None,
            )
        case _:
            options += ["--port", str(port)]
    try:
        with running_redis(*options, password=password):
            yield address
    except RedisMissing as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("way", WAYS)
async def test_rows_reach_the_other_process(
    way: str, db: Database, bridge: Bridge, nursery: trio.Nursery, tmp_path: Path
) -> None:
    with redis_reached_by(way, tmp_path) as address:
        cluster = Cluster(db, bridge, address, ("w1", "w2"))
        writer, reader = cluster.node("w1"), cluster.node("w2")
        await nursery.start(writer.run)
        await nursery.start(reader.run)
        await until_connected(cluster)

        writer.hints.append_nowait([Note("by Redis")])

        await reader.until_seen("w1", ["by Redis"])
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("way", ["password", "user", "tls"])
async def test_process_that_redis_rejects_runs_without_it(
    way: str,
    db: Database,
    bridge: Bridge,
    nursery: trio.Nursery,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with redis_reached_by(way, tmp_path) as address:
        unauthorized = RedisAddress(host=address.host, port=address.port, tls=address.tls)
        if way == "user":
            unauthorized = RedisAddress(
                host=address.host, port=address.port, username="alice", password="wrong"
            )
        cluster = Cluster(db, bridge, unauthorized, ("w1", "w2"))
        node = cluster.node("w1")

        await nursery.start(node.run)

        await until_logged(caplog, "Redis is down")
        assert not any(node.transport.connected for node in cluster.nodes)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "address",
    [RedisAddress(path="/nowhere/redis.sock"), RedisAddress(host="127.0.0.1", port=1)],
    ids=str,
)
async def test_log_names_the_address_at_which_redis_is_not_reached(
    address: RedisAddress,
    db: Database,
    bridge: Bridge,
    nursery: trio.Nursery,
    caplog: pytest.LogCaptureFixture,
) -> None:
    node = Cluster(db, bridge, address, ("w1",)).node("w1")

    await nursery.start(node.run)

    await until_logged(caplog, "Redis is down")
    (message, *_) = [each for each in caplog.messages if "Redis is down" in each]
    assert message.count(str(address)) == 1
    nursery.cancel_scope.cancel()


async def until_logged(caplog: pytest.LogCaptureFixture, text: str) -> None:
    with trio.fail_after(60):
        while text not in caplog.text:  # noqa: ASYNC110 - a log
            await trio.sleep(0.01)


async def until_connected(cluster: Cluster) -> None:
    with trio.fail_after(60):
        while not all(node.transport.connected for node in cluster.nodes):  # noqa: ASYNC110 - a flag
            await trio.sleep(0.01)


def test_servers_that_share_a_redis_have_different_channels() -> None:
    assert channel_name("one.example") != channel_name("two.example")
