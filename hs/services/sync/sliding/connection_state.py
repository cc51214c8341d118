"""The state of one connection: what it has been sent of each room, and how that is encoded.

Rules:

- A room that the connection still requests has been sent up to the token in its current `pos`. A
  room that it no longer requests keeps the token up to which it was sent, so that it can continue
  there when it is requested again.
- A room without an entry has never been sent, or must be sent anew.
- Values that many rooms share (tokens, required state) are written once and referred to by number.
- `decode_rooms` must read what earlier versions wrote: `excluded` may be missing.
"""

from collections.abc import Iterable
from typing import Any, Final

import attrs
import orjson

from hs.core.canonical_json import shrink_to_fit
from hs.core.ids import RoomID, UserID
from hs.core.tokens import SyncToken
from hs.services.sync.sliding.required_state import RequiredState, parse_required_state

MAX_MEMBERS: Final = 100

_NO_USER: Final = UserID("")


@attrs.frozen
class SentRoom:
    """The record of what a connection has been sent of one room."""

    membership: str
    required: RequiredState
    """The state patterns of which the client has every current entry."""
    timeline_limit: int
    """How many of the latest events the client has without a gap, if there are that many."""
    is_dm: bool = False
    members: frozenset[UserID] = frozenset()
    """The users whose current member events were sent by lazy loading."""
    sent_until: SyncToken | None = None
    """The token up to which a room that is no longer requested was sent; None while it is."""


class _ValueTable:
    """A table of the distinct values that rooms share, numbered in order of appearance."""

    def __init__(self) -> None:
        self.numbers: dict[Any, int] = {}

    def number(self, value: Any) -> int:
        return self.numbers.setdefault(value, len(self.numbers))


def encode_rooms(rooms: Iterable[tuple[RoomID, SentRoom]]) -> bytes:
    """Encode the records of rooms."""
    tokens, required = _ValueTable(), _ValueTable()
    entries: dict[str, Any] = {}
    for room_id, sent in rooms:
        entries[room_id] = (
            sent.membership,
            required.number(sent.required),
            sent.timeline_limit,
            int(sent.is_dm),
            -1 if sent.sent_until is None else tokens.number(sent.sent_until),
            sorted(sent.members),
        )
    fields = {
        "tokens": [token.encode() for token in tokens.numbers],
        "required": [patterns.pairs() for patterns in required.numbers],
        "excluded": [sorted(patterns.excluded) for patterns in required.numbers],
        "rooms": entries,
    }
    return shrink_to_fit(orjson.dumps(fields))


def decode_rooms(encoded: bytes) -> dict[RoomID, SentRoom]:
    """Decode what `encode_rooms` wrote."""
    fields = orjson.loads(encoded)
    tokens = [SyncToken.parse(text) for text in fields["tokens"]]
    patterns = fields["required"]
    excluded = fields.get("excluded") or [[] for _ in patterns]
    required = [
        parse_required_state(pairs, _NO_USER, without)
        for pairs, without in zip(patterns, excluded, strict=True)
    ]
    rooms: dict[RoomID, SentRoom] = {}
    for room_id, entry in fields["rooms"].items():
        membership, number, limit, is_dm, parked, members = entry
        rooms[RoomID(room_id)] = SentRoom(
            membership=membership,
            required=required[number],
            timeline_limit=limit,
            is_dm=bool(is_dm),
            members=frozenset(members),
            sent_until=None if parked < 0 else tokens[parked],
        )
    return rooms
