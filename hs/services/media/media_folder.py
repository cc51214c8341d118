"""The media folder: files that are written atomically and read in chunks, in threads.

content/aa/bb/…     files, named after the SHA-256 of their content
thumbnails/…        thumbnails, in a folder named after the original file
temporary/          files being written; only a crash or a disk that hangs leaves any behind
local_content/…     files of a Synapse that used this folder before; read in place
.hs-database        the name of the database to which the folder belongs

Rules:

- All disk access happens in threads, limited by THREADS, so that slow disks delay only media. Few
  of them read the same file, so that a single file that hangs delays no others. If the disk does
  not answer within ANSWER_S, the request fails, and what it was using is left to the thread that
  still waits for the disk.
- Content is written to a temporary file in the same folder and renamed when it is complete. A file
  under `content` or `thumbnails` is therefore always complete.
- At most CHUNK_BYTES per upload or download are held in memory (plus one part as received).
- Temporary files are removed even if the request is cancelled.
- Files and folders that are created here can be used by their owner only.
"""

import hashlib
import itertools
import os
import tempfile
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, Final, TypeVar

import attrs
import trio

from hs.core.errors import TooLarge, Unavailable
from hs.lib import files
from hs.lib.disk_threads import DiskHangs, DiskThreads

T = TypeVar("T")

CONTENT: Final = "content"
THUMBNAILS: Final = "thumbnails"
TEMPORARY: Final = "temporary"
OWNER: Final = ".hs-database"
# Memory used by one upload or download.
CHUNK_BYTES: Final = 256 * 1024
# A separate limit, so that slow disks do not occupy the threads of other services.
THREADS: Final = 16
ANSWER_S: Final = 30.0
FLUSH_ANSWER_S: Final = 120.0
WALK_ANSWER_S: Final = 3600.0


class MediaFolderFault(Unavailable):
    """The folder cannot be written to, for example because the disk is full."""


class MediaFolderHangs(MediaFolderFault):
    """The disk of the folder does not answer."""


@attrs.frozen
class SpooledFile:
    """A completely received stream, in a temporary file."""

    path: Path
    size_bytes: int
    sha256: str


