"""The media repository: stores uploads and finds the content of mxc:// addresses.

Rules:

- A file is complete on disk, under its final name, before the transaction that makes an address
  point to it. After a crash in between, the cleanup deletes the file.
- Equal files are stored once. The transaction that links an address first looks for a file with the
  same hash, and marks it as claimed, so that the cleanup does not remove it concurrently. Otherwise
  the new file is installed and the transaction repeated with it. If another request has stored the
  same content in between, its file is used and this one removed.
- Upload limits are checked in the transaction that adds the address. A user's transactions with
  limits are serialised by a row, and within a process by a lock, which saves repetitions.
- A download of a created address that has no content yet waits for the upload: it registers for the
  wake-up before it reads the row, so that no upload is missed.
- Concurrent downloads of a remote address share one request.

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
from hs.services.media.content_stores import MediaStorage
from hs.services.media.download_limit import RemoteDownloadLimit
from hs.services.media.last_access import MediaAccessTimes
from hs.services.media.media_folder import SpooledFile
from hs.services.media.media_names import clean_name, clean_type, new_location, new_media_id
from hs.services.media.remote_media import RemoteMedia
from hs.services.media.synapse_media_folder import adopt_file
from hs.services.media.upload_waiters import UploadWaiters
from hs.settings.sections.media import MediaSettings, UploadLimit
from hs.storage.database import Database, Tx
from hs.storage.media import media
from hs.storage.media.media import Media, StoredFile

LONGEST_WAIT_MS: Final = 60_000
UploadLimits = tuple[UploadLimit, ...]
__all__ = ["Media", "MediaRepository", "Upload"]
_NOT_FOUND: Final = "Media not found"


@attrs.frozen
class Upload:
    """An upload: the content as it arrives, and the metadata from the client."""

    parts: AsyncIterable[bytes]
    content_type: str | None = None
    name: str | None = None
    declared_bytes: int | None = None


@attrs.define(eq=False)
class MediaRepository:
    """The media repository, in any process."""

    contents: MediaStorage
    _database: Database
    _clock: Clock
    _server_name: ServerName
    _settings: MediaSettings
    _arrivals: UploadWaiters
    _uses: MediaAccessTimes
    _remote: RemoteMedia
    _limit: RemoteDownloadLimit
    _downloading: SingleFlight[tuple[str, str]] = attrs.field(factory=SingleFlight, init=False)
    # The database serialises a user's transactions with limits by repeating one of two concurrent
    # transactions; this lock avoids that within the process.
    _turns: KeyedLock[str | None] = attrs.field(factory=KeyedLock, init=False)

    async def upload(self, requester: Requester, upload: Upload) -> Media:
        """Store a user's upload. Raises: TooLarge, Forbidden."""
        await self._check_size(requester.user_id, upload)
        draft = self._draft(requester.user_id, upload)
        return await self._receive(draft, upload, self._settings.media_upload_limits)

    async def create(self, requester: Requester) -> Media:
        """Create an address to which the user uploads later. Raises: LimitExceeded."""
        now_ms = self._clock.now_ms()
        reserved = self._draft(requester.user_id, None)._replace(
            expires_ms=now_ms + self._settings.unused_expiration_time
        )
        max_pending = self._settings.max_pending_media_uploads
        async with self._turns.hold(requester.user_id):
            await self._database.write(_create, reserved, max_pending, now_ms)
        return reserved

    async def upload_to(self, requester: Requester, media_id: str, upload: Upload) -> Media:
        """Store the content of a created address.

        Raises: NotFound, Forbidden, CannotOverwriteMedia, TooLarge.
        """
        created = await self._database.read(media.get, self._server_name, media_id)
        if created is None:
            raise NotFound("Media ID not found, or expired")
        if created.user_id != requester.user_id:
            raise Forbidden("The media ID was created by another user")
        if created.location is not None:
            raise CannotOverwriteMedia("Content has already been uploaded to this media ID")
        if (created.expires_ms or 0) <= self._clock.now_ms():
            raise NotFound("The media ID has expired")
        await self._check_size(requester.user_id, upload)
        draft = self._draft(requester.user_id, upload)._replace(
            media_id=media_id, expires_ms=created.expires_ms
        )
        record = await self._receive(draft, upload, self._settings.media_upload_limits)
        self._arrivals.announce(record.uri)
        return record

    async def store(
        self, content: bytes, content_type: str, name: str | None, owner: UserID | None
    ) -> Media:
        """Store content that the server has created or downloaded; no limits apply."""
        upload = Upload(_once(content), content_type, name)
        return await self._receive(self._draft(owner, upload), upload, (), len(content))

    async def find(
        self,
        origin: ServerName,
        media_id: str,
        timeout_ms: int,
        *,
        has_token: bool,
        client: str | None = None,
    ) -> Media:
        """Return the media of an address, waiting for the upload if it has none yet.

        What is downloaded from other servers counts against the limit of the `client`.
        Raises: NotFound, NotYetUploaded, TooLarge, LimitExceeded, RemoteFault.
        """
        timeout_ms = max(0, min(timeout_ms, LONGEST_WAIT_MS))
        if origin == self._server_name:
            record = await self._find_local(media_id, timeout_ms)
        else:
            record = await self._find_remote(origin, media_id, timeout_ms, client)
        requires_token = self._settings.enable_authenticated_media and record.needs_token
        if record.quarantined_by is not None or (requires_token and not has_token):
            raise NotFound(_NOT_FOUND)
        self._uses.note(record)
        return record

    async def delete(self, origin: ServerName, media_id: str) -> bool:
        """Delete an address; the cleanup deletes its file if no other address refers to it."""
        return await self._database.write(media.delete, origin, media_id) is not None

    async def quarantine(self, origin: ServerName, media_id: str, by: UserID | None) -> bool:
        """Quarantine an address, or release it if `by` is None; return whether it was possible."""
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
        """Reject an upload by its declared size, before its content is received."""
        size = upload.declared_bytes or 0
        if size > self._settings.max_upload_size:
            raise TooLarge(
                f"The upload must not be larger than {self._settings.max_upload_size} bytes"
            )
        limits = self._settings.media_upload_limits
        if limits:
            now_ms = self._clock.now_ms()
            await self._database.read(_check_limits, user_id, size, limits, now_ms)

    async def _receive(
        self, draft: Media, upload: Upload, limits: UploadLimits, max_bytes: int | None = None
    ) -> Media:
        max_bytes = self._settings.max_upload_size if max_bytes is None else max_bytes
        async with self.contents.folder.receive(upload.parts, max_bytes) as received:
            return await self._link(draft, received, limits)

    async def _link(self, draft: Media, received: SpooledFile, limits: UploadLimits) -> Media:
        """Make an address refer to received content."""
        is_local = draft.origin == self._server_name
        draft = draft._replace(size_bytes=received.size_bytes)
        file_record = StoredFile("", received.sha256, received.size_bytes, is_copied=True)
        linked = await self._write_link(draft, file_record, limits)
        if linked is None:
            location = new_location(received.sha256)
            await self.contents.folder.install(received, location)
            is_copied = await self.contents.copy_synchronously(location, is_local)
            new_file = file_record._replace(location=location, is_copied=is_copied)
            linked = await self._write_link(draft, new_file, limits)
            assert linked is not None
            if linked.location != location:
                # Another request has stored equal content in the meantime.
                await self.contents.remove(location)
            elif not is_copied:
                self.contents.schedule_copy(location, is_local)
        return linked

    async def _write_link(
        self, draft: Media, file: StoredFile, limits: UploadLimits
    ) -> Media | None:
        now_ms = self._clock.now_ms()
        if not limits:
            return await self._database.write(_link, draft, file, limits, now_ms)
        async with self._turns.hold(draft.user_id):
            return await self._database.write(_link, draft, file, limits, now_ms)

    async def _find_local(self, media_id: str, timeout_ms: int) -> Media:
        """Return a local address with its content. Raises: NotFound, NotYetUploaded."""
        record = await self._read_local(media_id)
        if record.location is not None:
            return record
        with trio.move_on_after(timeout_ms / 1000):
            while True:
                with self._arrivals.wait_for(record.uri) as uploaded:
                    record = await self._read_local(media_id)
                    if record.location is not None:
                        return record
                    await uploaded.wait()
        raise NotYetUploaded("The media has not been uploaded yet")

    async def _read_local(self, media_id: str) -> Media:
        """Return a local address, with or without content. Raises: NotFound."""
        record = await self._database.read(media.get, self._server_name, media_id)
        if record is None:
            folder = self.contents.folder
            record = await adopt_file(self._database, folder, self._server_name, media_id)
        if record is None or self._has_expired(record):
            raise NotFound(_NOT_FOUND)
        return record

    def _has_expired(self, record: Media) -> bool:
        return record.location is None and (record.expires_ms or 0) <= self._clock.now_ms()

    async def _find_remote(
        self, origin: ServerName, media_id: str, timeout_ms: int, client: str | None
    ) -> Media:
        if origin in self._settings.prevent_media_downloads_from:
            raise NotFound(_NOT_FOUND)
        stored = await self._database.read(media.get, origin, media_id)
        if stored is not None:
            return stored
        if client is not None:
            self._limit.check(client)
        record = await self._downloading.run(
            (origin, media_id), self._download, origin, media_id, timeout_ms
        )
        if client is not None:
            self._limit.count(client, record.size_bytes)
        return record

    async def _download(self, origin: ServerName, media_id: str, timeout_ms: int) -> Media:
        async with self._remote.download(origin, media_id, timeout_ms) as content:
            upload = Upload(content.parts, content.content_type, content.upload_name)
            draft = self._draft(None, upload)._replace(origin=origin, media_id=media_id)
            try:
                return await self._receive(draft, upload, ())
            except TooLarge as error:
                # Spec: 502, because it is not the client's request that is too large.
                raise MatrixError("M_TOO_LARGE", 502, error.message) from None


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def _create(tx: Tx, reserved: Media, max_pending: int, now_ms: int) -> None:
    assert reserved.user_id is not None
    await media.serialize_uploads(tx, reserved.user_id)
    count, first_expires_ms = await media.pending_uploads(tx, reserved.user_id, now_ms)
    if count >= max_pending:
        raise LimitExceeded(
            "Too many media IDs without uploaded content",
            retry_after_ms=max(1, first_expires_ms - now_ms),
        )
    await media.reserve(tx, reserved)


async def _check_limits(tx: Tx, user_id: str, size: int, limits: UploadLimits, now_ms: int) -> None:
    for limit in limits:
        uploaded = await media.uploaded_bytes_since(tx, user_id, now_ms - limit.time_period)
        if uploaded + size > limit.max_size:
            raise Forbidden("The upload would exceed your upload limit")


async def _link(
    tx: Tx, draft: Media, file: StoredFile, limits: UploadLimits, now_ms: int
) -> Media | None:
    """Store an address with its file.

    Return None if no equal file is stored yet and `file` has no location.
    Raises: Forbidden, CannotOverwriteMedia.
    """
    if draft.user_id is not None and limits:
        await media.serialize_uploads(tx, draft.user_id)
        await _check_limits(tx, draft.user_id, draft.size_bytes, limits, now_ms)
    location = await media.claim_file(tx, file, now_ms)
    if location is None:
        return None
    linked = draft._replace(location=location)
    if draft.expires_ms is None:
        await media.add(tx, linked)
    elif not await media.complete_upload(tx, linked, now_ms):
        raise CannotOverwriteMedia("Content has already been uploaded to this media ID")
    return linked
