"""Media of other servers: downloaded once, stored, and subject to authentication."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from hs.core.errors import MatrixError, NotFound
from hs.core.ids import ServerName
from hs.services.media.remote_media import RemoteContent
from hs.settings.sections.media import MediaRetentionSettings
from hs.storage.database import Database
from tests.support.media import open_media, parts_of

REMOTE = ServerName("elsewhere.example")
HOUR_MS = 3600 * 1000


@attrs.define
class RemoteServer:
    """Another server, with the same file for every media ID."""

    content: bytes = b"from elsewhere"
    downloads: int = 0

    @asynccontextmanager
    async def download(
        self, origin: ServerName, media_id: str, timeout_ms: int
    ) -> AsyncIterator[RemoteContent]:
        self.downloads += 1
        await trio.lowlevel.checkpoint()
        async with aclosing(parts_of(self.content)) as parts:
            yield RemoteContent("image/png", "snow☃\n.png", parts)


async def test_remote_media_is_downloaded_once(database: Database, tmp_path: Path) -> None:
    remote, results = RemoteServer(), []
    async with open_media(database, tmp_path, remote=remote) as world:

        async def download() -> None:
            media = await world.repository.find(REMOTE, "abc", 0, has_token=True)
            results.append((media.content_type, media.upload_name, await world.content_of(media)))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(download)
        await download()

    assert set(results) == {("image/png", "snow☃.png", b"from elsewhere")}
    assert remote.downloads == 1


async def test_remote_media_requires_a_token(database: Database, tmp_path: Path) -> None:
    async with open_media(database, tmp_path, remote=RemoteServer()) as world:
        await world.repository.find(REMOTE, "abc", 0, has_token=True)
        answer = await world.client.get(f"/_matrix/media/v3/download/{REMOTE}/abc")

    assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")


async def test_remote_media_is_not_downloaded_with_allow_remote_false(
    database: Database, tmp_path: Path
) -> None:
    remote = RemoteServer()
    async with open_media(database, tmp_path, remote=remote) as world:
        answer = await world.client.get(
            f"/_matrix/client/v1/media/download/{REMOTE}/abc?allow_remote=false", token="alice"
        )

    assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")
    assert remote.downloads == 0


async def test_media_of_configured_servers_is_never_downloaded(
    database: Database, tmp_path: Path
) -> None:
    remote = RemoteServer()
    async with open_media(
        database, tmp_path, remote=remote, prevent_media_downloads_from=(REMOTE,)
    ) as world:
        with pytest.raises(NotFound):
            await world.repository.find(REMOTE, "abc", 0, has_token=True)

    assert remote.downloads == 0


async def test_remote_media_above_the_limit_is_not_stored(
    database: Database, tmp_path: Path
) -> None:
    async with open_media(
        database, tmp_path, remote=RemoteServer(b"x" * 1001), max_upload_size=1000
    ) as world:
        with pytest.raises(MatrixError, match=r"M_TOO_LARGE \(502\)"):
            await world.repository.find(REMOTE, "abc", 0, has_token=True)

        assert world.files("") == []


async def test_remote_media_has_its_own_retention(database: Database, tmp_path: Path) -> None:
    remote, retention = RemoteServer(), MediaRetentionSettings(remote_media_lifetime=HOUR_MS)
    async with open_media(database, tmp_path, remote=remote, media_retention=retention) as world:
        own = await world.store(b"our own")
        await world.repository.find(REMOTE, "abc", 0, has_token=True)
        world.clock.advance(3 * HOUR_MS)
        await world.clean_up()

        assert await world.content_of(own) == b"our own"
        assert len(world.files("content")) == 1
        await world.repository.find(REMOTE, "abc", 0, has_token=True)
        assert remote.downloads == 2


async def test_client_has_only_so_much_downloaded(database: Database, tmp_path: Path) -> None:
    remote = RemoteServer(content=bytes(900))
    limits = {"remote_media_download_per_second": 10, "remote_media_download_burst_count": 1000}
    async with open_media(database, tmp_path, remote=remote, **limits) as world:

        async def download(media_id: str, address: str = "192.0.2.1") -> int:
            client = attrs.evolve(world.client, client_ip=address)
            path = f"/_matrix/client/v1/media/download/{REMOTE}/{media_id}"
            return (await client.get(path, token="alice")).status

        statuses = [await download(media_id) for media_id in ("a", "b", "c")]
        again, elsewhere = await download("a"), await download("c", "192.0.2.2")

    assert statuses == [200, 200, 429]
    assert (again, elsewhere) == (200, 200)
