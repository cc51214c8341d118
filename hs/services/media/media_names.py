"""Names of media: media IDs, mxc:// addresses, file locations, sanitised file names and types.

Spec: client-server API, Content repository, Security considerations.
"""

import re
import secrets
import string

from hs.core.errors import InvalidParam, NotFound
from hs.core.ids import ServerName, parse_server_name
from hs.services.media.media_folder import CONTENT

MEDIA_ID_CHARS = 24
MAX_MEDIA_ID_CHARS = 255
MAX_NAME_CHARS = 255
MAX_TYPE_CHARS = 255
DEFAULT_TYPE = "application/octet-stream"
_MEDIA_ID = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_TYPE = re.compile(r"[\x21-\x7e]+/[\x20-\x7e]+", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def new_media_id() -> str:
    """Return a media ID that cannot be guessed."""
    return "".join(secrets.choice(string.ascii_letters) for _ in range(MEDIA_ID_CHARS))


def new_location(sha256: str) -> str:
    """Return the location of a new file: its hash and a suffix that makes it unique."""
    return f"{CONTENT}/{sha256[:2]}/{sha256[2:4]}/{sha256[4:]}.{secrets.token_hex(4)}"


def parse_address(server_name: str, media_id: str) -> tuple[ServerName, str]:
    """Validate both parts of an address. Raises: NotFound."""
    try:
        origin = parse_server_name(server_name)
    except InvalidParam:
        raise NotFound("Media not found") from None
    if len(media_id) > MAX_MEDIA_ID_CHARS or not _MEDIA_ID.fullmatch(media_id):
        raise NotFound("Media not found")
    return origin, media_id


def clean_type(content_type: str | None) -> str:
    """Return a content type that is valid in a header; the default type if it is not."""
    text = (content_type or "").strip()
    return text if len(text) <= MAX_TYPE_CHARS and _TYPE.fullmatch(text) else DEFAULT_TYPE


def clean_name(name: str | None) -> str | None:
    """Return a file name without control characters; None if it is empty."""
    return _CONTROL.sub("", name or "")[:MAX_NAME_CHARS] or None
