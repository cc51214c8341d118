"""Media of other servers, and media of this server for other servers."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import orjson
import pytest
import trio

from hs.core.errors import RemoteFault
from hs.core.ids import ServerName, UserID
from hs.lib.http_client import HttpFault, HttpTimedOut, ResponseTooLarge
from hs.lib.http_client.directed import OpenResponse
from hs.services.federation.users.federated_media import FederatedMedia
from hs.services.federation_client.peer_transport import PeerRequest, PeerResponse
from hs.settings.sections.media import MediaSettings
from tests.support.composition import SETTINGS
from tests.support.devices import Process
from tests.support.federation import FederatedServer, PeerNetwork, ScriptedPeer, open_server
from tests.support.media import picture
from tests.support.sql.databases import fresh_inline
from tests.support.web import WebResponse

NEAR, FAR = ServerName("near.example"), ServerName("far.example")
MAX_BYTES = 200_000
DOWNLOAD = "/_matrix/federation/v1/media/download/abc"
OLD_DOWNLOAD = f"/_matrix/media/v3/download/{FAR}/abc"


@attrs.frozen(eq=False)
class Servers:
    """Two servers with media folders, and the tokens of their users."""

    near: FederatedServer
    far: FederatedServer
    near_token: str
    far_token: str

    async def download(self, media_id: str = "abc", kind: str = "download") -> WebResponse:
        """Download media of the far server through the near one."""
        path = f"/_matrix/client/v1/media/{kind}/{FAR}/{media_id}"
        return await self.near.web().get(path, token=self.near_token)

    async def upload(self, content: bytes, content_type: str, name: str) -> str:
        """Upload media to the far server and return the media ID."""
        response = await self.far.web().post(
            "/_matrix/media/v3/upload",
            query={"filename": name},
            body=content,
            headers={"content-type": content_type},
            token=self.far_token,
        )
        uri: str = response.json["content_uri"]
        return uri.rpartition("/")[2]


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Servers]:
    network = PeerNetwork()
    async with AsyncExitStack() as stack:
        opened: list[FederatedServer] = []
        tokens: list[str] = []
        for name in (NEAR, FAR):
            database = await stack.enter_async_context(fresh_inline())
            media = MediaSettings(media_store_path=tmp_path / name, max_upload_size=MAX_BYTES)
            settings = attrs.evolve(SETTINGS, media=media)
            server = open_server(name, network, database, settings=settings)
            opened.append(await stack.enter_async_context(server))
            devices = Process(opened[-1].world, opened[-1].web())
            tokens.append(await devices.device(UserID(f"@user:{name}"), "PHONE"))
        yield Servers(opened[0], opened[1], tokens[0], tokens[1])


def scripted(
    servers: Servers, *responses: tuple[str, int, dict[str, str], bytes]
) -> list[PeerRequest]:
    """Replace the far server by one with these responses; return the requests it gets."""
    peer = ScriptedPeer(FAR, servers.near.network)

    async def answer(request: PeerRequest) -> PeerResponse:
        for start, status, headers, body in responses:
            if request.uri.startswith(start):
                peer.received.append(request)
                return PeerResponse(status, headers, body)
        return await peer.answer(request)

    servers.near.network.answers[FAR] = answer
    return peer.received


def multipart(headers: str, content: bytes, end: bytes = b"\r\n--b--") -> tuple[Any, ...]:
    body = b"--b\r\ncontent-type: application/json\r\n\r\n{}\r\n--b\r\n"
    response = {"content-type": "multipart/mixed; boundary=b"}
    return DOWNLOAD, 200, response, body + headers.encode() + b"\r\n\r\n" + content + end


async def test_media_of_another_server_is_downloaded_once(servers: Servers) -> None:
    content = bytes(range(256)) * 500
    media_id = await servers.upload(content, "text/plain", "snow☃.txt")

    responses = [await servers.download(media_id) for _ in range(2)]

    for response in responses:
        assert response.body == content
        assert response.headers["content-type"] == "text/plain"
        assert "snow%E2%98%83.txt" in response.headers["content-disposition"]
    uris = [uri for uri in servers.near.network.uris(FAR) if "media" in uri]
    assert uris == [f"/_matrix/federation/v1/media/download/{media_id}?timeout_ms=0"]


async def test_thumbnail_is_served_to_servers_and_clients(servers: Servers) -> None:
    media_id = await servers.upload(picture(400, 300), "image/png", "a.png")
    peer = ScriptedPeer(ServerName("three.example"), servers.near.network)
    path = f"/_matrix/federation/v1/media/thumbnail/{media_id}?width=32&height=32&method=crop"

    async with peer.client.stream(FAR, path, timeout_s=10, max_bytes=1 << 20) as response:
        body = b"".join([part async for part in response.parts])
    shown = await servers.download(f"{media_id}?width=32&height=32&method=crop", "thumbnail")

    assert response.status == 200
    assert int(response.headers["content-length"]) == len(body)
    assert b"\r\ncontent-type: image/" in body
    assert shown.status == 200, shown.body


async def test_quarantined_and_unknown_media_are_not_served(servers: Servers) -> None:
    media_id = await servers.upload(b"bad", "text/plain", "a.txt")
    repository = servers.far.process.services.media.repository
    await repository.quarantine(FAR, media_id, UserID("@user:far.example"))

    assert (await servers.download(media_id)).errcode == "M_NOT_FOUND"
    assert (await servers.download("unknown")).errcode == "M_NOT_FOUND"


@pytest.mark.parametrize("body", [b'{"errcode": "M_UNRECOGNIZED"}', b"<html>", b""])
async def test_older_servers_are_asked_by_the_older_endpoint(servers: Servers, body: bytes) -> None:
    headers = {"content-type": "image/gif", "content-disposition": 'inline; filename="a.gif"'}
    requests = scripted(servers, (DOWNLOAD, 404, {}, body), (OLD_DOWNLOAD, 200, headers, b"GIF"))

    response = await servers.download()

    assert (response.status, response.body) == (200, b"GIF")
    assert response.headers["content-disposition"] == 'inline; filename="a.gif"'
    assert [request.uri for request in requests] == [
        f"{DOWNLOAD}?timeout_ms=0",
        f"{OLD_DOWNLOAD}?allow_remote=false&timeout_ms=0",
    ]


@pytest.mark.parametrize(
    ("response", "status"),
    [
        (multipart("content-type: text/plain", b"abc", end=b""), 502),
        (multipart("content-type: text/plain", b"x" * (MAX_BYTES + 1)), 502),
        (multipart("content-type: text/plain", b"x" * (2 * MAX_BYTES)), 502),
        (multipart("a: b\r\n" * 2000, b"abc"), 502),
        (multipart("location: http://plain.example/", b""), 502),
        ((DOWNLOAD, 200, {"content-type": "text/plain"}, b"abc"), 502),
        ((DOWNLOAD, 404, {}, orjson.dumps({"errcode": "M_NOT_FOUND", "error": ""})), 404),
        ((DOWNLOAD, 504, {}, orjson.dumps({"errcode": "M_NOT_YET_UPLOADED", "error": ""})), 504),
        ((DOWNLOAD, 502, {}, orjson.dumps({"errcode": "M_TOO_LARGE", "error": ""})), 502),
        ((DOWNLOAD, 500, {}, b"x" * 100_000), 502),
    ],
)
async def test_wrong_responses_are_errors_and_store_nothing(
    servers: Servers, response: Any, status: int
) -> None:
    scripted(servers, response)
    path = f"/_matrix/client/v1/media/download/{FAR}/abc?timeout_ms=0"

    answer = await servers.near.web().get(path, token=servers.near_token)

    assert answer.status == status, answer.body
    servers.near.network.down.add(FAR)
    assert (await servers.download()).status != 200


async def test_redirect_is_followed(servers: Servers) -> None:
    scripted(servers, multipart("location: https://cdn.example/file", b""))
    media = FederatedMedia(servers.near.client, ContentNetwork(), MAX_BYTES)

    async with media.download(FAR, "abc", 0) as content:
        body = b"".join([part async for part in content.parts])

    assert (content.content_type, content.upload_name, body) == ("text/css", None, b"elsewhere")


@pytest.mark.parametrize(
    "network", [(404, None), (200, HttpTimedOut("too slow")), (200, ResponseTooLarge("too large"))]
)
async def test_redirect_that_fails_is_a_fault_of_the_server(
    servers: Servers, network: tuple[int, HttpFault | None]
) -> None:
    scripted(servers, multipart("location: https://cdn.example/file", b""))
    media = FederatedMedia(servers.near.client, ContentNetwork(*network), MAX_BYTES)

    async def read() -> None:
        async with media.download(FAR, "abc", 0) as content:
            async for part in content.parts:
                assert part

    with pytest.raises(RemoteFault, match="to which it redirects"):
        await read()


class ContentNetwork:
    """The Downloads of one URL."""

    def __init__(self, status: int = 200, fault: HttpFault | None = None) -> None:
        self._status, self._fault = status, fault

    @asynccontextmanager
    async def stream(
        self, url: str, *, timeout_s: float, max_bytes: int
    ) -> AsyncIterator[OpenResponse]:
        """Open the file, whose second part fails if there is a fault."""
        assert (url, max_bytes) == ("https://cdn.example/file", MAX_BYTES)
        yield OpenResponse(self._status, {"content-type": "text/css"}, self._parts())

    async def _parts(self) -> AsyncIterator[bytes]:
        for part in (b"else", b"where"):
            await trio.lowlevel.checkpoint()
            yield part
            if self._fault is not None:
                raise self._fault
