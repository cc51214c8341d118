"""Thumbnails: found in the store, or drawn in the sandbox, once for everybody who asks at a time.

Spec: client-server API, Thumbnails.
"""

import logging
from typing import Final

import attrs
import msgspec
import trio

from hs.core.errors import LimitExceeded, MatrixError, TooLarge, Unavailable, Unknown
from hs.lib.caching.lru_cache import LruCache
from hs.lib.caching.single_flight import SingleFlight
from hs.lib.sandbox.picture_jobs import (
    DRAW,
    Box,
    Drawn,
    PictureJob,
    PictureReport,
    encode,
    read_report,
)
from hs.lib.sandbox.pool import FaultKind, Sandbox, SandboxFault
from hs.services.media.content_stores import Contents
from hs.services.media.media_folder import THUMBNAILS
from hs.services.media.thumbnail_sizes import Wanted, chosen, made_in_advance
from hs.settings.sections.media import MediaSettings
from hs.storage.database import Database
from hs.storage.media import media_files
from hs.storage.media.media import Media
from hs.storage.media.media_files import Picture, Size, Thumbnail

LOOK_S: Final = 20.0
DRAW_S: Final = 60.0
MAX_DRAWN_BYTES: Final = 64 << 20
MAX_WAITING: Final = 200
# Of one file; more are drawn, but not kept.
MAX_KEPT: Final = 40
FAULTS_REMEMBERED: Final = 1000
FAULT_S: Final = 600.0
BUSY_MS: Final = 2000
_NO_PICTURE: Final = "Cannot generate thumbnails for the requested content"
_ENDINGS: Final = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp"}

log = logging.getLogger(__name__)


@attrs.frozen
class Shown:
    """A file of the folder that answers a request; `content` where it is kept nowhere."""

    content_type: str
    size_bytes: int
    location: str
    content: bytes | None = None


