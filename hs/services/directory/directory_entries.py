"""Entries of the user directory: what is listed and searched of a profile."""

import unicodedata
from collections.abc import Mapping
from typing import Any, Final

import orjson

from hs.storage.directory.user_directory import DirectoryUser

MAX_NAME_CHARS: Final = 256
MAX_AVATAR_CHARS: Final = 1000


def fold_text(text: str) -> str:
    """Normalize a text for comparison: NFKC, case-folded."""
    return unicodedata.normalize("NFKC", text).casefold().replace("\0", "")


def entry_of(user_id: str, profile: Mapping[str, Any], *, is_local: int) -> DirectoryUser:
    """Return the entry of a user with a profile."""
    name = _text(profile.get("displayname"), MAX_NAME_CHARS)
    avatar_url = _text(profile.get("avatar_url"), MAX_AVATAR_CHARS)
    # The name comes first, so that names beginning with the words are the best matches.
    search_text = fold_text(f"{name or ''} {user_id}").strip()
    return DirectoryUser(user_id, name, avatar_url, search_text, is_local)


def local_entry_of(user_id: str, fields: Mapping[str, bytes]) -> DirectoryUser:
    """Return the entry of a local user with the stored fields of the profile."""
    profile = {field: orjson.loads(value) for field, value in fields.items()}
    return entry_of(user_id, profile, is_local=1)


def _text(value: Any, max_chars: int) -> str | None:
    if not isinstance(value, str) or not value or "\0" in value:
        return None
    return value[:max_chars]
