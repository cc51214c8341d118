"""Finding and reading the media that a request is for."""

from collections.abc import AsyncIterator, Awaitable, Callable

import trio

from hs.apis.web.drain import Drain
from hs.core.errors import NotYetUploaded
from hs.services.media.repository import Media, MediaRepository
from hs.services.media.thumbnails import ThumbnailFile


async def find_until_drained(
    find: Callable[[int], Awaitable[Media]], timeout_ms: int, drain: Drain
) -> Media:
    """Return what `find` returns, waiting for the upload if its content is not there yet.

    Raises: NotYetUploaded after the timeout, or as soon as the process drains; what `find` raises.
    """
    try:
        return await find(0)
    except NotYetUploaded:
        if timeout_ms <= 0:
            raise
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_on, drain.started, nursery.cancel_scope)
        media = await find(timeout_ms)
        nursery.cancel_scope.cancel()
        return media
    raise NotYetUploaded("The server is shutting down; try again")


def read_thumbnail(
    repository: MediaRepository, thumbnail: ThumbnailFile, start: int, length: int
) -> AsyncIterator[bytes]:
    """Yield a part of a thumbnail, which may be stored or not."""
    if thumbnail.content is None:
        return repository.contents.folder.read(thumbnail.location, start, length)
    return _single_part(thumbnail.content[start : start + length])


async def _cancel_on(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def _single_part(content: bytes) -> AsyncIterator[bytes]:
    yield content
