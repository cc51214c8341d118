"""What one connection has been sent, room by room, and the bytes this is stored as."""

from collections.abc import Iterable
from typing import Any, Final

import attrs
import orjson

from hs.core.canonical_json import for_keeping
from hs.core.ids import RoomID, UserID
from hs.core.tokens import SyncToken
from hs.services.sync.sliding.required_state import RequiredState, required_state

MAX_MEMBERS: Final = 100

_NOBODY: Final = UserID("")


@attrs.frozen
class RoomSent:
    """What a connection has of one room.

    A room in a window is told all up to the connection's position. One that left the windows is
    parked: told all up to the token `parked`. The client has the last `timeline_limit` events
    without a gap, and the current member events of `members`, as far as it gets them lazily.
    """

    membership: str
    required: RequiredState
    timeline_limit: int
    is_dm: bool = False
    members: frozenset[UserID] = frozenset()
    parked: SyncToken | None = None


class _Table:
    """Numbers values that many rooms share, so that each is written once."""

    def __init__(self) -> None:
        self.numbers: dict[Any, int] = {}

    def number(self, value: Any) -> int:
        return self.numbers.setdefault(value, len(self.numbers))


def encode(rooms: Iterable[tuple[RoomID, RoomSent]]) -> bytes:
    """Write what was sent of rooms."""
    tokens, required = _Table(), _Table()
    entries: dict[str, Any] = {}
    for room_id, sent in rooms:
        entries[room_id] = (
            sent.membership,
            required.number(sent.required),
            sent.timeline_limit,
            int(sent.is_dm),
            -1 if sent.parked is None else tokens.number(sent.parked),
            sorted(sent.members),
        )
    fields = {
        "tokens": [token.encode() for token in tokens.numbers],
        "required": [one.pairs() for one in required.numbers],
        "excluded": [sorted(one.excluded) for one in required.numbers],
        "rooms": entries,
    }
    return for_keeping(orjson.dumps(fields))


def decode(written: bytes) -> dict[RoomID, RoomSent]:
    """Read what `encode` wrote."""
    fields = orjson.loads(written)
    tokens = [SyncToken.parse(text) for text in fields["tokens"]]
    patterns = fields["required"]
    excluded = fields.get("excluded") or [[] for _ in patterns]
    required = [
        required_state(pairs, _NOBODY, without)
        for pairs, without in zip(patterns, excluded, strict=True)
    ]
    rooms: dict[RoomID, RoomSent] = {}
    for room_id, entry in fields["rooms"].items():
        membership, number, limit, is_dm, parked, members = entry
        rooms[RoomID(room_id)] = RoomSent(
            membership,
            required[number],
            limit,
            bool(is_dm),
            frozenset(members),
            None if parked < 0 else tokens[parked],
        )
    return rooms
