"""Listening sockets that the parent of the process opened."""

import os
import socket
from functools import partial
from pathlib import Path

import trio

from hs.apis.web.inherited_sockets import InheritedSockets, bound_address
from hs.apis.web.listeners import ListenerSpec, bind_listeners
from hs.apis.web.server import serve_listeners
from hs.nursery.systemd import passed_sockets, watchdog_period_s
from tests.apis.web.conversation import echo_application

CLIENT = frozenset({"client"})


def listening() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    return sock


async def test_connections_wait_in_the_socket_of_the_parent_between_two_processes() -> None:
    with listening() as parents:
        address = bound_address(parents)
        spec = ListenerSpec(CLIENT, port=address[1])
        for _ in range(2):
            early = await trio.open_tcp_stream(*address)
            await early.send_all(b"GET / HTTP/1.1\r\nHost: hs.test\r\nConnection: close\r\n\r\n")
            inherited = InheritedSockets({address: parents.dup()})
            app = echo_application()
            async with trio.open_nursery() as nursery:
                serve = partial(serve_listeners, app, [spec], None, None, inherited)
                [bound] = await nursery.start(serve)
                assert bound.is_inherited
                with trio.fail_after(10):
                    assert (await early.receive_some()).startswith(b"HTTP/1.1 ")
                await early.aclose()
                app.drain.begin()


def test_file_of_an_inherited_socket_is_not_removed(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as parents:
        parents.bind(path)
        parents.listen()
        spec = ListenerSpec(CLIENT, path=path)

        [bound] = bind_listeners([spec], InheritedSockets({(path, 0): parents.dup()}))
        bound.sock.close()
        bound.remove_socket_file()

        assert os.path.exists(path)


def test_ipv6_socket_of_systemd_covers_the_ipv4_listener_of_its_port() -> None:
    with socket.socket(socket.AF_INET6) as both:
        both.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        both.bind(("::", 0))
        both.listen()
        port = both.getsockname()[1]
        inherited = InheritedSockets({bound_address(both): both.dup()})
        specs = [ListenerSpec(CLIENT, host=host, port=port) for host in ("::", "0.0.0.0")]

        [bound] = bind_listeners(specs, inherited)

        assert bound.spec.host == "::"
        bound.sock.close()


def test_sockets_for_another_process_are_left_alone() -> None:
    assert passed_sockets({"LISTEN_FDS": "1", "LISTEN_PID": "1"}).by_address == {}
    assert passed_sockets({}).by_address == {}


def test_watchdog_is_told_twice_in_its_time() -> None:
    own = str(os.getpid())

    assert watchdog_period_s({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": own}) == 30.0
    assert watchdog_period_s({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}) is None
    assert watchdog_period_s({}) is None
