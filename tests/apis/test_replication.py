"""The endpoint of calls from other processes reads no body of a caller without the secret."""

from collections.abc import AsyncIterator

import attrs
import trio

from hs.apis.replication import ReplicationApi
from tests.support.web import client_for

PATH = "/_synapse/replication/rpc/Rooms/append"


@attrs.define
class Handler:
    """An RpcHandler that counts the bytes that it is given."""

    received: int = 0

    def admits(self, authorization: str) -> bool:
        return authorization == "Bearer secret"

    async def handle(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        await trio.lowlevel.checkpoint()
        self.received = len(body)
        return 200, b"done"


async def unread_body() -> AsyncIterator[bytes]:
    raise AssertionError("the body is read")
    yield b""


async def large_body() -> AsyncIterator[bytes]:
    for _ in range(32):
        await trio.lowlevel.checkpoint()
        yield b"x" * (1 << 20)


async def test_body_of_a_caller_without_the_secret_is_not_read() -> None:
    client = client_for(ReplicationApi(Handler()))

    response = await client.request("POST", PATH, body=unread_body(), token="guess")

    assert response.status == 401


async def test_large_call_of_another_process_is_handled() -> None:
    handler = Handler()
    client = client_for(ReplicationApi(handler))

    response = await client.request("POST", PATH, body=large_body(), token="secret")

    assert (response.status, response.body, handler.received) == (200, b"done", 32 << 20)
