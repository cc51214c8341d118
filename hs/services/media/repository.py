"""The media repository: takes uploads, and finds what an address stands for.

Content is stored before the address that points to it is written, and an equal file that is
there already is used again; so an address never stands for half a file.

Spec: client-server API, Content repository.
"""

from collections.abc import AsyncIterable, AsyncIterator
from typing import Final

import attrs
import trio

from hs.core.errors import (
    CannotOverwriteMedia,
    Forbidden,
    LimitExceeded,
    MatrixError,
    NotFound,
    NotYetUploaded,
    TooLarge,
)
from hs.core.ids import ServerName, UserID
from hs.core.requester import Requester
from hs.lib.caching.single_flight import SingleFlight
from hs.lib.clock import Clock
from hs.lib.keyed_lock import KeyedLock
from hs.services.media.content_stores import Contents
from hs.services.media.last_access import MediaUses
from hs.services.media.media_folder import Received
from hs.services.media.media_names import clean_name, clean_type, new_location, new_media_id
from hs.services.media.remote_media import RemoteMedia
from hs.services.media.synapse_media_folder import adopted
from hs.services.media.upload_waiters import Arrivals
from hs.settings.sections.media import MediaSettings, UploadLimit
from hs.storage.database import Database, Tx
from hs.storage.media import media
from hs.storage.media.media import Media, StoredFile

LONGEST_WAIT_MS: Final = 60_000
Limits = tuple[UploadLimit, ...]
__all__ = ["Media", "MediaRepository", "Upload"]
_NOT_FOUND: Final = "There are no such media"


@attrs.frozen
class Upload:
    """What a client sends: the content as it arrives, and what it says of it."""

    parts: AsyncIterable[bytes]
    content_type: str | None = None
    name: str | None = None
    declared_bytes: int | None = None


