"""The other servers in each room: those that have joined users there."""

from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from hs.core.events import event_types
from hs.core.ids import RoomID, ServerName
from hs.core.streams import EVENTS, EventRow
from hs.lib.caching.lru_cache import LruCache
from hs.repl.feed import Batch, Feed, Interest
from hs.repl.followers import KeyFollower
from hs.storage.database import Database, Tx
from hs.storage.rooms import room_servers

MAX_WEIGHT: Final = 500_000  # servers in rooms that are kept in memory, each room counting for more
_ROOM_WEIGHT: Final = 5

Servers = frozenset[ServerName]


class _ServerChange(NamedTuple):
    position: int
    came: tuple[ServerName, ...]
    left: tuple[ServerName, ...]


class _RoomEntry(NamedTuple):
    servers: Servers
    changed_at: int  # stream ID of the row by which a server has joined or left last


class RoomServers:
    """The other servers in rooms, in memory for rooms that were used recently.

    Rows keep it exact: a join names the server that is in the room now, and `left_servers` those
    that no longer are. What was read may be ahead of the feed, so memory tells which servers were
    in the room at an event only if none has joined or left since.
    """

    def __init__(self, database: Database, feed: Feed, server_name: ServerName) -> None:
        self._database = database
        self._server_name = server_name
        self._rooms: LruCache[RoomID, _RoomEntry] = LruCache(
            "servers_of_rooms", max_weight=MAX_WEIGHT, weigh=_weigh
        )
        self._follower = KeyFollower(self._rooms, self._read, _with_change)
        feed.subscribe(EVENTS, self._on_events, Interest.CHANGES)

    def servers_nowait(self, room_id: RoomID) -> Servers | None:
        """Return the other servers in a room if they are in memory."""
        entry = self._rooms.get(room_id)
        return None if entry is None else entry.servers

    def servers_after_nowait(self, room_id: RoomID, stream_id: int) -> Servers | None:
        """Return the other servers in a room after an event, if memory tells."""
        entry = self._rooms.get(room_id)
        return None if entry is None or stream_id < entry.changed_at else entry.servers

    async def servers_at(self, room_id: RoomID, stream_id: int) -> Servers:
        """Return the other servers in a room after an event, and those that left with it."""
        # If none has joined or left since the event before it, none has left with it.
        servers = self.servers_after_nowait(room_id, stream_id - 1)
        if servers is not None:
            return servers
        stored = await self._database.read(room_servers.servers_at, room_id, stream_id)
        return frozenset(ServerName(server) for server in stored if server != self._server_name)

    async def servers_in(self, room_id: RoomID) -> Servers:
        """Return the other servers in a room, as of this process's feed; the set never changes."""
        return (await self._follower.get(room_id)).servers

    async def servers_of_rooms(self, room_ids: Collection[RoomID]) -> dict[RoomID, Servers]:
        """Return the other servers in many rooms, reading those not in memory together."""
        entries = await self._follower.get_many(room_ids)
        return {room_id: entry.servers for room_id, entry in entries.items()}

    async def is_in_room(self, room_id: RoomID, server: ServerName) -> bool:
        """Return whether any server, also this one, is in a room, as the database has it now."""
        return await self._database.read(room_servers.is_in_room, room_id, server)

    async def was_in_room(self, room_id: RoomID, server: ServerName) -> bool:
        """Return whether a server is in a room or has left it, as the database has it now."""
        return await self._database.read(room_servers.was_in_room, room_id, server)

    async def largest_in(self, room_id: RoomID, limit: int) -> list[ServerName]:
        """Return other servers in a room, those with most members first."""
        read = room_servers.list_largest
        servers = await self._database.read(read, room_id, self._server_name, limit)
        return [ServerName(server) for server in servers]

    async def rooms_shared_with(self, server: ServerName) -> list[RoomID]:
        """List the rooms that another server shares with this one, in the order of their IDs."""
        rooms = await self._database.read(room_servers.shared_rooms, server, self._server_name)
        return [RoomID(room_id) for room_id in rooms]

    async def _read(self, room_ids: list[RoomID]) -> dict[RoomID, _RoomEntry]:
        async def read(tx: Tx) -> tuple[list[tuple[str, str]], dict[str, int]]:
            changes = await room_servers.last_changes(tx, room_ids, self._server_name)
            return await room_servers.servers_of(tx, room_ids), changes

        servers: dict[str, list[ServerName]] = {room_id: [] for room_id in room_ids}
        rows, changed_at = await self._database.read(read)
        for room_id, server in rows:
            if server != self._server_name:
                servers[room_id].append(ServerName(server))
        return {
            room_id: _RoomEntry(frozenset(servers[room_id]), changed_at.get(room_id, 0))
            for room_id in room_ids
        }

    def _on_events(self, batch: Batch[EventRow]) -> None:
        for stream_id, row in batch.rows:
            if row.state_changes is None and row.type != event_types.MEMBER:
                continue
            room_id = RoomID(row.room_id)
            if room_id in self._follower:
                change = _ServerChange(
                    stream_id,
                    tuple(self._servers_joining(row)),
                    tuple(ServerName(server) for server in row.left_servers),
                )
                self._follower.update(room_id, change)

    def _servers_joining(self, row: EventRow) -> Iterable[ServerName]:
        for event_type, state_key, _, membership in row.changes():
            if event_type == event_types.MEMBER and membership == event_types.JOIN:
                server = ServerName(state_key.partition(":")[2])
                if server != self._server_name:
                    yield server


def _with_change(entry: _RoomEntry, change: _ServerChange) -> _RoomEntry:
    servers = entry.servers
    if servers.issuperset(change.came) and servers.isdisjoint(change.left):
        return entry
    return _RoomEntry(
        servers.union(change.came).difference(change.left),
        max(entry.changed_at, change.position),
    )


def _weigh(room_id: RoomID, entry: _RoomEntry) -> int:
    return _ROOM_WEIGHT + len(entry.servers)
