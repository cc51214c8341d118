"""Adoption of local media from a Synapse media folder, one by one when they are requested.

Synapse derives file names from the media ID alone, so files are found without its database. The
content type, file name and uploader are lost, except that pictures are recognised by their first
bytes.
"""

from hs.core.ids import ServerName
from hs.services.media.media_folder import MediaFolder
from hs.services.media.media_names import DEFAULT_TYPE
from hs.storage.database import Database, Tx
from hs.storage.media import media
from hs.storage.media.media import Media, StoredFile

MIN_ID_CHARS = 5
HEAD_BYTES = 16
_PICTURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)


def synapse_location(media_id: str) -> str:
    """Return the location of a local media ID's file in a Synapse media folder."""
    return f"local_content/{media_id[:2]}/{media_id[2:4]}/{media_id[4:]}"


async def adopt_file(
    database: Database, folder: MediaFolder, server_name: ServerName, media_id: str
) -> Media | None:
    """Create a local address for a file of Synapse; return None if there is no such file."""
    if len(media_id) < MIN_ID_CHARS:
        return None
    location = synapse_location(media_id)
    size = await folder.size_of(location)
    if size is None:
        return None
    head = await folder.head_of(location, HEAD_BYTES)
    created_ms = await folder.written_ms(location)
    adopted_media = Media(
        origin=server_name,
        media_id=media_id,
        user_id=None,
        content_type=_type_of(head),
        upload_name=None,
        location=location,
        size_bytes=size,
        created_ms=created_ms,
        expires_ms=None,
        needs_token=False,
        is_protected=False,
        quarantined_by=None,
    )
    return await database.write(_add, adopted_media)


async def _add(tx: Tx, adopted_media: Media) -> Media | None:
    assert adopted_media.location is not None
    file = StoredFile(adopted_media.location, None, adopted_media.size_bytes, is_copied=True)
    await media.claim_file(tx, file, adopted_media.created_ms)
    await media.add(tx, adopted_media)
    return await media.get(tx, adopted_media.origin, adopted_media.media_id)


def _type_of(head: bytes) -> str:
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    for start, content_type in _PICTURES:
        if head.startswith(start):
            return content_type
    return DEFAULT_TYPE
