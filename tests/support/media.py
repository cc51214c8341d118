"""The media repository of a composed process, with its files in a folder of the test."""

import io
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio
from PIL import Image

from hs.core.ids import ServerName
from hs.core.requester import Requester
from hs.lib.clock import FixedClock
from hs.nursery.plan import MEDIA_JOBS
from hs.nursery.wiring.federation.remote_servers import RemoteServers
from hs.services.media.content_stores import MediaStorage
from hs.services.media.media_folder import OWNER
from hs.services.media.remote_media import NoRemoteMedia, RemoteMedia
from hs.services.media.repository import MediaRepository, Upload
from hs.services.media.thumbnails import Thumbnails
from hs.settings.sections.media import MediaSettings
from hs.settings.settings import Settings
from hs.storage.database import Database
from hs.storage.media.media import Media
from tests.support.composition import SETTINGS, ComposedProcess, open_process
from tests.support.web import Tokens, WebClient

SERVER = ServerName("test")


@attrs.frozen(eq=False)
class MediaWorld:
    """The media repository of a process, and a client to whom a user's token is the name."""

    process: ComposedProcess
    client: WebClient
    tokens: Tokens
    alice: Requester

    @property
    def clock(self) -> FixedClock:
        """The clock, which a test may advance."""
        return self.process.clock

    @property
    def repository(self) -> MediaRepository:
        """The repository."""
        return self.process.services.media.repository

    @property
    def thumbnails(self) -> Thumbnails:
        """The thumbnails."""
        return self.process.services.media.thumbnails

    @property
    def contents(self) -> MediaStorage:
        """The media folder and the storage providers."""
        return self.repository.contents

    @property
    def root(self) -> Path:
        """The folder of the media."""
        return self.contents.folder.root

    def files(self, area: str) -> list[Path]:
        """Return the files in an area of the folder, without the name of its database."""
        paths = (self.root / area).rglob("*")
        return sorted(path for path in paths if path.is_file() and path.name != OWNER)

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

    async def clean_up(self) -> None:
        """Clean up, as the process does once an hour."""
        await self.process.run_duty(MEDIA_JOBS)


def media_settings(folder: Path, **media: Any) -> Settings:
    """Return settings with a media folder; `media` are fields of MediaSettings."""
    return attrs.evolve(
        SETTINGS,
        server=attrs.evolve(SETTINGS.server, server_name=SERVER),
        media=MediaSettings(media_store_path=folder / "media", **media),
    )


@asynccontextmanager
async def open_media(
    database: Database, folder: Path, *, remote: RemoteMedia | None = None, **media: Any
) -> AsyncIterator[MediaWorld]:
    """Start a process that copies to its providers; `media` are fields of MediaSettings."""
    servers, tokens = RemoteServers(media=remote or NoRemoteMedia()), Tokens()
    async with (
        open_process(database, media_settings(folder, **media), remote=servers) as process,
        trio.open_nursery() as nursery,
    ):
        world = MediaWorld(process, process.client(tokens), tokens, tokens.user("alice"))
        await nursery.start(world.contents.run)  # which first checks the folder
        yield world
        nursery.cancel_scope.cancel()


async def until(holds: Callable[[], object]) -> None:
    """Wait until a condition holds that other threads may change."""
    with trio.fail_after(60):
        while not holds():  # noqa: ASYNC110 threads set no trio event
            await trio.sleep(0.01)


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
