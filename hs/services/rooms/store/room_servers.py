"""The other servers in each room: those that have joined users there."""

from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from hs.core.events import event_types
from hs.core.ids import RoomID, ServerName
from hs.core.streams import EVENTS, EventRow
from hs.lib.caching.lru_cache import LruCache
from hs.repl.feed import Batch, Feed
from hs.repl.followers import KeyFollower
from hs.storage.database import Database
from hs.storage.rooms import room_servers

MAX_WEIGHT: Final = 500_000  # servers in rooms that are kept in memory, each room counting for more
_ROOM_WEIGHT: Final = 5

Servers = frozenset[ServerName]


class _ServerChange(NamedTuple):
    came: tuple[ServerName, ...]
    left: tuple[ServerName, ...]


class RoomServers:
    """The other servers in rooms, in memory for rooms that were used recently.

    Rows keep it exact: a join names the server that is in the room now, and `left_servers` those
    that no longer are.
    """

    def __init__(self, database: Database, feed: Feed, server_name: ServerName) -> None:
        self._database = database
        self._server_name = server_name
        self._rooms: LruCache[RoomID, Servers] = LruCache(
            "servers_of_rooms", max_weight=MAX_WEIGHT, weigh=_weigh
        )
        self._follower = KeyFollower(self._rooms, self._read, _with_change)
        feed.subscribe(EVENTS, self._on_events)

    def servers_nowait(self, room_id: RoomID) -> Servers | None:
        """Return the other servers in a room if they are in memory."""
        return self._rooms.get(room_id)

    async def servers_in(self, room_id: RoomID) -> Servers:
        """Return the other servers in a room, as of this process's feed; the set never changes."""
        return await self._follower.get(room_id)

    async def servers_of_rooms(self, room_ids: Collection[RoomID]) -> dict[RoomID, Servers]:
        """Return the other servers in many rooms, reading those not in memory together."""
        return await self._follower.get_many(room_ids)

    async def is_in_room(self, room_id: RoomID, server: ServerName) -> bool:
        """Return whether any server, also this one, is in a room, as the database has it now."""
        return await self._database.read(room_servers.is_in_room, room_id, server)

    async def largest_in(self, room_id: RoomID, limit: int) -> list[ServerName]:
        """Return other servers in a room, those with most members first."""
        read = room_servers.list_largest
        servers = await self._database.read(read, room_id, self._server_name, limit)
        return [ServerName(server) for server in servers]

    async def rooms_shared_with(self, server: ServerName) -> list[RoomID]:
        """List the rooms that another server shares with this one, in the order of their IDs."""
        rooms = await self._database.read(room_servers.shared_rooms, server, self._server_name)
        return [RoomID(room_id) for room_id in rooms]

    async def _read(self, room_ids: list[RoomID]) -> dict[RoomID, Servers]:
        servers: dict[RoomID, list[ServerName]] = {room_id: [] for room_id in room_ids}
        for room_id, server in await self._database.read(room_servers.servers_of, room_ids):
            if server != self._server_name:
                servers[RoomID(room_id)].append(ServerName(server))
        return {room_id: frozenset(names) for room_id, names in servers.items()}

    def _on_events(self, batch: Batch[EventRow]) -> None:
        for _, row in batch.rows:
            if row.state_changes is None and row.type != event_types.MEMBER:
                continue
            room_id = RoomID(row.room_id)
            if room_id in self._follower:
                change = _ServerChange(
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


def _with_change(servers: Servers, change: _ServerChange) -> Servers:
    if servers.issuperset(change.came) and servers.isdisjoint(change.left):
        return servers
    return servers.union(change.came).difference(change.left)


def _weigh(room_id: RoomID, servers: Servers) -> int:
    return _ROOM_WEIGHT + len(servers)
