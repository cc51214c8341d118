"""A process with another replication secret, and outsiders at a replication listener."""

import os
import re
from collections.abc import Iterator
from urllib.parse import quote

import pytest
import trio
import yaml

from tests.support.servers.http_client import HttpClient
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.processes import Cluster, ServerProcess, running_cluster
from tests.support.servers.redis import RedisServer
from tests.support.web import WebResponse

pytestmark = [pytest.mark.process, pytest.mark.postgres, pytest.mark.redis]

CLIENT = "/_matrix/client/v3"
CALLS = "/_synapse/replication/calls"
LIMIT_S = 60.0
OUTSIDERS = 200
REPEATS = 3
OWNERS = {"send": "persister1", "account data": "sync1", "login": "main"}
NAMES = ("main", "sync1", "persister1")


@pytest.fixture(scope="module")
def cluster(postgres_server: PostgresServer, redis_server: RedisServer) -> Iterator[Cluster]:
    """Three processes, each of which owns something that the others need."""
    with running_cluster(
        "T2", postgres_server, redis_server, stream_writers={"account_data": "sync1"}
    ) as running:
        yield running


@pytest.fixture(scope="module")
def session(cluster: Cluster) -> dict[str, str]:
    """A user with a room."""
    return trio.run(begin_session, cluster)


async def begin_session(cluster: Cluster) -> dict[str, str]:
    """Register a user, who creates a room."""
    account = {"username": "alice", "password": "p", "auth": {"type": "m.login.dummy"}}
    async with HttpClient(cluster.processes["main"].port) as client:
        registered = await client.post(f"{CLIENT}/register", account)
        client.token = registered.json["access_token"]
        room = await client.post(f"{CLIENT}/createRoom", {})
    return {**registered.json, **room.json}


async def ask(process: ServerProcess, session: dict[str, str], what: str) -> WebResponse:
    """Send a request that one process of the cluster can answer."""
    async with HttpClient(process.port, session["access_token"]) as client:
        with trio.fail_after(LIMIT_S):
            if what == "send":
                path = f"{CLIENT}/rooms/{quote(session['room_id'])}/send/a.b/{os.urandom(8).hex()}"
                return await client.put(path, {})
            if what == "account data":
                path = f"{CLIENT}/user/{quote(session['user_id'])}/account_data/a.b"
                return await client.put(path, {"value": os.urandom(8).hex()})
            user = {"type": "m.id.user", "user": "alice"}
            login = {"type": "m.login.password", "identifier": user, "password": "p"}
            return await client.post(f"{CLIENT}/login", login)


async def wait_for_readiness(process: ServerProcess, status: int) -> str:
    """Wait until the process is ready, or not ready, and return the check of replication."""
    async with HttpClient(process.port) as client:
        with trio.fail_after(LIMIT_S):
            while (answer := await client.get("/health/ready")).status != status:  # noqa: ASYNC110 - a server
                await trio.sleep(0.1)
    check: str = answer.json["checks"]["replication"]
    return check


def errors_since(process: ServerProcess, offset: int) -> list[str]:
    """Return the messages of errors in the log of a process from an offset on."""
    text = process.log.read_bytes()[offset:].decode()
    return re.findall(r" ERROR +hs\.repl\.\S+ \[\S+\] (.*)", text)


@pytest.mark.parametrize(
    "wrong", ["sync1", "main", pytest.param("persister1", marks=pytest.mark.long)]
)
async def test_process_with_another_secret_is_refused_by_all_and_each_logs_it_once(
    cluster: Cluster, session: dict[str, str], wrong: str
) -> None:
    process = cluster.processes[wrong]
    process.stop()
    config = cluster.folder / "wrong.yaml"
    config.write_text("worker_replication_secret: another\n")
    process.configs.append(config)
    offsets = {name: other.log.stat().st_size for name, other in cluster.processes.items()}
    process.start()

    for _ in range(REPEATS):
        for what, owner in OWNERS.items():
            for name, asked in cluster.processes.items():
                answer = await ask(asked, session, what)
                is_refused = name != owner and wrong in (name, owner)
                assert answer.status == (503 if is_refused else 200), (what, name, answer.body)
    checks = {
        name: await wait_for_readiness(other, 503 if name == wrong != "main" else 200)
        for name, other in cluster.processes.items()
    }

    for name, other in cluster.processes.items():
        errors = errors_since(other, offsets[name])
        assert len(errors) == len(set(errors)), errors
        rejecting = {error.split()[1] for error in errors if error.startswith("process ")}
        assert rejecting == {peer for peer in NAMES if peer != name and wrong in (peer, name)}
        assert all("worker_replication_secret" in error for error in errors)
        is_told = name == wrong != "main"
        assert ("worker_replication_secret" in checks[name]) == is_told

    process.stop()
    process.configs.remove(config)
    process.start()
    for other in cluster.processes.values():
        assert await wait_for_readiness(other, 200) == "ok"
        for what in OWNERS:
            assert (await ask(other, session, what)).status == 200


def call(*headers: str, body: bytes = b"", path: str = CALLS) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: a", "Upgrade: hs-calls", "X-Hs-Caller: k", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


REFUSED = {
    "no secret": (call("Content-Length: 0"), b"401"),
    "another secret": (call("Authorization: Bearer another", "Content-Length: 0"), b"401"),
    "secret in the query": (
        call("Content-Length: 0", path=f"{CALLS}?access_token=replication-secret"),
        b"401",
    ),
    "oversized": (call("Content-Length: 99999999999"), b"401"),
    "chunked": (call("Transfer-Encoding: chunked", body=b"fffff\r\n" + b"x" * 65536), b"401"),
    "continue": (call("Expect: 100-continue", "Content-Length: 9999999"), b"401"),
    "garbage": (bytes(range(1, 256)) * 40, b"400"),
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 300, b"400"),
    "client API": (call("Content-Length: 0", path=f"{CLIENT}/login"), b"404"),
}


async def first_answer(port: int, request: bytes) -> bytes:
    """Send bytes and return the beginning of the response, in which nothing else may follow."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        with trio.fail_after(LIMIT_S):
            await stream.send_all(request)
            return bytes(await stream.receive_some(65536))


async def test_outsiders_at_a_replication_listener_are_refused_and_delay_nobody(
    cluster: Cluster, session: dict[str, str]
) -> None:
    persister = cluster.processes["persister1"]
    settings = yaml.safe_load(cluster.processes["main"].configs[0].read_text())
    port, offset = settings["instance_map"]["persister1"]["port"], persister.log.stat().st_size

    for name, (request, status) in REFUSED.items():
        answer = await first_answer(port, request)
        assert answer.startswith(b"HTTP/1.1 " + status), name
        assert status != b"401" or b"content-length: 0\r\n" in answer, name
    async with trio.open_nursery() as nursery:
        slow = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(OUTSIDERS)]
        for stream in slow:
            await stream.send_all(b"POST /_syn")
            nursery.start_soon(first_answer, port, REFUSED["no secret"][0])
        for process in cluster.processes.values():
            assert (await ask(process, session, "send")).status == 200
        for stream in slow:
            await stream.aclose()

    assert len(errors_since(persister, offset)) <= 1
