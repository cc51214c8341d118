"""The endpoint at which other processes open their connections."""

import attrs
import pytest
import trio

from hs.apis.replication import CallStream, ReplicationApi
from hs.apis.web.app import Application
from hs.apis.web.drain import Drain
from hs.apis.web.route import collect
from tests.apis.web.conversation import memory_server
from tests.support.web import Tokens

HEAD = "GET /_synapse/replication/calls HTTP/1.1\r\nHost: a\r\n"
UPGRADE = "Connection: Upgrade\r\nUpgrade: hs-calls\r\nX-Hs-Caller: w1/1\r\n"


@attrs.define
class Handler:
    """A CallHandler that sends back what it receives."""

    callers: list[str] = attrs.Factory(list)

    def admits(self, authorization: str) -> bool:
        return authorization == "Bearer secret"

    async def serve(self, caller: str, stream: CallStream, stopping: trio.Event) -> None:
        self.callers.append(caller)
        while received := await stream.read():
            await stream.write(received)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (UPGRADE, 401),
        ("Authorization: Bearer guess\r\n" + UPGRADE, 401),
        ("Authorization: Bearer secret\r\n", 426),
    ],
)
async def test_connection_needs_the_secret_and_the_protocol(headers: str, status: int) -> None:
    handler = Handler()
    application = Application(collect(ReplicationApi(handler, Drain())), Tokens())
    async with memory_server(application) as server:
        answered, _, _ = await server.connect().request(f"{HEAD}{headers}\r\n".encode())

    assert (answered, handler.callers) == (status, [])


async def test_connection_switches_to_the_protocol_of_calls() -> None:
    handler = Handler()
    application = Application(collect(ReplicationApi(handler, Drain())), Tokens())
    async with memory_server(application) as server:
        client = server.connect()
        await client.send(f"{HEAD}Authorization: Bearer secret\r\n{UPGRADE}\r\n".encode())
        head = await client.stream.receive_some(65536)
        await client.send(b"\x00ping")
        echoed = await client.stream.receive_some(65536)
        await client.stream.aclose()

    assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert (echoed, handler.callers) == (b"\x00ping", ["w1/1"])
