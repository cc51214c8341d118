"""Takes over, one by one as they are asked for, the local media of a Synapse's media folder.

Its files lie under names made of the media ID alone, so they are found without its database.
What only that knows (content type, file name, who uploaded it) is lost, except that a picture is
told by how it begins.
"""

from hs.core.ids import ServerName
from hs.services.media.media_folder import MediaFolder
from hs.services.media.media_names import DEFAULT_TYPE
from hs.storage.database import Database, Tx
from hs.storage.media import media
from hs.storage.media.media import Media, StoredFile

LEAST_ID_CHARS = 5
HEAD_BYTES = 16
_PICTURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)


def old_location(media_id: str) -> str:
    """Tell where a Synapse has the file of its own media ID."""
    return f"local_content/{media_id[:2]}/{media_id[2:4]}/{media_id[4:]}"


async def adopted(
    database: Database, folder: MediaFolder, server_name: ServerName, media_id: str
) -> Media | None:
    """Give an address of this server its old file, if there is one."""
    if len(media_id) < LEAST_ID_CHARS:
        return None
    location = old_location(media_id)
    size = await folder.size_of(location)
    if size is None:
        return None
    head = await folder.head_of(location, HEAD_BYTES)
    created_ms = await folder.written_ms(location)
    found = Media(
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
    return await database.write(_add, found)


async def _add(tx: Tx, found: Media) -> Media | None:
    assert found.location is not None
    file = StoredFile(found.location, None, found.size_bytes, is_copied=True)
    await media.claim_file(tx, file, found.created_ms)
    await media.add(tx, found)
    return await media.get(tx, found.origin, found.media_id)


def _type_of(head: bytes) -> str:
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    for start, content_type in _PICTURES:
        if head.startswith(start):
            return content_type
    return DEFAULT_TYPE
