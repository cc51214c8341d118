"""Connections between processes over real sockets: one for all calls, lost ones, stops."""

import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
import trio

from hs.core.errors import MatrixError
from hs.repl.calls import sender as sender_module
from hs.repl.calls.client import RpcClients
from hs.repl.calls.frames import FrameKind, FrameParser, Outbox
from hs.repl.calls.reply import CallNotBegun, RpcCall, RpcUnavailable
from hs.repl.calls.server import RpcServer
from hs.repl.feed import Feed
from hs.repl.inproc import local_transport
from hs.repl.ownership import Location
from hs.repl.rpc import DEFAULT_TIMEOUT_S
from tests.repl.calls.shop import LocalShop, Name, Order, Shop, client_of, sender_to, shop_at
from tests.support.servers.certificates import make_certificates


async def test_calls_over_a_unix_socket(tmp_path: Path) -> None:
    async with shop_at(LocalShop(), local_transport(Feed()), str(tmp_path / "s")) as http:
        async with client_of(http) as shop:
            assert await shop.count() == 1


async def test_calls_over_tls_need_a_trusted_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates = make_certificates(tmp_path)
    trusting = ssl.create_default_context(cafile=str(certificates.authority))
    async with shop_at(LocalShop(), local_transport(Feed()), tls=certificates) as http:
        async with sender_to(http.location, context=trusting) as sender:
            shop = RpcClients(sender, Feed()).proxy(Shop, "owner")
            assert [await shop.count(), await shop.count()] == [1, 2]
            assert http.connections == 1
        monkeypatch.setattr(sender_module, "GIVE_UP_S", 1.0)
        async with sender_to(http.location, context=ssl.create_default_context()) as sender:
            shop = RpcClients(sender, Feed()).proxy(Shop, "owner")
            began = trio.current_time()
            with pytest.raises(RpcUnavailable, match="certificate"):
                await shop.count()
            assert trio.current_time() - began < DEFAULT_TIMEOUT_S / 2


async def test_call_retried_after_a_lost_reply_is_executed_once() -> None:
    local = LocalShop()
    async with shop_at(local, local_transport(Feed())) as http, client_of(http) as shop:
        http.lose = 2

        assert await shop.count() == 1

    assert (local.calls, http.connections) == (1, 3)


async def test_connections_that_are_closed_at_once_are_opened_again_after_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sender_module, "GIVE_UP_S", 1.0)
    local = LocalShop()
    async with shop_at(local, local_transport(Feed())) as http, client_of(http) as shop:
        http.closes = True

        with pytest.raises(RpcUnavailable, match="closed"):
            await shop.count()
        # The pauses double from 20 milliseconds on.
        assert 1 < http.connections < 10

        http.closes = False
        assert await shop.count() == 1


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
    monkeypatch.setattr(sender_module, "GIVE_UP_S", 0.05)
    async with sender_to(Location(path=str(tmp_path / "s"))) as sender:
        shop = RpcClients(sender, Feed()).proxy(Shop, "owner")
        began = trio.current_time()

        with pytest.raises(RpcUnavailable):
            await shop.count()

    assert trio.current_time() - began < DEFAULT_TIMEOUT_S / 2


async def test_call_waits_for_an_owner_that_announced_its_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    monkeypatch.setattr(sender_module, "GIVE_UP_S", 0.05)
    path = str(tmp_path / "s")
    async with sender_to(Location(path=path)) as sender:
        calls = Calls(RpcClients(sender, Feed()).proxy(Shop, "owner").count)
        sender.expect_restart("owner")
        nursery.start_soon(calls.run)
        # Longer than CONNECT_S, for which a caller waits without the announcement.
        await trio.testing.wait_all_tasks_blocked(0.2)
        async with shop_at(LocalShop(), local_transport(Feed()), path):
            with trio.fail_after(60):
                await calls.ended.wait()
    assert calls.returned == 1


