"""HTTP/2 is not served: hostile HTTP/2 clients leave nothing behind in the process."""

from collections.abc import Callable, Iterator

import h2.config
import h2.connection
import h2.settings
import pytest

from tests.support.servers.hostile_clients import (
    connect,
    connections,
    read_until_closed,
    request,
    send_ignoring_errors,
    use_of,
    wait_until,
)
from tests.support.servers.processes import ServerProcess, running_cluster

pytestmark = pytest.mark.process

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
CONNECTIONS = 100
SPARE = 5  # descriptors of the database and of pools
SPARE_BYTES = 30 * 1024 * 1024


def begun() -> h2.connection.H2Connection:
    """Return a connection that has sent its preface."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    connection.initiate_connection()
    return connection


def ask(connection: h2.connection.H2Connection, number: int) -> None:
    """Send one request."""
    target = [(":method", "GET"), (":path", "/_matrix/client/versions"), (":scheme", "http"),
              (":authority", "a")]  # fmt: skip
    connection.send_headers(1 + 2 * number, target, end_stream=True)


def closed_window() -> bytes:
    """Return requests of a client that never lets the server send a body."""
    connection = begun()
    connection.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
    for number in range(10):
        ask(connection, number)
    return connection.data_to_send()


def settings_flood() -> bytes:
    return begun().data_to_send() + b"\0\0\0\4\0\0\0\0\0" * 20_000


def ping_flood() -> bytes:
    return begun().data_to_send() + (b"\0\0\x08\6\0\0\0\0\0" + b"12345678") * 20_000


def continuation_flood() -> bytes:
    header = b"\0\0\1\1\0\0\0\0\1" + b"\x82"
    return begun().data_to_send() + header + (b"\0\0\1\x09\0\0\0\0\1" + b"\x84") * 20_000


def rapid_reset() -> bytes:
    connection = begun()
    for number in range(2_000):
        ask(connection, number)
        connection.reset_stream(1 + 2 * number)
    return connection.data_to_send()


def half_a_preface() -> bytes:
    return PREFACE[:10]


def preface_only() -> bytes:
    return PREFACE


def websocket_tunnel() -> bytes:
    connection = begun()
    headers = [(":method", "CONNECT"), (":protocol", "websocket"), (":path", "/"),
               (":scheme", "http"), (":authority", "a")]  # fmt: skip
    connection.send_headers(1, headers)
    return connection.data_to_send()


ATTACKS = [
    closed_window, settings_flood, ping_flood, continuation_flood, rapid_reset, half_a_preface,
    preface_only, websocket_tunnel,
]  # fmt: skip


@pytest.fixture(scope="module")
def process() -> Iterator[ServerProcess]:
    """A server of one process."""
    with running_cluster("T0", None, None) as cluster:
        yield cluster.processes["main"]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: str(attack.__name__))
def test_http2_clients_that_leave_take_nothing(
    attack: Callable[[], bytes], process: ServerProcess
) -> None:
    payload = attack()
    with connect(process) as client:
        request(client, "/_matrix/client/versions")
    before = use_of(process)

    with connections(process, CONNECTIONS) as clients:
        for client in clients:
            send_ignoring_errors(client, payload)

    wait_until(lambda: use_of(process).descriptors <= before.descriptors + SPARE)
    assert use_of(process).resident_bytes < before.resident_bytes + SPARE_BYTES
    with connect(process) as client:
        assert request(client, "/_matrix/client/versions").startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: str(attack.__name__))
def test_http2_clients_that_stay_are_disconnected(
    attack: Callable[[], bytes], process: ServerProcess
) -> None:
    payload = attack()

    with connect(process) as client:
        send_ignoring_errors(client, payload)

        received = read_until_closed(client)

    assert b"\0\0\0\x0d" in received or received.startswith(b"HTTP/1.1 ") or received == b""
