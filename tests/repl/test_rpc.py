"""RPC: payloads, errors, retries and reading one's own writes, over real sockets."""

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
from hs.repl import rpc_connection
from hs.repl.feed import Feed
from hs.repl.inproc import InProcHub, InProcTransport, alone
from hs.repl.inproc_rpc import InProcSender
from hs.repl.ownership import Location
from hs.repl.rpc import DEFAULT_TIMEOUT_S, rpc, rpc_methods
from hs.repl.rpc_client import RpcClients
from hs.repl.rpc_connection import PooledSender
from hs.repl.rpc_http import RpcEndpoint
from hs.repl.rpc_reply import RpcFailed, RpcUnavailable
from hs.repl.rpc_server import Call, RpcServer
from hs.repl.streams import RECEIPTS
from hs.repl.writers import TableWriter
from hs.storage.database import Database
from tests.repl.conftest import NOTES, Note, add_note
from tests.repl.http_server import HttpServer, serving
from tests.support.certificates import make_certificates

Name = NewType("Name", str)


@attrs.frozen
class Order:
    """A payload."""

    name: Name
    parts: tuple[int, ...] = ()
    content: dict[str, Any] = attrs.Factory(dict)


class Shop(Protocol):
    """What is asked for in these tests."""

    @rpc
    async def echo(self, order: Order, times: int = 1, note: bytes | None = None) -> list[Order]:
        """Give the order back."""

    @rpc
    async def count(self) -> int:
        """Count the calls of this method."""

    @rpc
    async def fail(self, kind: str) -> None:
        """Raise something."""

    @rpc(timeout_s=0.2)
    async def hang(self) -> None:
        """Never answer."""

    @rpc
    async def add(self, text: str) -> int:
        """Write a note."""


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


async def test_payloads_cross_in_their_types_and_the_connection_is_kept() -> None:
    order = Order(Name("x"), (1, 2), {"a": [1, None, "ü"]})
    async with shop_at(LocalShop(), alone(Feed())) as http, client_of(http) as shop:
        assert await shop.echo(order, times=2) == [order, order]
        assert await shop.echo(order, 1, b"\xff") == [order]

        assert http.connections == 1


async def test_calls_go_over_a_unix_socket(tmp_path: Path) -> None:
    async with shop_at(LocalShop(), alone(Feed()), str(tmp_path / "s")) as http:
        async with client_of(http) as shop:
            assert await shop.count() == 1


async def test_calls_go_over_tls_to_those_whose_certificate_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_certificates(tmp_path)
    owners = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    owners.load_cert_chain(made.certificate, made.key)
    trusting = ssl.create_default_context(cafile=str(made.authority))
    async with shop_at(LocalShop(), alone(Feed()), tls=owners) as http:
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


async def test_matrix_errors_arrive_as_the_class_they_were() -> None:
    async with shop_at(LocalShop(), alone(Feed())) as http, client_of(http) as shop:
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


async def test_an_owner_without_its_database_asks_to_try_again() -> None:
    async with shop_at(LocalShop(), alone(Feed())) as http, client_of(http) as shop:
        with pytest.raises(MatrixError) as refused:
            await shop.fail("away")

    assert refused.value.status == 503
    assert "10.0.0.1" not in refused.value.message


async def test_a_bug_of_the_owner_is_told_without_its_details(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with shop_at(LocalShop(), alone(Feed())) as http, client_of(http) as shop:
        with pytest.raises(RpcFailed, match="ZeroDivisionError") as failed:
            await shop.fail("bug")

    assert "secret detail" not in str(failed.value)
    assert "secret detail" in caplog.text


async def test_a_call_retried_after_a_lost_reply_is_done_once() -> None:
    local = LocalShop()
    async with shop_at(local, alone(Feed())) as http, client_of(http) as shop:
        http.lose = 2

        assert await shop.count() == 1

    assert (local.calls, http.connections) == (1, 3)


async def test_a_call_of_a_caller_that_left_is_still_done() -> None:
    local = LocalShop()
    async with shop_at(local, alone(Feed())) as http, client_of(http) as shop:

        async def leave_early() -> None:
            # Or its own limit is over first.
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


async def test_an_owner_that_does_not_run_is_unavailable_by_the_deadline() -> None:
    async with shop_at(LocalShop(), alone(Feed())) as http:
        pass
    async with client_of(http) as shop:
        with pytest.raises(RpcUnavailable) as unavailable:
            await shop.hang()

    assert isinstance(unavailable.value, MatrixError)
    assert unavailable.value.status == 503


async def test_who_calls_an_owner_that_does_not_run_hears_so_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc_connection, "CONNECT_S", 0.05)
    sender = PooledSender({"owner": Location(path=str(tmp_path / "s"))})
    shop = RpcClients(sender, "secret", Feed()).proxy(Shop, "owner")
    began = trio.current_time()

    with pytest.raises(RpcUnavailable):
        await shop.count()

    assert trio.current_time() - began < DEFAULT_TIMEOUT_S / 2


