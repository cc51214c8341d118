"""What a search asks for, and the tokens that lead from one page of results to the next.

Spec: client-server API, Server Side Search.
"""

import base64
import sys
from collections.abc import Sequence
from typing import Final, Literal

import attrs
import orjson

from hs.core.errors import InvalidParam
from hs.core.filters import ANY_EVENT, EventFilter
from hs.storage.directory.search import Hit

Order = Literal["rank", "recent"]
GroupKey = Literal["room_id", "sender"]

_GREATEST: Final = sys.maxsize
_LATEST: Final = 2.0**53
MAX_TOKEN_CHARS: Final = 2048


@attrs.frozen
class ContextAsk:
    """How much is wanted of what happened around each result."""

    before_limit: int = 5
    after_limit: int = 5
    include_profile: bool = False


@attrs.frozen
class SearchAsk:
    """One search; `keys` are as in the request, `next_batch` a token of an earlier answer."""

    term: str
    keys: Sequence[str] | None = None
    wanted: EventFilter = ANY_EVENT
    order: Order = "rank"
    groups: Sequence[GroupKey] = ()
    context: ContextAsk | None = None
    include_state: bool = False
    next_batch: str | None = None


@attrs.frozen
class Cursor:
    """Where a page begins: behind the hit with this score, or time, and number.

    With `group` only results of that room or sender are wanted.
    """

    order: Order
    value: float = float(_GREATEST)
    stream_id: int = _GREATEST
    group: tuple[GroupKey, str] | None = None

    def behind(self, hit: Hit) -> "Cursor":
        """Go on behind a hit."""
        value = hit.score if self.order == "rank" else float(hit.origin_server_ts)
        return attrs.evolve(self, value=value, stream_id=hit.stream_id)

    @property
    def place(self) -> tuple[float, int]:
        """Give what the hits of the page must be below."""
        return (self.value, self.stream_id)

    @property
    def time_place(self) -> tuple[int, int]:
        """Give the same where hits are ordered by time."""
        return (int(max(-_LATEST, min(_LATEST, self.value))), self.stream_id)

    def encode(self) -> str:
        """Give the token."""
        fields = [self.order, self.value, self.stream_id, *(self.group or ())]
        return base64.urlsafe_b64encode(orjson.dumps(fields)).decode().rstrip("=")


def parse_cursor(text: str, order: Order) -> Cursor:
    """Read a token for a search that has the same order.

    Raises: InvalidParam.
    """
    refused = InvalidParam("next_batch is not a token of this search")
    if len(text) > MAX_TOKEN_CHARS or not text.isascii():
        raise refused
    try:
        fields = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except ValueError:
        raise refused from None
    match fields:
        case [name, float(value), int(stream_id)] if name == order:
            return Cursor(order, value, _bounded(stream_id))
        case [name, float(value), int(stream_id), ("room_id" | "sender") as key, str(of)] if (
            name == order
        ):
            return Cursor(order, value, _bounded(stream_id), (key, of.replace("\0", "")))
    raise refused


def _bounded(number: int) -> int:
    return max(-_GREATEST, min(_GREATEST, number))
