"""Calls over real sockets: payloads, errors, and callers that read their own writes."""

import contextlib
from functools import partial
from typing import Protocol

import msgspec
import pytest
import trio
import trio.testing

from hs.core.errors import Forbidden, LimitExceeded, ProcessUnavailable, RemoteFault
from hs.core.streams import CACHES, RATES, RECEIPTS
from hs.repl.calls.client import RpcClients
from hs.repl.calls.endpoint import RpcEndpoint
from hs.repl.calls.inproc import InProcSender
from hs.repl.calls.reply import (
    RpcCall,
    RpcFailed,
    RpcOutcome,
    RpcReply,
    RpcUnavailable,
    raise_from,
)
from hs.repl.calls.server import RpcServer
from hs.repl.feed import Feed
from hs.repl.freshness import TargetPositions
from hs.repl.inproc import InProcHub, local_transport
from hs.repl.memory_writer import MemoryWriter
from hs.repl.rpc import rpc, rpc_methods
from hs.repl.writers import TableWriter
from hs.storage.database import Database
from tests.repl.calls.shop import LocalShop, Name, Order, Shop, client_of, sender_to, shop_at
from tests.repl.conftest import NOTES


async def test_payloads_keep_their_types_and_the_connection_is_reused() -> None:
    order = Order(Name("x"), (1, 2), {"a": [1, None, "ü"]})
    async with shop_at(LocalShop(), local_transport(Feed())) as http, client_of(http) as shop:
        assert await shop.echo(order, times=2) == [order, order]
        assert await shop.echo(order, 1, b"\xff") == [order]

        assert http.connections == 1


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


@pytest.mark.parametrize("kind", ["away", "unreachable"])
async def test_owner_without_what_it_needs_is_temporarily_unavailable(kind: str) -> None:
    async with shop_at(LocalShop(), local_transport(Feed())) as http, client_of(http) as shop:
        with pytest.raises(ProcessUnavailable) as refused:
            await shop.fail(kind)

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


async def test_call_of_a_slow_owner_fails_at_the_deadline() -> None:
    async with shop_at(LocalShop(), local_transport(Feed())) as http, client_of(http) as shop:
        with pytest.raises(RpcUnavailable):
            await shop.hang()


async def test_call_whose_deadline_passes_at_the_owner_may_be_repeated(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server, replies = RpcServer(list), trio.Event()
    server.register(Shop, LocalShop())
    received: list[bytes] = []

    def deliver(reply: bytes) -> None:
        received.append(reply)
        replies.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        server.begin(("caller", 1), RpcCall("Shop.hang", msgspec.Raw(b"\x90"), 0.01), deliver)
        with trio.fail_after(60):
            await replies.wait()
        nursery.cancel_scope.cancel()

    with pytest.raises(RpcUnavailable, match="in time"):
        raise_from(msgspec.msgpack.decode(received[0], type=RpcReply), "owner", "Shop.hang")
    assert "Traceback" not in caplog.text


async def test_deadline_of_a_call_concerns_no_other_call() -> None:
    server, local = RpcServer(list), LocalShop()
    server.register(Shop, local)
    replies: dict[int, RpcReply] = {}
    replied = trio.Event()

    def begin(number: int, method: str, timeout_s: float) -> None:
        call = RpcCall(method, msgspec.Raw(b"\x90"), timeout_s)
        server.begin(("caller", number), call, partial(deliver, number))

    def deliver(number: int, reply: bytes) -> None:
        replies[number] = msgspec.msgpack.decode(reply, type=RpcReply)
        replied.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        for number, (method, timeout_s) in enumerate(
            [("Shop.count", 60), ("Shop.wait", 60), ("Shop.hang", 0.01), ("Shop.count", 60)]
        ):
            begin(number, method, timeout_s)
            if number != 1:
                with trio.fail_after(60):
                    while number not in replies:
                        replied = trio.Event()
                        await replied.wait()
        local.released.set()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    assert {number: reply.outcome for number, reply in replies.items()} == {
        0: RpcOutcome.RESULT,
        1: RpcOutcome.RESULT,
        2: RpcOutcome.LATE,
        3: RpcOutcome.RESULT,
    }


async def test_error_in_a_call_that_is_cancelled_at_its_deadline_does_not_stop_the_owner(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class BrokenShop(LocalShop):
        async def hang(self) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                try:
                    await trio.sleep_forever()
                finally:
                    raise ZeroDivisionError

    server, replies = RpcServer(list), list[bytes]()
    server.register(Shop, BrokenShop())
    replied = trio.Event()

    def deliver(reply: bytes) -> None:
        replies.append(reply)
        replied.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        for number, (method, timeout_s) in enumerate([("Shop.hang", 0.01), ("Shop.count", 60)]):
            replied = trio.Event()
            call = RpcCall(method, msgspec.Raw(b"\x90"), timeout_s)
            server.begin(("caller", number), call, deliver)
            with trio.fail_after(60):
                await replied.wait()
        nursery.cancel_scope.cancel()

    outcomes = [msgspec.msgpack.decode(reply, type=RpcReply).outcome for reply in replies]
    assert outcomes == [RpcOutcome.LATE, RpcOutcome.RESULT]
    assert "ZeroDivisionError" in caplog.text


async def test_calls_that_arrive_while_the_owner_stops_are_answered() -> None:
    server, replies = RpcServer(list), list[bytes]()
    server.register(Shop, LocalShop())
    call = RpcCall("Shop.count", msgspec.Raw(b"\x90"), 60)

    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        for number in range(2):
            server.begin(("caller", number), call, replies.append)
            if number == 0:
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()

    assert [bool(reply) for reply in replies] == [True, False]
    assert server.running == 0


async def test_empty_secret_admits_no_caller() -> None:
    assert not RpcEndpoint(RpcServer(list), "").admits("Bearer ")


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

    async def look(_: TargetPositions) -> None:
        reader.start_at(RECEIPTS, "owner", 1)

    async with shop_at(LocalShop(writer), owner) as http:
        async with sender_to(http.location) as sender:
            shop = RpcClients(sender, reader, look=look).proxy(Shop, "owner")

            assert await shop.add("mine") == 1

        assert reader.position_of(RECEIPTS, "owner") == 1
    nursery.cancel_scope.cancel()


async def test_caller_does_not_wait_for_streams_that_no_answer_depends_on() -> None:
    owner = InProcHub().join(Feed())
    MemoryWriter(RATES, "owner", owner, 100).attach()
    MemoryWriter(CACHES, "owner", owner, 100).attach()

    positions = RpcServer(lambda: owner.sources).positions()

    assert positions == {("caches", "owner"): 100}


async def test_instances_in_one_trio_run_call_each_other_without_sockets() -> None:
    server = RpcServer(list)
    server.register(Shop, LocalShop())
    sender = InProcSender()
    sender.connect("owner", server)
    shop = RpcClients(sender, Feed()).proxy(Shop, "owner")
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
