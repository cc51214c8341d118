"""Media of other servers: fetched once, kept, and shown to those who may see them."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from hs.core.errors import MatrixError, NotFound
from hs.core.ids import ServerName
from hs.services.media.remote_media import RemoteContent
from hs.settings.sections.media import Retention
from hs.storage.database import Database
from tests.support.media import open_media, parts_of

ELSEWHERE = ServerName("elsewhere.example")
HOUR_MS = 3600 * 1000


@attrs.define
class Elsewhere:
    """Another server, with one file under every media ID."""

    content: bytes = b"from elsewhere"
    asked: int = 0

    @asynccontextmanager
    async def download(
        self, origin: ServerName, media_id: str, timeout_ms: int
    ) -> AsyncIterator[RemoteContent]:
        self.asked += 1
        await trio.lowlevel.checkpoint()
        async with aclosing(parts_of(self.content)) as parts:
            yield RemoteContent("image/png", "snow☃\n.png", parts)


async def test_remote_media_are_fetched_once_for_all(database: Database, tmp_path: Path) -> None:
    remote, names = Elsewhere(), []
    async with open_media(database, tmp_path, remote=remote) as world:

        async def ask() -> None:
            found = await world.repository.find(ELSEWHERE, "abc", 0, has_token=True)
            names.append((found.content_type, found.upload_name, await world.content_of(found)))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask)
        await ask()

    assert set(names) == {("image/png", "snow☃.png", b"from elsewhere")}
    assert remote.asked == 1


async def test_remote_media_are_not_shown_without_a_token(
    database: Database, tmp_path: Path
) -> None:
    async with open_media(database, tmp_path, remote=Elsewhere()) as world:
        await world.repository.find(ELSEWHERE, "abc", 0, has_token=True)
        answer = await world.client.get(f"/_matrix/media/v3/download/{ELSEWHERE}/abc")

    assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")


async def test_who_wants_no_remote_media_gets_none(database: Database, tmp_path: Path) -> None:
    remote = Elsewhere()
    async with open_media(database, tmp_path, remote=remote) as world:
        answer = await world.client.get(
            f"/_matrix/client/v1/media/download/{ELSEWHERE}/abc?allow_remote=false", token="alice"
        )

    assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")
    assert remote.asked == 0


async def test_some_servers_are_never_asked(database: Database, tmp_path: Path) -> None:
    remote = Elsewhere()
    async with open_media(
        database, tmp_path, remote=remote, prevent_media_downloads_from=(ELSEWHERE,)
    ) as world:
        with pytest.raises(NotFound):
            await world.repository.find(ELSEWHERE, "abc", 0, has_token=True)

    assert remote.asked == 0


async def test_remote_media_that_are_too_large_are_not_kept(
    database: Database, tmp_path: Path
) -> None:
    async with open_media(
        database, tmp_path, remote=Elsewhere(b"x" * 1001), max_upload_size=1000
    ) as world:
        with pytest.raises(MatrixError, match=r"M_TOO_LARGE \(502\)"):
            await world.repository.find(ELSEWHERE, "abc", 0, has_token=True)

        assert world.files("") == []


async def test_retention_of_remote_media_is_their_own(database: Database, tmp_path: Path) -> None:
    remote, retention = Elsewhere(), Retention(remote_media_lifetime=HOUR_MS)
    async with open_media(database, tmp_path, remote=remote, media_retention=retention) as world:
        own = await world.store(b"our own")
        await world.repository.find(ELSEWHERE, "abc", 0, has_token=True)
        world.clock.advance(3 * HOUR_MS)
        await world.upkeep.tidy()

        assert await world.content_of(own) == b"our own"
        assert len(world.files("content")) == 1
        await world.repository.find(ELSEWHERE, "abc", 0, has_token=True)
        assert remote.asked == 2
