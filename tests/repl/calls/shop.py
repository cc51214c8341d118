"""A service that is called over real sockets, its implementation, and its callers."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NewType, Protocol

import attrs
import trio

from hs.core.errors import Forbidden, LimitExceeded, RemoteFault, Unavailable
from hs.repl.calls.client import RpcClients
from hs.repl.calls.endpoint import RpcEndpoint
from hs.repl.calls.reply import RpcUnavailable
from hs.repl.calls.sender import LinkSender
from hs.repl.calls.server import RpcServer
from hs.repl.feed import Feed
from hs.repl.inproc import InProcTransport
from hs.repl.ownership import Location
from hs.repl.rpc import rpc
from hs.repl.writers import TableWriter
from tests.repl.calls.call_server import CallServer, serving
from tests.repl.conftest import Note, add_note
from tests.support.servers.certificates import Certificates

Name = NewType("Name", str)


@attrs.frozen
class Order:
    """A payload."""

    name: Name
    parts: tuple[int, ...] = ()
    content: dict[str, Any] = attrs.Factory(dict)


class Shop(Protocol):
    """The methods that these tests call."""

    @rpc
    async def echo(self, order: Order, times: int = 1, note: bytes | None = None) -> list[Order]:
        """Return the order, several times."""

    @rpc
    async def count(self) -> int:
        """Count the calls of this method."""

    @rpc
    async def fail(self, kind: str) -> None:
        """Raise an error of a kind."""

    @rpc(timeout_s=0.2)
    async def hang(self) -> None:
        """Never answer."""

    @rpc
    async def wait(self) -> None:
        """Answer after the release."""

    @rpc
    async def add(self, text: str) -> int:
        """Write a note and return its ID."""


@attrs.define
class LocalShop:
    """The owner's implementation."""

    writer: TableWriter[Note] | None = None
    calls: int = 0
    hung: trio.Event = attrs.Factory(trio.Event)
    released: trio.Event = attrs.Factory(trio.Event)

    async def echo(self, order: Order, times: int = 1, note: bytes | None = None) -> list[Order]:
        return [order] * times

    async def count(self) -> int:
        self.calls += 1
        await trio.lowlevel.checkpoint()
        return self.calls

    async def fail(self, kind: str) -> None:
        match kind:
            case "forbidden":
                raise Forbidden("no", reason="because")
            case "limit":
                raise LimitExceeded("slow down", retry_after_ms=7)
            case "remote":
                raise RemoteFault("far.example", "broken", error=Forbidden("not you"), retry=False)
            case "away":
                raise Unavailable("database at 10.0.0.1")
            case "unreachable":
                raise RpcUnavailable("other", "10.0.0.1 refused the connection")
            case "bug":
                raise ZeroDivisionError("secret detail")
            case _:
                raise AssertionError(kind)

    async def hang(self) -> None:
        self.hung.set()
        await self.released.wait()
        self.calls += 1

    async def wait(self) -> None:
        await self.hang()

    async def add(self, text: str) -> int:
        assert self.writer is not None
        return await self.writer.write(add_note, text)


@asynccontextmanager
async def shop_at(
    shop: LocalShop,
    transport: InProcTransport,
    path: str | None = None,
    tls: Certificates | None = None,
) -> AsyncIterator[CallServer]:
    server = RpcServer(lambda: transport.sources)
    server.register(Shop, shop)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        async with serving(RpcEndpoint(server, "secret"), path, tls) as http:
            yield http
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def sender_to(
    location: Location, secret: str = "secret", context: ssl.SSLContext | None = None
) -> AsyncIterator[LinkSender]:
    sender = LinkSender({"owner": location}, secret, "caller", context)
    async with trio.open_nursery() as nursery:
        await nursery.start(sender.run)
        yield sender
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def client_of(
    server: CallServer, feed: Feed | None = None, secret: str = "secret"
) -> AsyncIterator[Shop]:
    async with sender_to(server.location, secret) as sender:
        yield RpcClients(sender, feed or Feed()).proxy(Shop, "owner")
