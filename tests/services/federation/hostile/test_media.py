"""Media of servers that lie about its type, name, size and parts."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest
import trio

from hs.services.federation_client.peer_transport import PeerRequest, PeerResponse
from tests.services.federation.hostile.conftest import ServerLog
from tests.services.federation.users.test_media import (
    DOWNLOAD,
    FAR,
    MAX_BYTES,
    Servers,
    multipart,
    scripted,
    servers,
)
from tests.support.federation import ScriptedPeer

__all__ = ["servers"]

HEADERS = [
    "content-type: text/html\r\ncontent-disposition: inline; filename=a.html",
    "content-type: a\0b",
    "content-type: " + "x" * 5000,
    "content-type: \xff\xfe",
    "content-type: text/plain; charset=\"",
    "content-disposition: attachment; filename*1=a; filename*=b",
    "content-disposition: attachment; filename*0*=a; filename*=utf-8''%zz",
    "content-disposition: attachment; filename*=utf-8''%00%0a%0d",
    "content-disposition: attachment; filename=\"a\0b\"",
    "content-disposition: attachment; filename=\"../../etc/passwd\"",
    "content-disposition: attachment; filename=" + "x" * 5000,
    "content-disposition: attachment; filename=\"=?utf-8?q?=0d=0aset-cookie:x?=\"",
    "content-type: text/plain\nset-cookie: x=y",
    ": :\r\nx\r\n:",
]  # fmt: skip


@pytest.mark.parametrize("headers", HEADERS)
async def test_headers_of_any_form_are_served_safely(
    servers: Servers, headers: str, server_log: ServerLog
) -> None:
    scripted(servers, multipart(headers, b"abc"))

    for _ in range(2):
        response = await servers.download()

        assert (response.status, response.body) == (200, b"abc")
        assert "set-cookie" not in {name.lower() for name in response.headers}
        for value in response.headers.values():
            assert value.isprintable()
        disposition = response.headers["content-disposition"]
        assert not (disposition.startswith("inline") and "html" in str(response.headers))


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/mixed",
        "multipart/mixed; boundary=",
        "multipart/mixed; boundary=" + "b" * 500,
        'multipart/mixed; boundary="',
        "text/html",
        "multipart/mixed; boundary=\xff",
        "",
    ],
)
async def test_body_without_boundary_is_an_error_of_that_server(
    servers: Servers, content_type: str, server_log: ServerLog
) -> None:
    scripted(servers, (DOWNLOAD, 200, {"content-type": content_type}, b"--b\r\n" * 1000))

    assert (await servers.download()).status == 502


async def test_endless_media_is_cut_off(servers: Servers, server_log: ServerLog) -> None:
    network = servers.near.network
    sent = 0

    async def endless(request: PeerRequest) -> AsyncGenerator[bytes, None]:
        nonlocal sent
        yield multipart("content-type: text/plain", b"")[3].removesuffix(b"\r\n--b--")
        while sent <= request.max_bytes:
            await trio.lowlevel.checkpoint()
            sent += 65536
            yield b"x" * 65536

    async def answer(request: PeerRequest) -> PeerResponse:
        body = b"".join([part async for part in endless(request)])
        return PeerResponse(200, {"content-type": "multipart/mixed; boundary=b"}, body)

    network.answers[FAR] = answer

    assert (await servers.download()).status == 502
    assert sent <= MAX_BYTES + (1 << 18)
    network.answers[FAR] = ScriptedPeer(FAR, network).answer
    assert (await servers.download()).status != 200


async def test_many_parts_are_not_media(servers: Servers, server_log: ServerLog) -> None:
    parts = b"--b\r\n\r\n" * 10_000
    answer: tuple[Any, ...] = (
        DOWNLOAD,
        200,
        {"content-type": "multipart/mixed; boundary=b"},
        parts,
    )
    scripted(servers, answer)

    response = await servers.download()

    assert response.status in (200, 502)
    assert len(response.body) < 1000
