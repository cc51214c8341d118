"""Matrix identifiers: types, grammars, and functions that parse and split them.

Spec: appendices, Identifier Grammar.
"""

import ipaddress
import re
from functools import lru_cache
from typing import NewType

from hs.core.errors import InvalidParam

UserID = NewType("UserID", str)
RoomID = NewType("RoomID", str)
EventID = NewType("EventID", str)
RoomAlias = NewType("RoomAlias", str)
DeviceID = NewType("DeviceID", str)
ServerName = NewType("ServerName", str)

MAX_ID_BYTES = 255

_SERVER_NAME = re.compile(
    r"(?:(?P<v4>\d{1,3}(?:\.\d{1,3}){3})|\[(?P<v6>[0-9A-Fa-f:.]{2,45})\]|[0-9A-Za-z.-]{1,255})"
    r"(?::\d{1,5})?",
    re.ASCII,
)
_STRICT_LOCALPART = re.compile(r"[a-z0-9._=/+-]+", re.ASCII)
_ROOM_HASH = re.compile(r"![A-Za-z0-9_-]{43}", re.ASCII)


def parse_user_id(text: object) -> UserID:
    """Parse a user ID by the historical grammar, which events may use.

    Raises: InvalidParam.
    """
    return UserID(_with_domain(text, "@", "user ID"))


def parse_strict_user_id(text: object) -> UserID:
    """Parse a user ID by the grammar for new users.

    Raises: InvalidParam.
    """
    user_id = parse_user_id(text)
    if not is_strict_localpart(localpart_of(user_id)):
        raise InvalidParam("The localpart may only contain a-z, 0-9 and the characters ._=-/+")
    return user_id


def is_strict_localpart(localpart: str) -> bool:
    """Return whether a new user may have this localpart."""
    return _STRICT_LOCALPART.fullmatch(localpart) is not None


def is_user_id(text: object) -> bool:
    """Return whether a value is a user ID by the historical grammar."""
    try:
        parse_user_id(text)
    except InvalidParam:
        return False
    return True


def parse_room_id(text: object) -> RoomID:
    """Parse a room ID: `!opaque:domain`, or `!hash` from room version 12 on.

    Raises: InvalidParam.
    """
    if isinstance(text, str) and ":" not in text:
        return RoomID(_opaque(text, "!", "room ID"))
    return RoomID(_with_domain(text, "!", "room ID"))


def is_room_hash(room_id: str) -> bool:
    """Return whether a room ID is the hash of its create event, as from room version 12 on."""
    return _ROOM_HASH.fullmatch(room_id) is not None


def parse_event_id(text: object) -> EventID:
    """Parse an event ID of any room version.

    Raises: InvalidParam.
    """
    return EventID(_opaque(text, "$", "event ID"))


def parse_room_alias(text: object) -> RoomAlias:
    """Parse a room alias.

    Raises: InvalidParam.
    """
    alias = _with_domain(text, "#", "room alias")
    if alias[1] == ":":
        raise InvalidParam("The localpart of the room alias must not be empty")
    return RoomAlias(alias)


@lru_cache(maxsize=16384)
def _check_server_name(text: str) -> bool:
    match = _SERVER_NAME.fullmatch(text)
    if match is None or len(text) > MAX_ID_BYTES:
        return False
    literal = match["v4"] or match["v6"]
    if literal is None:
        return True
    try:
        ipaddress.ip_address(literal)
    except ValueError:
        return False
    return True


def parse_server_name(text: object) -> ServerName:
    """Parse a server name, with or without a port.

    Raises: InvalidParam.
    """
    if not isinstance(text, str) or not _check_server_name(text):
        raise InvalidParam("Invalid server name")
    return ServerName(text)


def localpart_of(identifier: UserID | RoomAlias) -> str:
    """Return the part between the sigil and the first colon."""
    return identifier[1 : identifier.index(":")]


def server_of(identifier: UserID | RoomAlias) -> ServerName:
    """Return the server name of a parsed user ID or room alias."""
    return ServerName(identifier[identifier.index(":") + 1 :])


def server_in(identifier: RoomID | EventID) -> ServerName | None:
    """Return the domain of a room or event ID, or None if it has no domain.

    The domain only makes identifiers unique: that server need not be in the room.
    """
    _, colon, domain = identifier.partition(":")
    return ServerName(domain) if colon else None


def _with_domain(text: object, sigil: str, kind: str) -> str:
    identifier = _opaque(text, sigil, kind, least=0)
    _, colon, domain = identifier.partition(":")
    if not colon or not _check_server_name(domain):
        raise InvalidParam(f"The {kind} must end with a valid server name")
    return identifier


def _opaque(text: object, sigil: str, kind: str, least: int = 1) -> str:
    if not isinstance(text, str) or not text.startswith(sigil) or len(text) <= least:
        raise InvalidParam(f"Invalid {kind}: it must be a string that begins with {sigil}")
    if "\0" in text or _byte_length(text) > MAX_ID_BYTES:
        raise InvalidParam(f"The {kind} must be at most {MAX_ID_BYTES} bytes long, without NUL")
    return text


def _byte_length(text: str) -> int:
    if text.isascii():
        return len(text)
    try:
        return len(text.encode())
    except UnicodeEncodeError as fault:
        raise InvalidParam("The identifier must not contain lone surrogates") from fault
