"""RPC over real sockets: payloads, errors, retries, and callers that read their own writes."""

import contextlib
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NewType, Protocol

import attrs
import pytest
import trio

from hs.core.errors import Forbidden, LimitExceeded, MatrixError, RemoteFault, Unavailable
from hs.core.streams import RECEIPTS
from hs.repl import rpc_connection
from hs.repl.feed import Feed
from hs.repl.inproc import InProcHub, InProcTransport, local_transport
from hs.repl.inproc_rpc import InProcSender
from hs.repl.ownership import Location
from hs.repl.rpc import DEFAULT_TIMEOUT_S, rpc, rpc_methods
from hs.repl.rpc_client import RpcClients
from hs.repl.rpc_connection import PooledSender
from hs.repl.rpc_http import RpcEndpoint
from hs.repl.rpc_reply import RpcFailed, RpcUnavailable
from hs.repl.rpc_server import RpcCall, RpcServer
from hs.repl.writers import TableWriter
from hs.storage.database import Database
from tests.repl.conftest import NOTES, Note, add_note
from tests.repl.http_server import HttpServer, serving
from tests.support.servers.certificates import make_certificates

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
            case "bug":
                raise ZeroDivisionError("secret detail")
            case _:
                raise AssertionError(kind)

    async def hang(self) -> None:
        self.hung.set()
        await self.released.wait()
        self.calls += 1

    async def add(self, text: str) -> int:
        assert self.writer is not None
        return await self.writer.write(add_note, text)


@asynccontextmanager
async def shop_at(
    shop: LocalShop,
    transport: InProcTransport,
    path: str | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[HttpServer]:
    server = RpcServer(lambda: transport.sources)
    server.register(Shop, shop)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        async with serving(RpcEndpoint(server, "secret"), path, tls) as http:
            yield http
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def client_of(
    http: HttpServer, feed: Feed | None = None, secret: str = "secret"
) -> AsyncIterator[Shop]:
    sender = PooledSender({"owner": http.location})
    yield RpcClients(sender, secret, feed or Feed()).proxy(Shop, "owner")
    await sender.aclose()


async def test_payloads_keep_their_types_and_the_connection_is_reused() -> None:
    order = Order(Name("x"), (1, 2), {"a": [1, None, "ü"]})
    async with shop_at(LocalShop(), local_transport(Feed())) as http, client_of(http) as shop:
        assert await shop.echo(order, times=2) == [order, order]
        assert await shop.echo(order, 1, b"\xff") == [order]

        assert http.connections == 1


async def test_calls_over_a_unix_socket(tmp_path: Path) -> None:
    async with shop_at(LocalShop(), local_transport(Feed()), str(tmp_path / "s")) as http:
        async with client_of(http) as shop:
            assert await shop.count() == 1


async def test_calls_over_tls_need_a_trusted_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates = make_certificates(tmp_path)
    owner_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    owner_context.load_cert_chain(certificates.certificate, certificates.key)
    trusting = ssl.create_default_context(cafile=str(certificates.authority))
    async with shop_at(LocalShop(), local_transport(Feed()), tls=owner_context) as http:
        for context, is_trusted in ((trusting, True), (ssl.create_default_context(), False)):
            sender = PooledSender({"owner": http.location}, context)
            shop = RpcClients(sender, "secret", Feed()).proxy(Shop, "owner")
            if is_trusted:
                assert [await shop.count(), await shop.count()] == [1, 2]
                assert http.connections == 1
            else:
                monkeypatch.setattr(rpc_connection, "CONNECT_S", 2.0)
                began = trio.current_time()
                with pytest.raises(RpcUnavailable, match="certificate"):
                    await shop.count()
                assert trio.current_time() - began < DEFAULT_TIMEOUT_S / 2
            await sender.aclose()


async def test_errors_keep_their_class_and_fields() -> None:
    async with shop_at(LocalShop(), local_transport(Feed())) as http, client_of(http) as shop:
        with pytest.raises(Forbidden) as refused:
            await shop.fail("forbidden")
        with pytest.raises(LimitExceeded) as limited:
            await shop.fail("limit")
        with pytest.raises(RemoteFault) as remote:
            await shop.fail("remote")

    assert (refused.value.message, refused.value.extra) == ("no", {"reason": "because"})
    assert limited.value.extra == {"retry_after_ms": 7}
    assert (remote.value.server, remote.value.retry) == ("far.example", False)
    assert isinstance(remote.value.error, Forbidden)


async def test_owner_without_its_database_is_temporarily_unavailable() -> None:
    async with shop_at(LocalShop(), local_transport(Feed())) as http, client_of(http) as shop:
        with pytest.raises(MatrixError) as refused:
            await shop.fail("away")

    assert refused.value.status == 503
    assert "10.0.0.1" not in refused.value.message


async def test_details_of_a_bug_stay_in_the_log_of_the_owner(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with shop_at(LocalShop(), local_transport(Feed())) as http, client_of(http) as shop:
        with pytest.raises(RpcFailed, match="ZeroDivisionError") as failed:
            await shop.fail("bug")

    assert "secret detail" not in str(failed.value)
    assert "secret detail" in caplog.text


async def test_call_retried_after_a_lost_reply_is_executed_once() -> None:
    local = LocalShop()
    async with shop_at(local, local_transport(Feed())) as http, client_of(http) as shop:
        http.lose = 2

        assert await shop.count() == 1

    assert (local.calls, http.connections) == (1, 3)


async def test_call_of_a_cancelled_caller_is_still_executed() -> None:
    local = LocalShop()
    async with shop_at(local, local_transport(Feed())) as http, client_of(http) as shop:

        async def leave_early() -> None:
            # The timeout of the call may pass before the cancellation.
            with contextlib.suppress(RpcUnavailable):
                await shop.hang()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave_early)
            await local.hung.wait()
            nursery.cancel_scope.cancel()
        local.released.set()
        with trio.fail_after(60):
            while local.calls == 0:
                await trio.lowlevel.checkpoint()


async def test_stopped_owner_is_unavailable_at_the_deadline() -> None:
    async with shop_at(LocalShop(), local_transport(Feed())) as http:
        pass
    async with client_of(http) as shop:
        with pytest.raises(RpcUnavailable) as unavailable:
            await shop.hang()

    assert isinstance(unavailable.value, MatrixError)
    assert unavailable.value.status == 503


async def test_call_of_a_stopped_owner_fails_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc_connection, "CONNECT_S", 0.05)
    sender = PooledSender({"owner": Location(path=str(tmp_path / "s"))})
    shop = RpcClients(sender, "secret", Feed()).proxy(Shop, "owner")
    began = trio.current_time()

    with pytest.raises(RpcUnavailable):
        await shop.count()

    assert trio.current_time() - began < DEFAULT_TIMEOUT_S / 2


