"""Thumbnails: read from the media folder, or generated in the sandbox.

Rules:

- Pictures are untrusted input. Only sandbox processes decode them, with limits on time and memory.
- What a file shows (type, size) is determined once and stored. A file that cannot be decoded is
  stored as not being a picture, and never tried again. Timeouts and crashes of the sandbox are
  remembered in memory for FAULT_S, because another attempt may succeed.
- Concurrent requests for one thumbnail share its generation. A request that finds no thumbnail
  stored checks again once it is its turn, because a previous one may just have finished.
- At most MAX_STORED thumbnails per file are stored; further ones are generated for each request.
  This bounds disk usage if a client requests arbitrary sizes.
- A stored row whose file is missing counts as not stored.

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
    DrawnThumbnail,
    PictureJob,
    PictureReport,
    ThumbnailBox,
    encode,
    read_report,
)
from hs.lib.sandbox.pool import Sandbox, SandboxFault, SandboxFaultKind
from hs.services.media.content_stores import MediaStorage
from hs.services.media.media_folder import THUMBNAILS
from hs.services.media.thumbnail_sizes import (
    RequestedThumbnail,
    choose_thumbnail,
    thumbnails_in_advance,
)
from hs.settings.sections.media import MediaSettings
from hs.storage.database import Database
from hs.storage.media import media_files
from hs.storage.media.media import Media
from hs.storage.media.media_files import ImageProperties, ThumbnailRecord, ThumbnailSize

INSPECT_S: Final = 20.0
GENERATE_S: Final = 60.0
MAX_OUTPUT_BYTES: Final = 64 << 20
MAX_WAITING: Final = 200
# Thumbnails of one file; further ones are generated but not stored.
MAX_STORED: Final = 40
FAULTS_REMEMBERED: Final = 1000
FAULT_S: Final = 600.0
BUSY_MS: Final = 2000
_NO_PICTURE: Final = "Cannot generate thumbnails for the requested content"
_ENDINGS: Final = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp"}

log = logging.getLogger(__name__)


@attrs.frozen
class ThumbnailFile:
    """A file to serve; `content` is set if it is not stored in the folder."""

    content_type: str
    size_bytes: int
    location: str
    content: bytes | None = None


@attrs.define(eq=False)
class Thumbnails:
    """The thumbnails of media; `run` generates those of new pictures in advance."""

    _contents: MediaStorage
    _database: Database
    _sandbox: Sandbox
    _settings: MediaSettings
    _flights: SingleFlight[tuple[str, ThumbnailBox | None]] = attrs.field(
        factory=SingleFlight, init=False
    )
    _faults: LruCache[str, float] = attrs.field(init=False)
    _waiting: list[str] = attrs.field(factory=list, init=False)
    _wake: trio.Event = attrs.field(factory=trio.Event, init=False)

    def __attrs_post_init__(self) -> None:
        self._faults = LruCache("thumbnail_faults", max_entries=FAULTS_REMEMBERED)

    async def find(self, media: Media, request: RequestedThumbnail) -> ThumbnailFile:
        """Return the thumbnail for a request, or the picture itself.

        Raises: Unknown if the media is not a picture, TooLarge, NotFound, LimitExceeded.
        """
        location = media.location
        assert location is not None
        picture = await self.picture_of(location)
        box = choose_thumbnail(
            picture, request, self._settings.thumbnail_sizes, self._settings.dynamic_thumbnails
        )
        if box is None:
            size = await self._contents.ensure(location)
            return ThumbnailFile(picture.content_type, size, location)
        stored = await self._find_stored(location, box)
        if stored is not None:
            return stored
        return await self._flights.run((location, box), self._generate, location, box)

    async def picture_of(self, location: str) -> ImageProperties:
        """Return the type and size of a picture.

        Raises: Unknown if the file is not a picture, TooLarge, NotFound.
        """
        picture = await self._database.read(media_files.image_properties, location)
        if picture is None:
            picture = await self._flights.run((location, None), self._inspect, location)
        if not picture.content_type:
            raise Unknown(_NO_PICTURE)
        if picture.width * picture.height > self._settings.max_image_pixels:
            raise TooLarge("The picture is too large to generate a thumbnail")
        return picture

    def schedule_generation(self, stored: Media) -> None:
        """Schedule the generation of the configured sizes; skipped if the queue is full."""
        is_picture = stored.content_type.startswith("image/")
        if not is_picture or self._settings.dynamic_thumbnails or stored.location is None:
            return
        if len(self._waiting) < MAX_WAITING:
            self._waiting.append(stored.location)
            self._wake.set()

    async def run(self) -> None:
        """Generate scheduled thumbnails until cancelled."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._waiting:
                await self.generate_in_advance(self._waiting.pop(0))

    async def generate_in_advance(self, location: str) -> None:
        """Generate the thumbnails of a picture in all configured sizes that are smaller."""
        if await self._database.read(media_files.image_properties, location) is not None:
            return
        try:
            picture = await self.picture_of(location)
            boxes = thumbnails_in_advance(picture, self._settings.thumbnail_sizes)
            if boxes:
                await self._run_job(location, boxes)
        except (MatrixError, Unavailable) as error:
            log.info("cannot generate thumbnails of %s: %s", location, error)

    async def _find_stored(self, location: str, box: ThumbnailBox) -> ThumbnailFile | None:
        stored = await self._database.read(media_files.find_thumbnail, location, _size(box))
        if stored is None or await self._contents.folder.size_of(stored.location) is None:
            return None
        return ThumbnailFile(stored.content_type, stored.size_bytes, stored.location)

    async def _inspect(self, location: str) -> ImageProperties:
        report = await self._run_job(location, ())
        return _picture_from(report)

    async def _generate(self, location: str, box: ThumbnailBox) -> ThumbnailFile:
        stored = await self._find_stored(location, box)
        if stored is not None:
            return stored
        report = await self._run_job(location, (box,))
        if report.is_too_large or not report.drawn:
            raise TooLarge("The picture is too large to generate a thumbnail")
        drawn = report.drawn[0]
        stored = await self._find_stored(location, box)
        if stored is not None:
            return stored
        return ThumbnailFile(
            drawn.content_type, len(drawn.content), _location(location, drawn), drawn.content
        )

    async def _run_job(self, location: str, boxes: tuple[ThumbnailBox, ...]) -> PictureReport:
        """Inspect a file and generate thumbnails in the sandbox; store the results.

        Raises: Unknown, LimitExceeded, NotFound.
        """
        fault_s = self._faults.get(location)
        if fault_s is not None and trio.current_time() - fault_s < FAULT_S:
            raise Unknown(_NO_PICTURE)
        await self._contents.ensure(location)
        path = str(self._contents.folder.path_of(location))
        job = encode(PictureJob(path, self._settings.max_image_pixels, boxes))
        limit_s = GENERATE_S if boxes else INSPECT_S
        try:
            answer = await self._sandbox.run(
                DRAW, job, timeout_s=limit_s, max_bytes=MAX_OUTPUT_BYTES
            )
            report = read_report(answer)
        except SandboxFault as fault:
            await self._record_fault(location, fault)
            raise Unknown(_NO_PICTURE) from None
        except msgspec.DecodeError:
            self._faults.put(location, trio.current_time())
            raise Unknown(_NO_PICTURE) from None
        await self._database.write(
            media_files.set_image_properties, location, _picture_from(report)
        )
        count = await self._database.read(media_files.thumbnail_count, location)
        for drawn in report.drawn[: max(0, MAX_STORED - count)]:
            await self._store(location, drawn)
        return report

    async def _record_fault(self, location: str, fault: SandboxFault) -> None:
        if fault.kind is SandboxFaultKind.BUSY:
            raise LimitExceeded("The server is busy", retry_after_ms=BUSY_MS)
        log.info("cannot generate thumbnails of %s: %s", location, fault)
        if fault.kind is SandboxFaultKind.FAILED:
            not_a_picture = ImageProperties("", 0, 0, is_animated=False)
            await self._database.write(media_files.set_image_properties, location, not_a_picture)
        else:
            # Another attempt may succeed, but must not be made for every request.
            self._faults.put(location, trio.current_time())

    async def _store(self, location: str, drawn: DrawnThumbnail) -> None:
        thumbnail = ThumbnailRecord(
            drawn.content_type, len(drawn.content), _location(location, drawn)
        )
        await self._contents.folder.write(drawn.content, thumbnail.location)
        await self._database.write(media_files.add_thumbnail, location, _size(drawn.box), thumbnail)


def _picture_from(report: PictureReport) -> ImageProperties:
    return ImageProperties(report.content_type, report.width, report.height, report.is_animated)


def _size(box: ThumbnailBox) -> ThumbnailSize:
    return ThumbnailSize(box.width, box.height, box.method, box.is_animated)


def _location(location: str, drawn: DrawnThumbnail) -> str:
    """Return the location of a thumbnail, named after its file and the requested size."""
    box = drawn.box
    suffix = "-animated" if box.is_animated else ""
    ending = _ENDINGS.get(drawn.content_type, "bin")
    return f"{THUMBNAILS}/{location}/{box.width}x{box.height}-{box.method}{suffix}.{ending}"
