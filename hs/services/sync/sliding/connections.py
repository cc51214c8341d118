"""Connections: what each has been sent, in the database for any process, in memory for speed.

A state never changes: an answer that sends something new makes another, under a new number, and
the one before it stays for a client that comes with the same `pos` again.
"""

from collections.abc import Mapping
from typing import Final

import attrs
from immutables import Map

from hs.core.errors import InvalidParam, MatrixError
from hs.core.ids import RoomID
from hs.core.tokens import SyncToken
from hs.lib.caching.lru_cache import LruCache
from hs.lib.clock import Clock
from hs.services.sync.positions import Positions
from hs.services.sync.sliding import connection_state
from hs.services.sync.sliding.connection_state import RoomSent
from hs.storage.database import Database
from hs.storage.sync import sliding_sync
from hs.storage.sync.sliding_sync import ConnectionKey, NewPosition

MAX_CONNECTIONS_PER_DEVICE: Final = 16
MAX_BYTES: Final = 64 * 1024 * 1024
KEPT_FOR_MS: Final = 30 * 24 * 3600 * 1000

_ROOM_BYTES: Final = 300
_SMALL_DELTA: Final = 32
_SEPARATOR: Final = "_c"

Changes = Mapping[RoomID, RoomSent]


@attrs.frozen(eq=False)
class Connection:
    """One state of a connection; number 0 is that of one that was sent nothing yet.

    `delta` is what differs from the stored base `base_id`.
    """

    key: ConnectionKey
    number: int = 0
    rooms: Map[RoomID, RoomSent] = Map()
    base_id: int | None = None
    delta: Map[RoomID, RoomSent] = Map()


class UnknownPos(MatrixError):
    """The server does not know the position any more: the client must begin anew."""

    def __init__(self) -> None:
        super().__init__("M_UNKNOWN_POS", 400, "Unknown position: begin a new connection")


def pos_of(token_text: str, number: int) -> str:
    """Write a `pos`: a sync token, with the number of the connection's state behind it.

    Whoever reads sync tokens ignores the number.
    """
    return f"{token_text}{_SEPARATOR}{number}"


def read_pos(pos: str, positions: Positions) -> tuple[SyncToken, int]:
    """Read a `pos`.

    Raises: UnknownPos.
    """
    text, _, number = pos.rpartition(_SEPARATOR)
    if not (number.isascii() and number.isdecimal() and len(number) <= 18):
        raise UnknownPos
    try:
        return positions.parse(text), int(number)
    except InvalidParam:
        raise UnknownPos from None


class Connections:
    """All connections."""

    def __init__(self, database: Database, clock: Clock, max_bytes: int = MAX_BYTES) -> None:
        self._database = database
        self._clock = clock
        self._known: LruCache[int, Connection] = LruCache(
            "sliding_connections", max_weight=max_bytes, weigh=_weigh
        )

    @property
    def cache(self) -> LruCache[int, Connection]:
        """Give what metrics and settings look at."""
        return self._known

    async def find(self, key: ConnectionKey, number: int) -> Connection:
        """Give a state of a connection.

        Raises: UnknownPos.
        """
        known = self._known.get(number)
        if known is None:
            known = await self._read(key, number)
            self._known.put(number, known)
        if known.key != key:
            raise UnknownPos
        return known

    async def advance(self, connection: Connection, changes: Changes) -> Connection:
        """Store what was sent in addition to a state; give the new state."""
        rooms = connection.rooms.update(changes)
        delta = connection.delta.update(changes)
        base = None
        if len(delta) > max(_SMALL_DELTA, len(rooms) // 3):
            base, delta = connection_state.encode(rooms.items()), Map[RoomID, RoomSent]()
        new = NewPosition(
            connection.key,
            connection.number or None,
            connection.base_id,
            base,
            connection_state.encode(delta.items()),
            self._clock.now_ms(),
        )
        kept = await self._keep(new)
        if kept is None:
            # Known here only: others of the device have taken its place. It takes one again, and
            # whole, as its base is gone as well.
            delta = Map()
            whole = connection_state.encode(rooms.items())
            kept = await self._keep(
                new._replace(
                    previous=None, base=whole, delta=connection_state.encode(delta.items())
                )
            )
            assert kept is not None
        number, base_id = kept
        stored = Connection(connection.key, number, rooms, base_id, delta)
        self._known.put(number, stored)
        return stored

    async def expire(self) -> None:
        """Forget connections that were sent nothing new for long; a duty of one process."""
        await self._database.write(sliding_sync.expire, self._clock.now_ms() - KEPT_FOR_MS)

    async def _keep(self, new: NewPosition) -> tuple[int, int | None] | None:
        return await self._database.write(sliding_sync.keep, new, MAX_CONNECTIONS_PER_DEVICE)

    async def _read(self, key: ConnectionKey, number: int) -> Connection:
        record = await self._database.read(sliding_sync.find, key, number)
        if record is None:
            raise UnknownPos
        delta = connection_state.decode(record.delta)
        base = {} if record.base is None else connection_state.decode(record.base)
        rooms = Map({**base, **delta})
        return Connection(key, number, rooms, record.base_id, Map(delta))


def _weigh(number: int, connection: Connection) -> int:
    return 1000 + len(connection.rooms) * _ROOM_BYTES