async def test_call_waits_for_an_owner_that_announced_its_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    monkeypatch.setattr(rpc_connection, "CONNECT_S", 0.05)
    path = str(tmp_path / "s")
    sender = PooledSender({"owner": Location(path=path)})
    shop = RpcClients(sender, "secret", Feed()).proxy(Shop, "owner")
    replies: list[int] = []

    replied = trio.Event()

    async def call() -> None:
        replies.append(await shop.count())
        replied.set()

    sender.expect_restart("owner")
    nursery.start_soon(call)
    # Longer than CONNECT_S, for which a caller waits without the announcement.
    await trio.testing.wait_all_tasks_blocked(0.2)
    async with shop_at(LocalShop(), local_transport(Feed()), path):
        with trio.fail_after(60):
            await replied.wait()

        await sender.aclose()
    assert replies == [1]


async def test_idle_connection_that_the_owner_closed_is_not_used(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    sender = PooledSender({"owner": Location(path=path)})
    shop = RpcClients(sender, "secret", Feed()).proxy(Shop, "owner")
    async with shop_at(LocalShop(), local_transport(Feed()), path):
        assert await shop.count() == 1
    os.unlink(path)

    local = LocalShop()
    async with shop_at(local, local_transport(Feed()), path) as http:
        assert await shop.count() == 1
        assert http.connections == 1
    await sender.aclose()


async def test_call_of_a_slow_owner_fails_at_the_deadline() -> None:
    async with shop_at(LocalShop(), local_transport(Feed())) as http, client_of(http) as shop:
        with pytest.raises((RpcUnavailable, RpcFailed)):
            await shop.hang()


async def test_attempts_get_no_reply_while_the_server_stops() -> None:
    call = RpcCall("Shop", "hang", b"\x90", "key", 60.0)
    for _ in range(20):  # trio runs the two tasks in random order
        server = RpcServer(list)
        server.register(Shop, LocalShop())
        replies: list[bytes | None] = []

        async def execute_twice(server: RpcServer, replies: list[bytes | None]) -> None:
            replies.append(await server.execute(call))
            replies.append(await server.execute(call))

        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as running:
                await running.start(server.run)
                nursery.start_soon(execute_twice, server, replies)
                await trio.testing.wait_all_tasks_blocked()
                running.cancel_scope.cancel()

        assert replies == [None, None]


async def test_call_with_another_secret_is_rejected_and_both_ends_log_it_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with shop_at(LocalShop(), local_transport(Feed())) as http:
        async with client_of(http, secret="wrong") as shop:
            for _ in range(2):
                with pytest.raises(RpcUnavailable, match="worker_replication_secret"):
                    await shop.count()

    lines = sorted(record.getMessage() for record in caplog.records if record.levelname == "ERROR")
    assert [line.partition(":")[0] for line in lines] == [
        "process owner rejects our calls",
        "rejecting the calls of another process",
    ]


async def test_empty_secret_admits_no_caller() -> None:
    endpoint = RpcEndpoint(RpcServer(list), "")
    headers = {"authorization": "Bearer ", "x-hs-call": "k"}

    status, _ = await endpoint.handle("/_synapse/replication/rpc/Shop/count", b"", headers)

    assert status == 401


async def test_caller_reads_its_own_writes(db: Database, nursery: trio.Nursery) -> None:
    hub, reader = InProcHub(), Feed()
    owner = hub.join(Feed())
    writer = TableWriter(NOTES, "owner", db, owner, lambda: 0)
    await nursery.start(writer.run)
    reader.start_at(RECEIPTS, "owner", 0)
    async with shop_at(LocalShop(writer), owner) as http, client_of(http, reader) as shop:
        numbers: list[int] = []

        done = trio.Event()

        async def add() -> None:
            numbers.append(await shop.add("mine"))
            done.set()

        nursery.start_soon(add)
        assert await owner.feed.wait_for(NOTES, "owner", 1, timeout_s=60)
        await trio.testing.wait_all_tasks_blocked(0.05)
        # The owner has committed, but this process has not seen it, so the caller still waits.
        assert numbers == []
        reader.start_at(RECEIPTS, "owner", 1)
        with trio.fail_after(60):
            await done.wait()

    nursery.cancel_scope.cancel()


async def test_caller_looks_for_its_own_writes_if_messages_are_late(
    db: Database, nursery: trio.Nursery
) -> None:
    owner, reader = InProcHub().join(Feed()), Feed()
    writer = TableWriter(NOTES, "owner", db, owner, lambda: 0)
    await nursery.start(writer.run)
    reader.start_at(RECEIPTS, "owner", 0)

    async def look() -> None:
        reader.start_at(RECEIPTS, "owner", 1)

    async with shop_at(LocalShop(writer), owner) as http:
        sender = PooledSender({"owner": http.location})
        shop = RpcClients(sender, "secret", reader, look=look).proxy(Shop, "owner")

        assert await shop.add("mine") == 1

        assert reader.position_of(RECEIPTS, "owner") == 1
        await sender.aclose()
    nursery.cancel_scope.cancel()


async def test_instances_in_one_trio_run_call_each_other_without_sockets() -> None:
    server = RpcServer(list)
    server.register(Shop, LocalShop())
    sender = InProcSender()
    sender.connect("owner", RpcEndpoint(server, "s"))
    shop = RpcClients(sender, "s", Feed()).proxy(Shop, "owner")
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        assert await shop.count() == 1
        nursery.cancel_scope.cancel()

    with pytest.raises(RpcUnavailable):
        await shop.count()


def test_methods_that_cannot_be_encoded_are_refused() -> None:
    class Sync(Protocol):
        @rpc
        def method(self) -> int: ...

    class Loose(Protocol):
        @rpc
        async def method(self, *args: int) -> int: ...

    class Nothing(Protocol):
        async def method(self) -> int: ...

    for protocol in (Sync, Loose, Nothing):
        with pytest.raises(TypeError):
            rpc_methods(protocol)