async def test_an_owner_that_is_being_restarted_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    monkeypatch.setattr(rpc_connection, "CONNECT_S", 0.05)
    path = str(tmp_path / "s")
    sender = PooledSender({"owner": Location(path=path)})
    shop = RpcClients(sender, "secret", Feed()).proxy(Shop, "owner")
    answers: list[int] = []

    answered = trio.Event()

    async def ask() -> None:
        answers.append(await shop.count())
        answered.set()

    sender.expect_back("owner")
    nursery.start_soon(ask)
    # Longer than anybody would wait who had not been told.
    await trio.testing.wait_all_tasks_blocked(0.2)
    async with shop_at(LocalShop(), alone(Feed()), path):
        with trio.fail_after(60):
            await answered.wait()

        await sender.aclose()
    assert answers == [1]


async def test_a_connection_that_the_owner_has_ended_is_not_asked(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    sender = PooledSender({"owner": Location(path=path)})
    shop = RpcClients(sender, "secret", Feed()).proxy(Shop, "owner")
    async with shop_at(LocalShop(), alone(Feed()), path):
        assert await shop.count() == 1
    os.unlink(path)

    local = LocalShop()
    async with shop_at(local, alone(Feed()), path) as http:
        assert await shop.count() == 1
        assert http.connections == 1
    await sender.aclose()


async def test_a_slow_owner_is_given_up_at_the_deadline() -> None:
    async with shop_at(LocalShop(), alone(Feed())) as http, client_of(http) as shop:
        with pytest.raises((RpcUnavailable, RpcFailed)):
            await shop.hang()


async def test_who_asks_again_while_the_owner_leaves_is_refused() -> None:
    call = Call("Shop", "hang", b"\x90", "key", 60.0)
    for _ in range(20):  # which task is first to go on is left to chance
        server = RpcServer(list)
        server.register(Shop, LocalShop())
        answers: list[bytes | None] = []

        async def ask_twice(server: RpcServer, answers: list[bytes | None]) -> None:
            answers.append(await server.answer(call))
            answers.append(await server.answer(call))

        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as running:
                await running.start(server.run)
                nursery.start_soon(ask_twice, server, answers)
                await trio.testing.wait_all_tasks_blocked()
                running.cancel_scope.cancel()

        assert answers == [None, None]


async def test_the_secret_is_needed_and_both_ends_tell_once_that_it_differs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with shop_at(LocalShop(), alone(Feed())) as http:
        async with client_of(http, secret="wrong") as shop:
            for _ in range(2):
                with pytest.raises(RpcUnavailable, match="worker_replication_secret"):
                    await shop.count()

    told = sorted(one.getMessage() for one in caplog.records if one.levelname == "ERROR")
    assert [line.partition(":")[0] for line in told] == [
        "a process that calls this one is refused",
        "the process owner refuses our calls",
    ]


async def test_an_empty_secret_lets_nobody_in() -> None:
    endpoint = RpcEndpoint(RpcServer(list), "")
    headers = {"authorization": "Bearer ", "x-hs-call": "k"}

    status, _ = await endpoint.handle("/_synapse/replication/rpc/Shop/count", b"", headers)

    assert status == 401


async def test_the_caller_reads_its_own_writes(db: Database, nursery: trio.Nursery) -> None:
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
        # The owner is done, but this process has not seen it, so the caller still waits.
        assert numbers == []
        reader.start_at(RECEIPTS, "owner", 1)
        with trio.fail_after(60):
            await done.wait()

    nursery.cancel_scope.cancel()


async def test_who_does_not_hear_of_its_own_writes_looks_for_them(
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


async def test_instances_of_one_run_call_each_other_without_sockets() -> None:
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


def test_methods_that_cannot_cross_are_refused_at_declaration() -> None:
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
