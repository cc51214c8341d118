"""The interface for downloads from other servers."""

from collections.abc import AsyncIterable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import attrs

from hs.core.errors import NotFound
from hs.core.ids import ServerName


@attrs.frozen
class RemoteContent:
    """A response of another server; `parts` are received while they are iterated."""

    content_type: str
    upload_name: str | None
    parts: AsyncIterable[bytes]


class RemoteMedia(Protocol):
    """A client for media of other servers."""

    def download(
        self, origin: ServerName, media_id: str, timeout_ms: int
    ) -> AbstractAsyncContextManager[RemoteContent]:
        """Open a download of the content of an address.

        Raises: NotFound, NotYetUploaded, TooLarge, RemoteFault.
        """
        ...


class NoRemoteMedia:
    """The implementation for a server without federation."""

    def download(
        self, origin: ServerName, media_id: str, timeout_ms: int
    ) -> AbstractAsyncContextManager[RemoteContent]:
        raise NotFound("Media of other servers is not available")