async def test_call_waits_for_an_owner_that_ended_its_connections_to_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    monkeypatch.setattr(sender_module, "GIVE_UP_S", 0.05)
    path, local = str(tmp_path / "s"), LocalShop()
    async with sender_to(Location(path=path)) as sender:
        shop = RpcClients(sender, Feed()).proxy(Shop, "owner")
        async with shop_at(local, local_transport(Feed()), path) as http:
            assert await shop.count() == 1
            http.drain.begin()
            with trio.fail_after(60):
                await http.drain.wait_idle()
        late = Calls(shop.count)
        nursery.start_soon(late.run)
        # Several times as long as for a process that is simply gone.
        await trio.testing.wait_all_tasks_blocked(0.2)
        async with shop_at(local, local_transport(Feed()), path):
            with trio.fail_after(60):
                await late.ended.wait()

    assert (late.returned, local.calls) == (1, 2)


async def test_next_owner_is_called_on_a_new_connection(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    async with sender_to(Location(path=path)) as sender:
        shop = RpcClients(sender, Feed()).proxy(Shop, "owner")
        async with shop_at(LocalShop(), local_transport(Feed()), path):
            assert await shop.count() == 1

        local = LocalShop()
        async with shop_at(local, local_transport(Feed()), path) as http:
            assert await shop.count() == 1
            assert http.connections == 1


async def test_owner_that_stops_answers_what_has_arrived() -> None:
    local = LocalShop()
    async with shop_at(local, local_transport(Feed())) as http, client_of(http) as shop:
        replies: list[list[Order]] = []

        async def wait_and_call() -> None:
            await shop.wait()
            replies.append(await shop.echo(Order(Name("x"))))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_and_call)
            await local.hung.wait()
            http.drain.begin()
            await trio.testing.wait_all_tasks_blocked(0.05)
            local.released.set()
            with trio.fail_after(10):
                await http.drain.wait_idle()
            nursery.cancel_scope.cancel()
    assert local.calls == 1


class Calls:
    """Calls that run at the same time: how many of them returned, and how many were not begun."""

    def __init__(self, call: Callable[[], Awaitable[object]]) -> None:
        self._call = call
        self.returned = self.not_begun = 0
        self.ended = trio.Event()

    async def run(self) -> None:
        try:
            await self._call()
            self.returned += 1
        except CallNotBegun:
            self.not_begun += 1
        self.ended.set()


async def test_movable_call_ends_when_slots_pass_on_from_a_process_that_is_away(
    tmp_path: Path,
) -> None:
    path, local = str(tmp_path / "s"), LocalShop()
    async with sender_to(Location(path=path)) as sender, trio.open_nursery() as calls:
        clients = RpcClients(sender, Feed())
        movable = Calls(clients.proxy_of_holder(Shop, "owner").count)
        lasting = Calls(clients.proxy(Shop, "owner").count)
        calls.start_soon(lasting.run)
        async with trio.open_nursery() as ending:
            ending.start_soon(movable.run)
            await trio.testing.wait_all_tasks_blocked()
            sender.release("owner")
        async with shop_at(local, local_transport(Feed()), path):
            with trio.fail_after(60):
                await lasting.ended.wait()

    assert (movable.not_begun, lasting.returned, local.calls) == (1, 1, 1)


async def test_calls_that_wait_for_their_turn_end_when_slots_pass_on(
    tmp_path: Path,
) -> None:
    number = sender_module.MAX_CALLS + 8
    async with sender_to(Location(path=str(tmp_path / "s"))) as sender:
        calls = Calls(RpcClients(sender, Feed()).proxy_of_holder(Shop, "owner").count)

        with trio.fail_after(60):
            async with trio.open_nursery() as running:
                for _ in range(number):
                    running.start_soon(calls.run)
                await trio.testing.wait_all_tasks_blocked()
                sender.release("owner")

    assert calls.not_begun == number


async def test_movable_call_that_may_have_begun_is_not_taken_back() -> None:
    local = LocalShop()
    async with (
        shop_at(local, local_transport(Feed())) as http,
        sender_to(http.location) as sender,
    ):
        calls = Calls(RpcClients(sender, Feed()).proxy_of_holder(Shop, "owner").wait)

        async with trio.open_nursery() as running:
            running.start_soon(calls.run)
            await local.hung.wait()
            sender.release("owner")
            local.released.set()

    assert (calls.returned, calls.not_begun, local.calls) == (1, 0, 1)


