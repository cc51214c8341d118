"""A flood of cheap requests of one user or address delays the requests of others by a few."""

from typing import Any

import pytest
import trio
import trio.testing

from hs.apis.replication import ReplicationApi
from hs.apis.web.app import Application
from hs.apis.web.dispatch import REQUESTS_OF_PASS
from hs.apis.web.drain import Drain
from hs.apis.web.route import collect
from hs.repl.calls.endpoint import RpcEndpoint
from hs.repl.calls.server import RpcServer
from tests.apis.web.conversation import EchoApi, MemoryServer, memory_server
from tests.support.web import Tokens

CONNECTIONS = 100
# A pass for the requests to begin, one for the responses, and one for a task that was late.
MOST_BEFORE = 3 * 2 * REQUESTS_OF_PASS


def request(path: str, token: str | None = None, body: bytes = b"") -> bytes:
    lines = [f"{'POST' if body else 'GET'} {path} HTTP/1.1", "Host: a"]
    lines += [f"Authorization: Bearer {token}"] if token else []
    lines += [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.fixture
def application() -> Application:
    tokens = Tokens()
    tokens.user("alice")
    tokens.user("bob")
    replication = ReplicationApi(RpcEndpoint(RpcServer(list), "secret"), Drain())
    return Application(collect(EchoApi(), replication), tokens)


async def answered_before_bob(server: MemoryServer, *flood: bytes) -> int:
    """Return how many requests of a flood were answered before one of bob, sent amid them.

    Several pieces of a request are sent one after another, each by all connections at once.
    """
    answered, before = 0, -1
    clients = [server.connect() for _ in range(2 * CONNECTIONS)]
    for piece in flood[:-1]:
        for client in clients:
            await client.send(piece)
        await trio.testing.wait_all_tasks_blocked()

    async def ask(client: Any) -> None:
        nonlocal answered
        await client.request(flood[-1])
        answered += 1

    async def ask_as_bob() -> None:
        nonlocal before
        status, _, _ = await server.connect().request(request("/whoami", "bob"))
        before = answered
        assert status == 200

    async with trio.open_nursery() as nursery:
        for number, client in enumerate(clients):
            if number == CONNECTIONS:
                nursery.start_soon(ask_as_bob)
            nursery.start_soon(ask, client)
    assert answered == 2 * CONNECTIONS
    return before


@pytest.mark.parametrize(
    "flood",
    [
        [request("/whoami", "alice")],
        [request("/whoami", "unknown")],
        [request("/whoami")],
        [request("/hello")],
        [request("/nowhere")],
        [request("/hello").replace(b"GET", b"OPTIONS")],
        [request("/hello").replace(b"GET", b"DELETE")],
        [request("/echo/a", body=b"x")[:-1], b"x"],
        [request("/_synapse/replication/calls", "wrong")],
    ],
    ids=[
        "user",
        "unknown-token",
        "no-token",
        "address",
        "path",
        "preflight",
        "method",
        "body",
        "rpc",
    ],
)
async def test_requests_of_others_are_answered_amid_a_flood(
    application: Application, flood: list[bytes]
) -> None:
    async with memory_server(application) as server:
        with trio.fail_after(60):
            before = await answered_before_bob(server, *flood)

    assert before <= MOST_BEFORE