@attrs.define(eq=False)
class MediaFolder:
    """The media folder, on a local disk or on one shared by all media processes."""

    root: Path
    threads: DiskThreads = attrs.field(factory=lambda: DiskThreads(THREADS, ANSWER_S))

    def path_of(self, location: str) -> Path:
        """Return the path of a file."""
        return self.root / location

    async def check(self) -> None:
        """Check that the folder can be written to. Raises: MediaFolderFault."""
        await self._run_write(self._check)

    @asynccontextmanager
    async def receive(
        self, parts: AsyncIterable[bytes], max_bytes: int
    ) -> AsyncIterator[SpooledFile]:
        """Write a stream to a temporary file, which is removed afterwards unless it was installed.

        Raises: TooLarge as soon as `max_bytes` are exceeded; MediaFolderFault.
        """
        spool = await self._run_write(_Spool.open, self.root / TEMPORARY)
        try:
            chunk: list[bytes] = []
            size = 0
            async for part in parts:
                size += len(part)
                if spool.size + size > max_bytes:
                    raise TooLarge(f"The upload must not be larger than {max_bytes} bytes")
                chunk.append(part)
                if size >= CHUNK_BYTES:
                    await self._run_write(spool.write, chunk)
                    chunk, size = [], 0
            yield await self._run_write(spool.finish, chunk)
        finally:
            await self._clean_up(spool.discard)

    async def install(self, received: SpooledFile, location: str) -> None:
        """Rename a received file to its final location, durably."""
        await self._run_write_for(
            FLUSH_ANSWER_S, files.install, received.path, self.path_of(location)
        )

    async def write(self, content: bytes, location: str) -> None:
        """Write a file atomically."""
        await self._run_write_for(FLUSH_ANSWER_S, self._write_whole, content, location)

    async def size_of(self, location: str) -> int | None:
        """Return the size of a file; None if it does not exist."""
        return await self._run_on(location, _size_of, self.path_of(location))

    async def readable_size_of(self, location: str) -> int | None:
        """Return the same as `size_of`, once the disk has returned the beginning of the file.

        So a disk that hangs is noticed before the response begins.
        """
        return await self._run_on(location, _readable_size_of, self.path_of(location))

    async def head_of(self, location: str, length: int) -> bytes:
        """Read the beginning of a file."""
        return await self._run_on(location, _head_of, self.path_of(location), length)

    async def written_ms(self, location: str) -> int:
        """Return the modification time of a file."""
        path = self.path_of(location)
        return await self._run_on(location, lambda: int(path.stat().st_mtime * 1000))

    async def read(self, location: str, start: int, length: int) -> AsyncIterator[bytes]:
        """Yield a range of a file in chunks; the file is open until the iterator is closed."""
        file = await self._run_on(location, _open_at, self.path_of(location), start)
        is_left_to_thread = False
        try:
            while length:
                try:
                    part = await self._run_on(location, file.read, min(length, CHUNK_BYTES))
                except MediaFolderHangs:
                    is_left_to_thread = True
                    raise
                if not part:
                    raise OSError(f"{location} has been truncated")
                length -= len(part)
                yield part
        finally:
            if not is_left_to_thread:
                file.close()

    async def remove(self, location: str) -> None:
        """Delete a file, if it exists."""
        await self._run_in_thread(files.remove, self.path_of(location), self.root)

    @asynccontextmanager
    async def creating(self, location: str) -> AsyncIterator[Path]:
        """Yield a temporary path whose file is renamed to `location`, unless an error is raised."""
        path = await self._run_in_thread(_temporary_path, self.root / TEMPORARY)
        try:
            yield path
            # What wrote the content may have replaced the file.
            await self._run_in_thread(os.chmod, path, files.OWNER_FILE)
            await self._run_for(FLUSH_ANSWER_S, files.install, path, self.path_of(location))
        finally:
            await self._clean_up(_unlink, path)

    async def older_than(self, area: str, age_s: float) -> list[str]:
        """Return the files of an area (`content`, …) that have not been written to for a time."""
        return await self._run_for(WALK_ANSWER_S, lambda: list(_older_than(self.root, area, age_s)))

    async def some_files(self, area: str, limit: int) -> list[str]:
        """Return up to `limit` files of an area."""
        return await self._run_in_thread(
            lambda: list(itertools.islice(_older_than(self.root, area, 0.0), limit))
        )

    async def owner(self) -> str:
        """Return the name of the database to which the folder belongs; empty if it has none."""
        return await self._run_in_thread(_read_if_any, self.path_of(OWNER))

    async def _clean_up(self, function: Callable[..., object], *args: object) -> None:
        """Run a function although the request is cancelled; not on a disk that hangs."""
        if self.threads.left_behind:
            return
        with trio.CancelScope(shield=True):
            await self._run_in_thread(function, *args)

    async def _run_in_thread(self, function: Callable[..., T], *args: object) -> T:
        return await self._run_for(ANSWER_S, function, *args)

    async def _run_on(self, location: str, function: Callable[..., T], *args: object) -> T:
        """Run a function that reads a file."""
        with self._noticing_hangs():
            return await self.threads.run_for(ANSWER_S, location, function, *args)

    async def _run_for(self, answer_s: float, function: Callable[..., T], *args: object) -> T:
        with self._noticing_hangs():
            return await self.threads.run_for(answer_s, None, function, *args)

    @contextmanager
    def _noticing_hangs(self) -> Iterator[None]:
        try:
            yield
        except DiskHangs as error:
            raise MediaFolderHangs(f"{self.root}: {error}") from error

    async def _run_write(self, function: Callable[..., T], *args: object) -> T:
        return await self._run_write_for(ANSWER_S, function, *args)

    async def _run_write_for(self, answer_s: float, function: Callable[..., T], *args: object) -> T:
        try:
            return await self._run_for(answer_s, function, *args)
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
    """A temporary file that is being written; not thread-safe."""

    path: Path
    file: IO[bytes]
    size: int = 0
    digest: "hashlib._Hash" = attrs.Factory(hashlib.sha256)

    @classmethod
    def open(cls, folder: Path) -> "_Spool":
        files.make_folders(folder)
        descriptor, name = tempfile.mkstemp(dir=folder)
        return cls(Path(name), os.fdopen(descriptor, "wb"))

    def write(self, parts: list[bytes]) -> None:
        for part in parts:
            self.file.write(part)
            self.digest.update(part)
            self.size += len(part)

    def finish(self, parts: list[bytes]) -> SpooledFile:
        self.write(parts)
        self.file.close()
        return SpooledFile(self.path, self.size, self.digest.hexdigest())

    def discard(self) -> None:
        self.file.close()
        self.path.unlink(missing_ok=True)


def _temporary_path(folder: Path) -> Path:
    files.make_folders(folder)
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


def _readable_size_of(path: Path) -> int | None:
    try:
        with open(path, "rb", buffering=0) as file:
            file.read(1)
            return os.fstat(file.fileno()).st_size
    except (FileNotFoundError, NotADirectoryError):
        return None


def _head_of(path: Path, length: int) -> bytes:
    with open(path, "rb") as file:
        return file.read(length)


def _read_if_any(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace")
    except FileNotFoundError:
        return ""


def _open_at(path: Path, start: int) -> IO[bytes]:
    file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by the reader
    file.seek(start)
    return file


def _older_than(root: Path, area: str, age_s: float) -> Iterator[str]:
    before = time.time() - age_s
    for folder, _, names in os.walk(root / area):
        for name in names:
            path = Path(folder, name)
            try:
                if path.stat().st_mtime < before:
                    yield str(path.relative_to(root))
            except FileNotFoundError:
                continue