@attrs.define(eq=False)
class Thumbnails:
    """Gives thumbnails; `run` draws those of new pictures in advance."""

    _contents: Contents
    _database: Database
    _sandbox: Sandbox
    _settings: MediaSettings
    _flights: SingleFlight[tuple[str, Box | None]] = attrs.field(factory=SingleFlight, init=False)
    _faults: LruCache[str, float] = attrs.field(init=False)
    _waiting: list[str] = attrs.field(factory=list, init=False)
    _wake: trio.Event = attrs.field(factory=trio.Event, init=False)

    def __attrs_post_init__(self) -> None:
        self._faults = LruCache("thumbnail_faults", max_entries=FAULTS_REMEMBERED)

    async def find(self, found: Media, wanted: Wanted) -> Shown:
        """Give a thumbnail of media, or the picture itself where that is to be given.

        Raises: Unknown (no picture), TooLarge, NotFound, LimitExceeded.
        """
        location = found.location
        assert location is not None
        picture = await self.picture_of(location)
        box = chosen(
            picture, wanted, self._settings.thumbnail_sizes, self._settings.dynamic_thumbnails
        )
        if box is None:
            size = await self._contents.ensure(location)
            return Shown(picture.content_type, size, location)
        kept = await self._kept(location, box)
        if kept is not None:
            return kept
        return await self._flights.run((location, box), self._make, location, box)

    async def picture_of(self, location: str) -> Picture:
        """Tell what a file shows. Raises: Unknown (it is no picture), TooLarge, NotFound."""
        picture = await self._database.read(media_files.picture, location)
        if picture is None:
            picture = await self._flights.run((location, None), self._look, location)
        if not picture.content_type:
            raise Unknown(_NO_PICTURE)
        if picture.width * picture.height > self._settings.max_image_pixels:
            raise TooLarge("The picture is too large for a thumbnail")
        return picture

    def draw_soon(self, stored: Media) -> None:
        """Have the listed sizes drawn in the background; when there is much to do, later."""
        is_picture = stored.content_type.startswith("image/")
        if not is_picture or self._settings.dynamic_thumbnails or stored.location is None:
            return
        if len(self._waiting) < MAX_WAITING:
            self._waiting.append(stored.location)
            self._wake.set()

    async def run(self) -> None:
        """Draw what is to be drawn in advance, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._waiting:
                await self.draw_listed(self._waiting.pop(0))

    async def draw_listed(self, location: str) -> None:
        """Draw a picture in every listed size that is smaller than it is."""
        if await self._database.read(media_files.picture, location) is not None:
            return
        try:
            picture = await self.picture_of(location)
            boxes = made_in_advance(picture, self._settings.thumbnail_sizes)
            if boxes:
                await self._work(location, boxes)
        except (MatrixError, Unavailable) as refusal:
            log.info("no thumbnails of %s: %s", location, refusal)

    async def _kept(self, location: str, box: Box) -> Shown | None:
        known = await self._database.read(media_files.thumbnail, location, _size(box))
        if known is None or await self._contents.folder.size_of(known.location) is None:
            return None
        return Shown(known.content_type, known.size_bytes, known.location)

    async def _look(self, location: str) -> Picture:
        report = await self._work(location, ())
        return _picture(report)

    async def _make(self, location: str, box: Box) -> Shown:
        kept = await self._kept(location, box)
        if kept is not None:
            return kept
        report = await self._work(location, (box,))
        if report.is_too_large or not report.drawn:
            raise TooLarge("The picture is too large for a thumbnail")
        drawn = report.drawn[0]
        kept = await self._kept(location, box)
        if kept is not None:
            return kept
        return Shown(
            drawn.content_type, len(drawn.content), _location(location, drawn), drawn.content
        )

    async def _work(self, location: str, boxes: tuple[Box, ...]) -> PictureReport:
        """Look at a file, draw it, and keep both. Raises: Unknown, LimitExceeded, NotFound."""
        fault_s = self._faults.get(location)
        if fault_s is not None and trio.current_time() - fault_s < FAULT_S:
            raise Unknown(_NO_PICTURE)
        await self._contents.ensure(location)
        path = str(self._contents.folder.path_of(location))
        job = encode(PictureJob(path, self._settings.max_image_pixels, boxes))
        limit_s = DRAW_S if boxes else LOOK_S
        try:
            answer = await self._sandbox.run(
                DRAW, job, timeout_s=limit_s, max_bytes=MAX_DRAWN_BYTES
            )
            report = read_report(answer)
        except SandboxFault as fault:
            await self._note_fault(location, fault)
            raise Unknown(_NO_PICTURE) from None
        except msgspec.DecodeError:
            self._faults.put(location, trio.current_time())
            raise Unknown(_NO_PICTURE) from None
        await self._database.write(media_files.set_picture, location, _picture(report))
        count = await self._database.read(media_files.thumbnail_count, location)
        for drawn in report.drawn[: max(0, MAX_KEPT - count)]:
            await self._keep(location, drawn)
        return report

    async def _note_fault(self, location: str, fault: SandboxFault) -> None:
        if fault.kind is FaultKind.BUSY:
            raise LimitExceeded("The server is busy", retry_after_ms=BUSY_MS)
        log.info("no thumbnails of %s: %s", location, fault)
        if fault.kind is FaultKind.FAILED:
            nothing = Picture("", 0, 0, is_animated=False)
            await self._database.write(media_files.set_picture, location, nothing)
        else:
            # Another time it may work, but not again and again.
            self._faults.put(location, trio.current_time())

    async def _keep(self, location: str, drawn: Drawn) -> None:
        made = Thumbnail(drawn.content_type, len(drawn.content), _location(location, drawn))
        await self._contents.folder.write(drawn.content, made.location)
        await self._database.write(media_files.add_thumbnail, location, _size(drawn.box), made)


def _picture(report: PictureReport) -> Picture:
    return Picture(report.content_type, report.width, report.height, report.is_animated)


def _size(box: Box) -> Size:
    return Size(box.width, box.height, box.method, box.is_animated)


def _location(location: str, drawn: Drawn) -> str:
    """Name a thumbnail after its file and what was asked for."""
    box = drawn.box
    moving = "-animated" if box.is_animated else ""
    ending = _ENDINGS.get(drawn.content_type, "bin")
    return f"{THUMBNAILS}/{location}/{box.width}x{box.height}-{box.method}{moving}.{ending}"
