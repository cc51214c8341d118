"""The tokens by which clients say how far they have read: of streams, history and lists.

They are opaque to clients, consist of unreserved characters (RFC 3986), and have the same meaning
in every process. SyncToken is in hs.core.sync_token, with the streams that it follows.
"""

import base64
import re
from typing import TypeAlias

import attrs
import orjson

from hs.core.errors import InvalidParam
from hs.core.sync_token import MAX_TOKEN_LENGTH
from hs.core.sync_token import SyncToken as SyncToken

_TOPOLOGICAL = re.compile(r"t([0-9]{1,18})-(-?[0-9]{1,18})", re.ASCII)


@attrs.frozen(order=True)
class TopologicalToken:
    """A place in a room's history: after the event with this depth and stream ID.

    The order of tokens is that of the history. Backfilled events have negative stream IDs.
    """

    depth: int
    stream: int

    def encode(self) -> str:
        """Return the text form, `t<depth>-<stream>`."""
        return f"t{self.depth}-{self.stream}"

    @classmethod
    def parse(cls, text: str) -> "TopologicalToken":
        """Parse the text form.

        Raises: InvalidParam.
        """
        match = _TOPOLOGICAL.fullmatch(text)
        if match is None:
            raise InvalidParam("Not a token of a room's history")
        return cls(int(match[1]), int(match[2]))


RoomToken: TypeAlias = TopologicalToken | SyncToken
"""What `/messages` and similar endpoints accept: a place in history, or the end of a sync."""


def parse_room_token(text: str) -> RoomToken:
    """Parse either form of a room token.

    Raises: InvalidParam.
    """
    if text.startswith("t"):
        return TopologicalToken.parse(text)
    return SyncToken.parse(text)


@attrs.frozen
class PaginationToken:
    """A place in any other list: the sort keys of the last entry that was returned."""

    keys: tuple[int | str, ...]

    def encode(self) -> str:
        """Return the text form, `p` and base64."""
        return "p" + base64.urlsafe_b64encode(orjson.dumps(self.keys)).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str, *kinds: type[int] | type[str]) -> "PaginationToken":
        """Parse the text form, whose keys must have these types.

        Raises: InvalidParam.
        """
        if not text.startswith("p") or len(text) > MAX_TOKEN_LENGTH:
            raise InvalidParam("Not a pagination token")
        try:
            keys = orjson.loads(base64.urlsafe_b64decode(text[1:] + "=" * (-len(text[1:]) % 4)))
        except ValueError as fault:
            raise InvalidParam("The token is malformed") from fault
        if not isinstance(keys, list) or [type(key) for key in keys] != list(kinds):
            raise InvalidParam("The token is of another list")
        if any("\0" in key for key in keys if isinstance(key, str)):
            raise InvalidParam("The token is malformed")
        return cls(tuple(keys))
