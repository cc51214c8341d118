"""How media of other servers are got; federation implements it."""

from collections.abc import AsyncIterable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import attrs

from hs.core.errors import NotFound
from hs.core.ids import ServerName


@attrs.frozen
class RemoteContent:
    """What another server answers: `parts` arrive while they are read."""

    content_type: str
    upload_name: str | None
    parts: AsyncIterable[bytes]


class RemoteMedia(Protocol):
    """Asks other servers for their media."""

    def download(
        self, origin: ServerName, media_id: str, timeout_ms: int
    ) -> AbstractAsyncContextManager[RemoteContent]:
        """Open the content of an address.

        Raises: NotFound, NotYetUploaded, TooLarge, RemoteFault.
        """
        ...


class NoRemoteMedia:
    """The answer of a server without federation."""

    def download(
        self, origin: ServerName, media_id: str, timeout_ms: int
    ) -> AbstractAsyncContextManager[RemoteContent]:
        raise NotFound("Media of other servers cannot be reached")
