"""Servers that abuse the connection: over TLS, on this machine."""

import gzip
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from hs.core.errors import RemoteFault
from tests.services.federation_client.test_network_transport import (
    URI,
    WELL_KNOWN,
    open_network,
    request_to,
)
from tests.support.servers.certificates import Certificates, make_certificates
from tests.support.servers.sites import SiteResponse

Write = Callable[[trio.abc.Stream], Awaitable[None]]
TIME_S = 1.0
# A slow machine is given more time than the request.
LIMIT_S = 10.0
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
GZIP = HEAD + b"content-encoding: gzip\r\n"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"), "DNS:far.example")


def dripping(head: bytes, piece: bytes = b" ") -> Write:
    """Send a head, and then pieces of a byte, far too slowly."""

    async def write(stream: trio.abc.Stream) -> None:
        await stream.send_all(head)
        while True:
            await trio.sleep(0.1)
            await stream.send_all(piece)

    return write


def flooding(head: bytes, piece: bytes) -> Write:
    """Send a head, and then pieces without end as fast as possible."""

    async def write(stream: trio.abc.Stream) -> None:
        await stream.send_all(head)
        while True:
            await stream.send_all(piece)

    return write


def saying(*parts: bytes) -> Write:
    async def write(stream: trio.abc.Stream) -> None:
        for part in parts:
            await stream.send_all(part)

    return write


ATTACKS: dict[str, Write] = {
    "a byte at a time": dripping(HEAD + b"content-length: 9999\r\n\r\n"),
    "chunks of a byte": dripping(HEAD + b"transfer-encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "a header at a time": dripping(HEAD + b"x: ", b"y"),
    "nothing after the head": saying(HEAD + b"content-length: 10\r\n\r\n"),
    "empty chunks": flooding(
        HEAD + b"transfer-encoding: chunked\r\n\r\n", b"0000000001;" + b"x" * 4000 + b"\r\n \r\n"
    ),
    "endless headers": flooding(HEAD, b"x-more: " + b"y" * 1000 + b"\r\n"),
    "an endless header": flooding(HEAD + b"x: ", b"y" * 4096),
    "endless interim responses": flooding(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 50),
    "an endless body": flooding(HEAD + b"connection: close\r\n\r\n", b" " * 65536),
    "a wrong length": saying(HEAD + b"content-length: 99\r\nconnection: close\r\n\r\n", b"{}"),
    "two lengths": saying(HEAD + b"content-length: 2\r\ncontent-length: 3\r\n\r\n", b"{}"),
    "a length of text": saying(HEAD + b"content-length: many\r\n\r\n", b"{}"),
    "a huge length": saying(HEAD + b"content-length: " + b"9" * 40 + b"\r\n\r\n", b"{}"),
    "no HTTP": saying(b"SSH-2.0-OpenSSH_9.0\r\n" * 100),
    "a status of text": saying(b"HTTP/1.1 OK OK\r\n\r\n"),
    "a bomb": saying(GZIP + b"connection: close\r\n\r\n", gzip.compress(bytes(30 << 20))),
    "a broken bomb": saying(GZIP + b"content-length: 4\r\n\r\n", b"\x1f\x8bxx"),
    "another encoding": saying(HEAD + b"content-encoding: br\r\ncontent-length: 2\r\n\r\n", b"{}"),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("is_streamed", [False, True])
async def test_abused_connection_ends_in_time(
    certificates: Certificates, attack: str, is_streamed: bool
) -> None:
    async with open_network(certificates) as network:
        network.site.pages[URI] = SiteResponse(raw=ATTACKS[attack])
        request = request_to(f"far.example:{network.site.port}", timeout_s=TIME_S)
        start = time.monotonic()
        with pytest.raises(RemoteFault):
            await (_read(network, request) if is_streamed else network.transport.send(request))
        assert time.monotonic() - start < LIMIT_S

        # Other requests to the same server are answered.
        network.site.pages[URI] = SiteResponse(b"{}")
        assert await network.get(f"far.example:{network.site.port}") == "{}"


async def _read(network: Any, request: Any) -> None:
    async with network.transport.stream(request) as response:
        async for _ in response.parts:
            pass
        if response.status == 200:
            raise RemoteFault(request.server, "it was read whole")


@pytest.mark.parametrize(
    "attack", ["a byte at a time", "endless headers", "an endless body", "a bomb", "no HTTP"]
)
async def test_abused_well_known_file_counts_as_none(
    certificates: Certificates, attack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hs.services.federation_client.delegations.WELL_KNOWN_TIMEOUT_S", TIME_S)
    async with open_network(certificates) as network:
        network.site.pages[WELL_KNOWN] = SiteResponse(raw=ATTACKS[attack])

        with trio.fail_after(LIMIT_S + 20), pytest.raises(RemoteFault):
            await network.get("far.example", timeout_s=TIME_S)


async def test_redirects_of_a_well_known_file_end(certificates: Certificates) -> None:
    async with open_network(certificates) as network:
        loop = SiteResponse(b"", 302, {"location": WELL_KNOWN})
        network.site.pages[WELL_KNOWN] = loop

        with pytest.raises(RemoteFault):
            await network.get("far.example", timeout_s=5)

    assert len(network.site.requests) <= 11


async def test_server_that_never_finishes_the_handshake_is_given_up(
    certificates: Certificates,
) -> None:
    async def accept(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with open_network(certificates) as network, trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, accept, 0)
        port = listeners[0].socket.getsockname()[1]
        with trio.fail_after(LIMIT_S), pytest.raises(RemoteFault):
            await network.get(f"far.example:{port}", timeout_s=TIME_S)
        nursery.cancel_scope.cancel()
