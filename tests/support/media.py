"""A media repository on a test database and folder."""

import io
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio
from PIL import Image

from hs.apis.media.downloads import MediaDownloadApi
from hs.apis.media.uploads import MediaUploadApi
from hs.apis.web.drain import Drain
from hs.core.ids import ServerName
from hs.core.requester import Requester
from hs.core.streams import CACHES
from hs.lib.clock import FixedClock
from hs.lib.sandbox.pool import Sandbox
from hs.repl.feed import Feed
from hs.repl.inproc import local_transport
from hs.repl.memory_writer import MemoryWriter, epoch_at
from hs.services.media.content_stores import MediaStorage, ProviderStore
from hs.services.media.last_access import MediaAccessTimes
from hs.services.media.media_cleanup import MediaCleanup
from hs.services.media.media_folder import MediaFolder
from hs.services.media.remote_media import NoRemoteMedia, RemoteMedia
from hs.services.media.repository import MediaRepository, Upload
from hs.services.media.thumbnails import Thumbnails
from hs.services.media.upload_waiters import UploadWaiters
from hs.settings.sections.media import MediaSettings
from hs.storage.database import Database
from hs.storage.media.media import Media
from tests.support.web import Tokens, WebClient, client_for

SERVER = ServerName("test")
ALL_MEDIA = ("client", "media")


@attrs.frozen
class MediaWorld:
    """The components of a media repository, and a client of its endpoints."""

    database: Database
    clock: FixedClock
    settings: MediaSettings
    contents: MediaStorage
    repository: MediaRepository
    thumbnails: Thumbnails
    uses: MediaAccessTimes
    upkeep: MediaCleanup
    tokens: Tokens
    client: WebClient
    alice: Requester
    drain: Drain

    @property
    def root(self) -> Path:
        """The folder of the media."""
        return self.contents.folder.root

    def files(self, area: str) -> list[Path]:
        """Return the files in an area of the folder."""
        return sorted(path for path in (self.root / area).rglob("*") if path.is_file())

    async def store(self, content: bytes, content_type: str = "", name: str = "") -> Media:
        """Upload content as Alice."""
        return await self.repository.upload(
            self.alice, Upload(parts_of(content), content_type or None, name or None)
        )

    async def content_of(self, stored: Media) -> bytes:
        """Return the content of stored media."""
        assert stored.location is not None
        size = await self.contents.ensure(stored.location)
        parts = self.contents.folder.read(stored.location, 0, size)
        return b"".join([part async for part in parts])


@asynccontextmanager
async def open_media(
    database: Database,
    folder: Path,
    *,
    places: Sequence[ProviderStore] = (),
    remote: RemoteMedia | None = None,
    **settings: Any,
) -> AsyncIterator[MediaWorld]:
    """Start a media repository; `settings` are fields of MediaSettings."""
    clock, feed = FixedClock(), Feed()
    media_settings = MediaSettings(media_store_path=folder / "media", **settings)
    caches = MemoryWriter(CACHES, "main", local_transport(feed), epoch_at(clock.now_ms()))
    caches.attach()
    contents = MediaStorage(MediaFolder(media_settings.media_store_path), places, database)
    uses = MediaAccessTimes(database, clock)
    repository = MediaRepository(
        contents=contents,
        database=database,
        clock=clock,
        server_name=SERVER,
        settings=media_settings,
        arrivals=UploadWaiters(feed, caches),
        uses=uses,
        remote=remote or NoRemoteMedia(),
    )
    sandbox = Sandbox(children=1)
    thumbnails = Thumbnails(contents, database, sandbox, media_settings)
    tokens, drain = Tokens(), Drain()
    client = client_for(
        MediaUploadApi(repository, thumbnails, SERVER),
        MediaDownloadApi(repository, thumbnails, SERVER, media_settings.max_upload_size, drain),
        tokens=tokens,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(thumbnails.run)
        await nursery.start(contents.run)
        upkeep = MediaCleanup(
            database=database,
            clock=clock,
            contents=contents,
            repository=repository,
            server_name=SERVER,
            retention=media_settings.media_retention,
        )
        yield MediaWorld(
            database=database,
            clock=clock,
            settings=media_settings,
            contents=contents,
            repository=repository,
            thumbnails=thumbnails,
            uses=uses,
            upkeep=upkeep,
            tokens=tokens,
            client=client,
            alice=tokens.user("alice"),
            drain=drain,
        )
        nursery.cancel_scope.cancel()
    await sandbox.aclose()


async def parts_of(content: bytes, size: int = 10_000) -> AsyncGenerator[bytes, None]:
    """Yield content in parts, as it arrives from the network."""
    for start in range(0, len(content), size):
        yield content[start : start + size]


def picture(width: int = 640, height: int = 480, kind: str = "PNG", colour: str = "red") -> bytes:
    """Return an image file."""
    out = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(out, kind)
    return out.getvalue()


def opened(content: bytes) -> Image.Image:
    """Open an image."""
    return Image.open(io.BytesIO(content))
