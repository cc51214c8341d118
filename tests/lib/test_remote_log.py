"""The handler that sends log lines to a TCP server."""

import logging
import socket
import threading
from collections.abc import Iterator

import pytest

from hs.lib import remote_log
from hs.lib.log import JsonFormatter
from hs.lib.remote_log import RemoteHandler
from tests.support.servers.processes import free_ports


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("test of the remote log")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    yield logger
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
        handler.close()


def lines_sent_to(server: socket.socket, count: int) -> list[bytes]:
    server.settimeout(10)
    connection, _ = server.accept()
    connection.settimeout(10)
    with connection, connection.makefile("rb") as received:
        return [received.readline() for _ in range(count)]


def test_each_record_is_a_line(logger: logging.Logger) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        handler = RemoteHandler("127.0.0.1", server.getsockname()[1])
        handler.setFormatter(JsonFormatter())
        logger.addHandler(handler)

        logger.info("first")
        logger.info("second\nline")

        first, second = lines_sent_to(server, 2)
        assert b'"log":"first"' in first
        assert b'"log":"second\\nline"' in second


def test_lines_are_kept_up_to_the_bound_until_the_server_appears(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_log, "RETRY_S", 0.05)
    [port] = free_ports(1)
    logger.addHandler(RemoteHandler("127.0.0.1", port, maximum_buffer=2))
    for number in range(5):
        logger.info("line %d", number)

    with socket.create_server(("127.0.0.1", port)) as server:
        assert lines_sent_to(server, 2) == [b"line 3\n", b"line 4\n"]


def test_absent_server_does_not_delay_the_end(logger: logging.Logger) -> None:
    [port] = free_ports(1)
    handler = RemoteHandler("127.0.0.1", port)
    logger.addHandler(handler)
    logger.info("a line")

    handler.close()

    assert all(thread.name != "remote log" for thread in threading.enumerate())


def test_lines_are_sent_before_the_end(logger: logging.Logger) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        handler = RemoteHandler("127.0.0.1", server.getsockname()[1])
        logger.addHandler(handler)
        logger.info("a line")
        handler.close()

        assert lines_sent_to(server, 2) == [b"a line\n", b""]
