"""The folder of the media: takes streams in, gives files out in parts, never blocks the others.

content/aa/bb/…     files, named after the SHA-256 of what they hold
thumbnails/…        thumbnails, each under the name of its file
temporary/          what is being received; left behind only by a crash
local_content/…     files of a Synapse that had this folder before; read where they lie
"""

import hashlib
import os
import tempfile
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Final, TypeVar

import attrs
import trio

from hs.core.errors import TooLarge, Unavailable
from hs.lib import files

T = TypeVar("T")

CONTENT: Final = "content"
THUMBNAILS: Final = "thumbnails"
TEMPORARY: Final = "temporary"
# What passes through memory of one upload or download.
CHUNK_BYTES: Final = 256 * 1024
# Slow disks hold up media, not everything else that needs a thread.
THREADS: Final = 16


class MediaFolderFault(Unavailable):
    """The folder cannot be written to: the disk is full, or not ours."""


@attrs.frozen
class Received:
    """A stream that arrived whole, in a temporary file."""

    path: Path
    size_bytes: int
    sha256: str


@attrs.define(eq=False)
class MediaFolder:
    """The media on this machine's disk, or on one that all media processes share."""

    root: Path
    _limiter: trio.CapacityLimiter = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._limiter = trio.CapacityLimiter(THREADS)

    def path_of(self, location: str) -> Path:
        """Tell where a file of this name lies."""
        return self.root / location

    async def check(self) -> None:
        """See whether the folder can be written to. Raises: MediaFolderFault."""
        await self._writing(self._check)

    @asynccontextmanager
    async def receive(self, parts: AsyncIterable[bytes], max_bytes: int) -> AsyncIterator[Received]:
        """Write a stream to a temporary file, which is gone afterwards unless it was kept.

        Raises: TooLarge, as soon as there is more than `max_bytes`; MediaFolderFault.
        """
        spool = await self._writing(_Spool.open, self.root / TEMPORARY)
        try:
            waiting: list[bytes] = []
            size = 0
            async for part in parts:
                size += len(part)
                if spool.size + size > max_bytes:
                    raise TooLarge(f"Uploads may not be larger than {max_bytes} bytes")
                waiting.append(part)
                if size >= CHUNK_BYTES:
                    await self._writing(spool.write, waiting)
                    waiting, size = [], 0
            yield await self._writing(spool.finish, waiting)
        finally:
            with trio.CancelScope(shield=True):
                await self._work(spool.discard)

    async def keep(self, received: Received, location: str) -> None:
        """Give a received file its name: from then on it is there whole, whatever happens."""
        await self._writing(files.install, received.path, self.path_of(location))

    async def write(self, content: bytes, location: str) -> None:
        """Store bytes under a name, whole or not at all."""
        await self._writing(self._write_whole, content, location)

    async def size_of(self, location: str) -> int | None:
        """Give the size of a file, None if there is none."""
        return await self._work(_size_of, self.path_of(location))

    async def head_of(self, location: str, length: int) -> bytes:
        """Read the beginning of a file."""
        return await self._work(_head_of, self.path_of(location), length)

    async def written_ms(self, location: str) -> int:
        """Tell when a file was last written to."""
        path = self.path_of(location)
        return await self._work(lambda: int(path.stat().st_mtime * 1000))

    async def read(self, location: str, start: int, length: int) -> AsyncIterator[bytes]:
        """Give a part of a file, piece by piece; the file is open only meanwhile."""
        file = await self._work(_open_at, self.path_of(location), start)
        try:
            while length:
                part = await self._work(file.read, min(length, CHUNK_BYTES))
                if not part:
                    raise OSError(f"{location} is shorter than it was")
                length -= len(part)
                yield part
        finally:
            file.close()

    async def remove(self, location: str) -> None:
        """Delete a file, if it is there."""
        await self._work(files.remove, self.path_of(location), self.root)

    @asynccontextmanager
    async def making(self, location: str) -> AsyncIterator[Path]:
        """Give a path to write to; what is there at the end gets the name, unless one raises."""
        path = await self._work(_temporary_path, self.root / TEMPORARY)
        try:
            yield path
            await self._work(files.install, path, self.path_of(location))
        finally:
            with trio.CancelScope(shield=True):
                await self._work(_unlink, path)

    async def stale(self, area: str, age_s: float) -> list[str]:
        """List files of an area that were not written to for so long."""
        return await self._work(lambda: list(_stale(self.root, area, age_s)))

    async def _work(self, function: Callable[..., T], *args: object) -> T:
        return await trio.to_thread.run_sync(function, *args, limiter=self._limiter)

    async def _writing(self, function: Callable[..., T], *args: object) -> T:
        try:
            return await self._work(function, *args)
        except OSError as error:
            raise MediaFolderFault(f"{self.root} cannot be written to: {error}") from error

    def _check(self) -> None:
        _Spool.open(self.root / TEMPORARY).discard()

    def _write_whole(self, content: bytes, location: str) -> None:
        spool = _Spool.open(self.root / TEMPORARY)
        try:
            files.install(spool.finish([content]).path, self.path_of(location))
        finally:
            spool.discard()


@attrs.define(eq=False)
class _Spool:
    """A temporary file that grows; used from threads, by one at a time."""

    path: Path
    file: IO[bytes]
    size: int = 0
    digest: "hashlib._Hash" = attrs.Factory(hashlib.sha256)

    @classmethod
    def open(cls, folder: Path) -> "_Spool":
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=folder)
        return cls(Path(name), os.fdopen(descriptor, "wb"))

    def write(self, parts: list[bytes]) -> None:
        for part in parts:
            self.file.write(part)
            self.digest.update(part)
            self.size += len(part)

    def finish(self, parts: list[bytes]) -> Received:
        self.write(parts)
        self.file.close()
        return Received(self.path, self.size, self.digest.hexdigest())

    def discard(self) -> None:
        self.file.close()
        self.path.unlink(missing_ok=True)


def _temporary_path(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=folder)
    os.close(descriptor)
    return Path(name)


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)


def _size_of(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None


def _head_of(path: Path, length: int) -> bytes:
    with open(path, "rb") as file:
        return file.read(length)


def _open_at(path: Path, start: int) -> IO[bytes]:
    file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by the reader
    file.seek(start)
    return file


def _stale(root: Path, area: str, age_s: float) -> Iterator[str]:
    before = time.time() - age_s
    for folder, _, names in os.walk(root / area):
        for name in names:
            path = Path(folder, name)
            try:
                if path.stat().st_mtime < before:
                    yield str(path.relative_to(root))
            except FileNotFoundError:
                continue