async def test_owner_that_stops_answers_what_it_began_and_says_that_it_began_no_more() -> None:
    local = LocalShop()
    async with (
        shop_at(local, local_transport(Feed())) as http,
        sender_to(http.location) as sender,
    ):
        shop = RpcClients(sender, Feed()).proxy_of_holder(Shop, "owner")
        begun, late = Calls(shop.wait), Calls(shop.count)

        with trio.fail_after(60):
            async with trio.open_nursery() as running:
                running.start_soon(begun.run)
                await local.hung.wait()
                http.drain.begin()
                await trio.testing.wait_all_tasks_blocked(0.05)
                running.start_soon(late.run)
                await trio.testing.wait_all_tasks_blocked(0.05)
                assert late.not_begun == 0
                local.released.set()

    assert (begun.returned, late.not_begun, local.calls) == (1, 1, 1)


async def test_call_that_an_earlier_connection_carried_is_not_taken_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sender_module, "GIVE_UP_S", 0.3)
    monkeypatch.setattr(sender_module, "RESTART_S", 0.3)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    location = Location("127.0.0.1", listener.socket.getsockname()[1])
    ends = Outbox()
    ends.add(FrameKind.END, 0, b"")

    async def break_one_connection_and_end_the_next() -> None:
        for last in (b"", ends.take()):
            async with await listener.accept() as stream:
                await stream.receive_some(4096)
                await stream.send_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
                await stream.receive_some(4096)
                await stream.send_all(last)
        await listener.aclose()

    async with trio.open_nursery() as nursery, sender_to(location) as sender:
        nursery.start_soon(break_one_connection_and_end_the_next)
        shop = RpcClients(sender, Feed()).proxy_of_holder(Shop, "owner")

        with pytest.raises(RpcUnavailable):
            await shop.count()


async def test_owner_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender_module, "ASK_AFTER_S", 0.05)
    monkeypatch.setattr(sender_module, "HUNG_AFTER_S", 0.2)
    monkeypatch.setattr(sender_module, "CONNECT_S", 0.2)
    monkeypatch.setattr(sender_module, "GIVE_UP_S", 0.1)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    location = Location("127.0.0.1", listener.socket.getsockname()[1])
    taken: list[bytes] = []

    async def accept_one_and_hang() -> None:
        async with await listener.accept() as stream:
            taken.append(bytes(await stream.receive_some(4096)))
            await stream.send_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
            while received := await stream.receive_some(4096):
                taken.append(bytes(received))

    async with trio.open_nursery() as nursery, sender_to(location) as sender:
        nursery.start_soon(accept_one_and_hang)
        shop = RpcClients(sender, Feed()).proxy(Shop, "owner")

        with pytest.raises(RpcUnavailable):
            await shop.count()

        nursery.cancel_scope.cancel()
    await listener.aclose()
    kinds = [frame.kind for frame in FrameParser().feed(b"".join(taken[1:]))]
    assert kinds[0] == FrameKind.CALL
    assert FrameKind.PING in kinds


async def test_calls_at_once_share_a_connection_with_large_ones() -> None:
    large = "x" * 5_000_000
    async with shop_at(LocalShop(), local_transport(Feed())) as http, client_of(http) as shop:
        replies: list[str] = []

        async def echo(name: str) -> None:
            (order,) = await shop.echo(Order(Name(name)))
            replies.append(order.name)

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(echo, f"{number}{large if number < 3 else ''}")

        assert http.connections == 1
    assert sorted(replies) == sorted(f"{n}{large if n < 3 else ''}" for n in range(100))


async def test_attempts_get_no_reply_while_the_server_stops() -> None:
    call = RpcCall("Shop.hang", msgspec.Raw(b"\x90"), 60.0)
    for _ in range(20):  # trio runs the two tasks in random order
        server = RpcServer(list)
        server.register(Shop, LocalShop())
        replies: list[bytes] = []
        async with trio.open_nursery() as running:
            await running.start(server.run)
            server.begin(("caller", 1), call, replies.append)
            server.begin(("caller", 1), call, replies.append)
            await trio.testing.wait_all_tasks_blocked()
            running.cancel_scope.cancel()
        server.begin(("caller", 1), call, replies.append)

        assert replies == [b"", b"", b""]


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
