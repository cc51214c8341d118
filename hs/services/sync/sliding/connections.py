"""The states of sliding sync connections, stored in the database and cached in memory.

Rules:

- A state is immutable and has a number, which is part of the `pos` of a response. A response that
  changes what the client has creates a new state; one that changes nothing repeats the number.
- The state before the latest one stays stored, so that a client that lost a response can repeat its
  request with the old `pos`. Older states are deleted, but may live on in the cache of a process.
- Any process can read a state by the number in `pos`. If the state is neither stored nor cached, or
  belongs to another connection, the request fails with `M_UNKNOWN_POS`, and the client starts over.
- A state is stored as a base, which successive states share, and a small delta. When the delta
  grows, a new base is written.

Races that this settles:

- A device may have `MAX_CONNECTIONS_PER_DEVICE` connections; a new one replaces the least recently
  used one. If this process still has a state of a replaced connection cached, it goes on from there
  and stores the next state with a base of its own, because the old base was deleted too.
- Two concurrent requests with the same `pos` create two states with different numbers. The one
  stored last deletes the other, which then remains only in the cache of the process that made it.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import attrs
from immutables import Map

from hs.core.errors import InvalidParam, MatrixError
from hs.core.ids import RoomID
from hs.core.tokens import SyncToken
from hs.lib.caching.lru_cache import LruCache
from hs.lib.clock import Clock
from hs.services.sync.positions import SyncPositions
from hs.services.sync.sliding import connection_state
from hs.services.sync.sliding.connection_state import SentRoom
from hs.storage.database import Database
from hs.storage.sync import sliding_sync
from hs.storage.sync.sliding_sync import ConnectionKey, NewPositionRecord

MAX_CONNECTIONS_PER_DEVICE: Final = 16
MAX_BYTES: Final = 64 * 1024 * 1024
KEPT_FOR_MS: Final = 30 * 24 * 3600 * 1000

_ROOM_BYTES: Final = 300
_PATTERN_BYTES: Final = 100
_USUAL_PATTERNS: Final = 50
_SMALL_DELTA: Final = 32
_SEPARATOR: Final = "_c"

SentRoomChanges = Mapping[RoomID, SentRoom]


@attrs.frozen(eq=False)
class SlidingConnection:
    """One state of a connection. Number 0 is the empty state of a new connection.

    `delta` has the rooms that differ from the stored base `base_id`. `pattern_bytes` is the memory
    of the rooms' state patterns, as far as they are more than usual.
    """

    key: ConnectionKey
    number: int = 0
    rooms: Map[RoomID, SentRoom] = Map()
    base_id: int | None = None
    delta: Map[RoomID, SentRoom] = Map()
    pattern_bytes: int = attrs.field(default=0, kw_only=True)


class UnknownPos(MatrixError):
    """The position is unknown or expired; the client must start a new connection."""

    def __init__(self) -> None:
        super().__init__("M_UNKNOWN_POS", 400, "Unknown pos: start a new connection without pos")


def encode_pos(token_text: str, number: int) -> str:
    """Encode a `pos`: a sync token followed by the number of the connection's state.

    Other endpoints accept it as a sync token and ignore the number.
    """
    return f"{token_text}{_SEPARATOR}{number}"


def parse_pos(pos: str, positions: SyncPositions) -> tuple[SyncToken, int]:
    """Parse a `pos` into its sync token and state number.

    Raises: UnknownPos.
    """
    text, _, number = pos.rpartition(_SEPARATOR)
    if not (number.isascii() and number.isdecimal() and len(number) <= 18):
        raise UnknownPos
    try:
        return positions.parse(text), int(number)
    except InvalidParam:
        raise UnknownPos from None


class SlidingConnections:
    """The store of connection states."""

    def __init__(self, database: Database, clock: Clock, max_bytes: int = MAX_BYTES) -> None:
        self._database = database
        self._clock = clock
        self._cache: LruCache[int, SlidingConnection] = LruCache(
            "sliding_connections", max_weight=max_bytes, weigh=_weigh
        )

    @property
    def cache(self) -> LruCache[int, SlidingConnection]:
        """The cache, for metrics and for the cache settings."""
        return self._cache

    async def find(self, key: ConnectionKey, number: int) -> SlidingConnection:
        """Return a state of a connection, from the cache or the database.

        Raises: UnknownPos if it is not stored, or belongs to another connection.
        """
        connection = self._cache.get(number)
        if connection is None:
            connection = await self._load(key, number)
            self._cache.put(number, connection)
        if connection.key != key:
            raise UnknownPos
        return connection

    async def advance(
        self, connection: SlidingConnection, changes: SentRoomChanges
    ) -> SlidingConnection:
        """Store a new state with these changes, and return it."""
        rooms = connection.rooms.update(changes)
        delta = connection.delta.update(changes)
        base = None
        if len(delta) > max(_SMALL_DELTA, len(rooms) // 3):
            base, delta = connection_state.encode_rooms(rooms.items()), Map[RoomID, SentRoom]()
        position = NewPositionRecord(
            key=connection.key,
            previous=connection.number or None,
            base_id=connection.base_id,
            base=base,
            delta=connection_state.encode_rooms(delta.items()),
            created_ms=self._clock.now_ms(),
        )
        stored_ids = await self._store(position)
        if stored_ids is None:
            # The previous state is cached here but no longer stored. Store the new one with a base,
            # because the old base may be deleted too.
            delta = Map()
            full_base = connection_state.encode_rooms(rooms.items())
            stored_ids = await self._store(
                position._replace(
                    previous=None,
                    base=full_base,
                    delta=connection_state.encode_rooms(delta.items()),
                )
            )
            assert stored_ids is not None
        number, base_id = stored_ids
        replaced = (connection.rooms.get(room_id) for room_id in changes)
        pattern_bytes = (
            connection.pattern_bytes
            + _pattern_bytes(changes.values())
            - _pattern_bytes(sent for sent in replaced if sent is not None)
        )
        stored = SlidingConnection(
            connection.key, number, rooms, base_id, delta, pattern_bytes=pattern_bytes
        )
        self._cache.put(number, stored)
        return stored

    async def expire(self) -> None:
        """Delete connections without new states for 30 days; a duty of one process."""
        await self._database.write(sliding_sync.delete_expired, self._clock.now_ms() - KEPT_FOR_MS)

    async def _store(self, position: NewPositionRecord) -> tuple[int, int | None] | None:
        return await self._database.write(
            sliding_sync.store_position, position, MAX_CONNECTIONS_PER_DEVICE
        )

    async def _load(self, key: ConnectionKey, number: int) -> SlidingConnection:
        record = await self._database.read(sliding_sync.find_position, key, number)
        if record is None:
            raise UnknownPos
        delta = connection_state.decode_rooms(record.delta)
        base = {} if record.base is None else connection_state.decode_rooms(record.base)
        rooms = Map({**base, **delta})
        pattern_bytes = _pattern_bytes(rooms.values())
        return SlidingConnection(
            key, number, rooms, record.base_id, Map(delta), pattern_bytes=pattern_bytes
        )


def _pattern_bytes(rooms: Iterable[SentRoom]) -> int:
    # Usually many rooms share a few patterns; only unusual numbers of them matter.
    return _PATTERN_BYTES * sum(
        len(sent.required) - _USUAL_PATTERNS
        for sent in rooms
        if len(sent.required) > _USUAL_PATTERNS
    )


def _weigh(number: int, connection: SlidingConnection) -> int:
    return 1000 + len(connection.rooms) * _ROOM_BYTES + connection.pattern_bytes