@attrs.define(eq=False)
class MediaRepository:
    """Stores and finds media, in any process."""

    contents: Contents
    _database: Database
    _clock: Clock
    _server_name: ServerName
    _settings: MediaSettings
    _arrivals: Arrivals
    _uses: MediaUses
    _remote: RemoteMedia
    _downloading: SingleFlight[tuple[str, str]] = attrs.field(factory=SingleFlight, init=False)
    # The database has users' transactions with limits come after one another; within this process
    # none has to be run again for that.
    _turns: KeyedLock[str | None] = attrs.field(factory=KeyedLock, init=False)

    async def upload(self, requester: Requester, upload: Upload) -> Media:
        """Store what a user uploads. Raises: TooLarge, Forbidden."""
        await self._check_size(requester.user_id, upload)
        draft = self._draft(requester.user_id, upload)
        return await self._receive(draft, upload, self._settings.media_upload_limits)

    async def announce(self, requester: Requester) -> Media:
        """Reserve an address that the user fills later. Raises: LimitExceeded."""
        now_ms = self._clock.now_ms()
        reserved = self._draft(requester.user_id, None)._replace(
            expires_ms=now_ms + self._settings.unused_expiration_time
        )
        most = self._settings.max_pending_media_uploads
        async with self._turns.hold(requester.user_id):
            await self._database.write(_announce, reserved, most, now_ms)
        return reserved

    async def fill(self, requester: Requester, media_id: str, upload: Upload) -> Media:
        """Store the content of an announced address.

        Raises: NotFound, Forbidden, CannotOverwriteMedia, TooLarge.
        """
        known = await self._database.read(media.get, self._server_name, media_id)
        if known is None:
            raise NotFound("The address was not announced, or has expired")
        if known.user_id != requester.user_id:
            raise Forbidden("The address was announced by somebody else")
        if known.location is not None:
            raise CannotOverwriteMedia("The media have been uploaded already")
        if (known.expires_ms or 0) <= self._clock.now_ms():
            raise NotFound("The address has expired")
        await self._check_size(requester.user_id, upload)
        draft = self._draft(requester.user_id, upload)._replace(
            media_id=media_id, expires_ms=known.expires_ms
        )
        filled = await self._receive(draft, upload, self._settings.media_upload_limits)
        self._arrivals.tell(filled.uri)
        return filled

    async def store(
        self, content: bytes, content_type: str, name: str | None, owner: UserID | None
    ) -> Media:
        """Store content of our own making or fetching; no limits apply."""
        upload = Upload(_once(content), content_type, name)
        return await self._receive(self._draft(owner, upload), upload, (), len(content))

    async def find(
        self, origin: ServerName, media_id: str, timeout_ms: int, *, has_token: bool
    ) -> Media:
        """Give what an address stands for, waiting if its content is yet to come.

        Raises: NotFound, NotYetUploaded, TooLarge, RemoteFault.
        """
        timeout_ms = max(0, min(timeout_ms, LONGEST_WAIT_MS))
        if origin == self._server_name:
            found = await self._arrived(media_id, timeout_ms)
        else:
            found = await self._from_remote(origin, media_id, timeout_ms)
        is_frozen = self._settings.enable_authenticated_media and found.needs_token
        if found.quarantined_by is not None or (is_frozen and not has_token):
            raise NotFound(_NOT_FOUND)
        self._uses.note(found)
        return found

    async def delete(self, origin: ServerName, media_id: str) -> bool:
        """Delete an address; its file goes with the next tidying up, if no other has it."""
        return await self._database.write(media.delete, origin, media_id) is not None

    async def quarantine(self, origin: ServerName, media_id: str, by: UserID | None) -> bool:
        """Hide an address, or show it again with None; tell whether that changed anything."""
        return await self._database.write(media.set_quarantined, origin, media_id, by)

    def _draft(self, user_id: UserID | None, upload: Upload | None) -> Media:
        return Media(
            origin=self._server_name,
            media_id=new_media_id(),
            user_id=user_id,
            content_type=clean_type(upload.content_type if upload else None),
            upload_name=clean_name(upload.name if upload else None),
            location=None,
            size_bytes=0,
            created_ms=self._clock.now_ms(),
            expires_ms=None,
            needs_token=self._settings.enable_authenticated_media,
            is_protected=False,
            quarantined_by=None,
        )

    async def _check_size(self, user_id: UserID, upload: Upload) -> None:
        """Refuse, before anything is received, what says of itself that it is too much."""
        size = upload.declared_bytes or 0
        if size > self._settings.max_upload_size:
            raise TooLarge(f"Uploads may not be larger than {self._settings.max_upload_size} bytes")
        limits = self._settings.media_upload_limits
        if limits:
            now_ms = self._clock.now_ms()
            await self._database.read(_check_limits, user_id, size, limits, now_ms)

    async def _receive(
        self, draft: Media, upload: Upload, limits: Limits, most: int | None = None
    ) -> Media:
        most = self._settings.max_upload_size if most is None else most
        async with self.contents.folder.receive(upload.parts, most) as received:
            return await self._link(draft, received, limits)

    async def _link(self, draft: Media, received: Received, limits: Limits) -> Media:
        """Let an address stand for what was received; it is not forgotten half way."""
        is_local = draft.origin == self._server_name
        draft = draft._replace(size_bytes=received.size_bytes)
        known = StoredFile("", received.sha256, received.size_bytes, is_copied=True)
        linked = await self._write_link(draft, known, limits)
        if linked is None:
            location = new_location(received.sha256)
            await self.contents.folder.keep(received, location)
            is_copied = await self.contents.copy_first(location, is_local)
            new = known._replace(location=location, is_copied=is_copied)
            linked = await self._write_link(draft, new, limits)
            assert linked is not None
            if linked.location != location:
                # Somebody stored the same at the same time.
                await self.contents.remove(location)
            elif not is_copied:
                self.contents.copy_later(location, is_local)
        return linked

    async def _write_link(self, draft: Media, file: StoredFile, limits: Limits) -> Media | None:
        now_ms = self._clock.now_ms()
        if not limits:
            return await self._database.write(_link, draft, file, limits, now_ms)
        async with self._turns.hold(draft.user_id):
            return await self._database.write(_link, draft, file, limits, now_ms)

    async def _arrived(self, media_id: str, timeout_ms: int) -> Media:
        """Find an address of this server that has its content."""
        found = await self._known(media_id)
        if found.location is not None:
            return found
        with trio.move_on_after(timeout_ms / 1000):
            while True:
                with self._arrivals.waiting(found.uri) as arrival:
                    found = await self._known(media_id)
                    if found.location is not None:
                        return found
                    await arrival.wait()
        raise NotYetUploaded("The media have not been uploaded yet")

    async def _known(self, media_id: str) -> Media:
        """Find an address of this server that was announced or filled. Raises: NotFound."""
        found = await self._database.read(media.get, self._server_name, media_id)
        if found is None:
            folder = self.contents.folder
            found = await adopted(self._database, folder, self._server_name, media_id)
        if found is None or self._has_expired(found):
            raise NotFound(_NOT_FOUND)
        return found

    def _has_expired(self, found: Media) -> bool:
        return found.location is None and (found.expires_ms or 0) <= self._clock.now_ms()

    async def _from_remote(self, origin: ServerName, media_id: str, timeout_ms: int) -> Media:
        if origin in self._settings.prevent_media_downloads_from:
            raise NotFound(_NOT_FOUND)
        known = await self._database.read(media.get, origin, media_id)
        if known is not None:
            return known
        return await self._downloading.run(
            (origin, media_id), self._download, origin, media_id, timeout_ms
        )

    async def _download(self, origin: ServerName, media_id: str, timeout_ms: int) -> Media:
        async with self._remote.download(origin, media_id, timeout_ms) as content:
            upload = Upload(content.parts, content.content_type, content.upload_name)
            draft = self._draft(None, upload)._replace(origin=origin, media_id=media_id)
            try:
                return await self._receive(draft, upload, ())
            except TooLarge as error:
                # Spec: it is not the client's request that is too large.
                raise MatrixError("M_TOO_LARGE", 502, error.message) from None


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def _announce(tx: Tx, reserved: Media, most: int, now_ms: int) -> None:
    assert reserved.user_id is not None
    await media.take_turn(tx, reserved.user_id)
    count, first_expires_ms = await media.pending(tx, reserved.user_id, now_ms)
    if count >= most:
        raise LimitExceeded(
            "Upload to the addresses that you announced before",
            retry_after_ms=max(1, first_expires_ms - now_ms),
        )
    await media.announce(tx, reserved)


async def _check_limits(tx: Tx, user_id: str, size: int, limits: Limits, now_ms: int) -> None:
    for limit in limits:
        before = await media.uploaded_since(tx, user_id, now_ms - limit.time_period)
        if before + size > limit.max_size:
            raise Forbidden("You have uploaded as much as you may for now")


async def _link(
    tx: Tx, draft: Media, file: StoredFile, limits: Limits, now_ms: int
) -> Media | None:
    """Write an address with its file; None when there is no such file yet and it has no name.

    Raises: Forbidden, CannotOverwriteMedia.
    """
    if draft.user_id is not None and limits:
        await media.take_turn(tx, draft.user_id)
        await _check_limits(tx, draft.user_id, draft.size_bytes, limits, now_ms)
    location = await media.claim_file(tx, file, now_ms)
    if location is None:
        return None
    linked = draft._replace(location=location)
    if draft.expires_ms is None:
        await media.add(tx, linked)
    elif not await media.fill(tx, linked, now_ms):
        raise CannotOverwriteMedia("The media have been uploaded already")
    return linked
