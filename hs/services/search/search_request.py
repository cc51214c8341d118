"""Search requests, and the pagination tokens of results.

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
from hs.storage.directory.search import SearchHit

Order = Literal["rank", "recent"]
GroupKey = Literal["room_id", "sender"]

_GREATEST: Final = sys.maxsize
MAX_TOKEN_CHARS: Final = 2048


@attrs.frozen
class SearchContextRequest:
    """The requested context of each result."""

    before_limit: int = 5
    after_limit: int = 5
    include_profile: bool = False


@attrs.frozen
class MessageSearchRequest:
    """A search request; `next_batch` is a token from an earlier response."""

    term: str
    keys: Sequence[str] | None = None
    event_filter: EventFilter = ANY_EVENT
    order: Order = "rank"
    groups: Sequence[GroupKey] = ()
    context: SearchContextRequest | None = None
    include_state: bool = False
    next_batch: str | None = None


@attrs.frozen
class SearchCursor:
    """The start of a page: after the hit with this score and stream ID; `recent` has no score.

    With `group`, the page contains only results of that room or sender.
    """

    order: Order
    value: float = float(_GREATEST)
    stream_id: int = _GREATEST
    group: tuple[GroupKey, str] | None = None

    def after(self, hit: SearchHit) -> "SearchCursor":
        """Return a cursor that continues after a hit."""
        return attrs.evolve(self, value=hit.score, stream_id=hit.stream_id)

    @property
    def rank_bound(self) -> tuple[float, int]:
        """Upper bound (exclusive) of the hits of the page, ordered by rank."""
        return (self.value, self.stream_id)

    def encode(self) -> str:
        """Return the token."""
        fields = [self.order, self.value, self.stream_id, *(self.group or ())]
        return base64.urlsafe_b64encode(orjson.dumps(fields)).decode().rstrip("=")


def parse_cursor(text: str, order: Order) -> SearchCursor:
    """Parse a token of a search with the same order.

    Raises: InvalidParam.
    """
    error = InvalidParam("next_batch is not a token of this search")
    if len(text) > MAX_TOKEN_CHARS or not text.isascii():
        raise error
    try:
        fields = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except ValueError:
        raise error from None
    match fields:
        case [name, float(value), int(stream_id)] if name == order:
            return SearchCursor(order, value, _bounded(stream_id))
        case [
            name,
            float(value),
            int(stream_id),
            ("room_id" | "sender") as key,
            str(group_value),
        ] if name == order:
            return SearchCursor(
                order, value, _bounded(stream_id), (key, group_value.replace("\0", ""))
            )
    raise error


def _bounded(number: int) -> int:
    return max(-_GREATEST, min(_GREATEST, number))
