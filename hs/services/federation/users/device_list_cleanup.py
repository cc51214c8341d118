"""Deletion of device lists of users who no longer share a room with users of this server.

Their servers send no more updates, so a list that was kept would be wrong when a room is shared
again. So would be the list of a user who left and came back before it was deleted: of the rooms of
a user who left a room, only those count that the user joined before that. Lists of users who left
while the process did not run, or did not own the lists of their server, are deleted when it starts,
or comes to own them.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

import attrs

from hs.core.events import event_types
from hs.core.ids import RoomID, ServerName, UserID, server_of
from hs.core.streams import EVENTS, DeviceListRow, EventRow
from hs.repl.feed import Batch, Feed, Interest
from hs.repl.feed_queue import FeedQueue, WhenFull
from hs.repl.sharding import KeyGuard, unguarded
from hs.repl.slots.table import Matches
from hs.repl.writers import StreamIds, TableWriter
from hs.services.rooms.store.room_servers import RoomServers
from hs.storage.database import Database, Tx
from hs.storage.federation import remote_devices

MAX_WAITING: Final = 10_000
AT_ONCE: Final = 500
_Rows = list[tuple[int, DeviceListRow]]


class _Departure(NamedTuple):
    """A user of another server who left a room, or a room that a user of this server left."""

    left: str
    position: int


_GAINED: Final = _Departure("", 0)
"""Put into the queue when this process has come to own the lists of other servers."""


@attrs.define(eq=False)
class DeviceListCleanup:
    """The duty that deletes device lists, in each process that owns the lists of some servers."""

    _database: Database
    _feed: Feed
    _stream: TableWriter[DeviceListRow]
    _servers: RoomServers
    _server_name: ServerName
    _owns: Callable[[str], bool]
    _guard: KeyGuard = unguarded
    _gained: list[Matches] = attrs.field(factory=list, init=False)
    _departures: FeedQueue[_Departure] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._departures = FeedQueue("departures of users", MAX_WAITING, WhenFull.START_OVER)
        self._departures.follow(self._feed, EVENTS, self._departed, Interest.CHANGES)

    def waiting(self) -> int:
        """Return the number of departures that wait."""
        return self._departures.waiting

    def gain(self, matches: Matches) -> None:
        """Look at the lists of servers that this process has come to own."""
        self._gained.append(matches)
        self._departures.put(_GAINED)

    async def run(self) -> None:
        """Delete lists for ever."""
        with self._departures.opened():
            await self.delete_all_unshared()
            await self._departures.serve(self._delete_lists_of, at_most=AT_ONCE)

    async def delete_all_unshared(self) -> None:
        """Delete the lists of all users who share no room."""
        self._gained.clear()
        await self._delete_unshared_of(lambda server: True)

    async def _delete_gained(self) -> None:
        gained = self._gained.copy()
        await self._delete_unshared_of(lambda server: any(matches(server) for matches in gained))
        del self._gained[: len(gained)]

    async def _delete_unshared_of(self, is_wanted: Matches) -> None:
        after = ""
        while users := await self._database.read(remote_devices.list_users, after, AT_ONCE):
            after = users[-1]
            wanted = [user_id for user_id in users if is_wanted(server_of(UserID(user_id)))]
            await self._delete(wanted, remote_devices.ANY_TIME)

    async def _delete(self, users: Iterable[str], before: int) -> None:
        servers = {user_id: server_of(UserID(user_id)) for user_id in users}
        own = [user_id for user_id, server in servers.items() if self._owns(server)]
        if own:
            with self._guard(servers[user_id] for user_id in own):
                await self._stream.write(_delete_unshared, own, self._server_name, before)

    async def _delete_lists_of(self, departures: list[_Departure]) -> None:
        users = {each.left: each.position for each in departures if each.left.startswith("@")}
        if users:
            await self._delete(users, min(users.values()))
        if _GAINED in departures:
            await self._delete_gained()
        for departure in departures:
            if departure.left.startswith("@") or departure == _GAINED:
                continue
            if not await self._servers.is_in_room(RoomID(departure.left), self._server_name):
                await self.delete_all_unshared()
                return

    def _departed(self, batch: Batch[EventRow]) -> Iterator[_Departure]:
        for position, row in batch.rows:
            if row.type != event_types.MEMBER and row.state_changes is None:
                continue
            for event_type, state_key, _, membership in row.changes():
                if event_type != event_types.MEMBER or membership == event_types.JOIN:
                    continue
                server = state_key.partition(":")[2]
                if server != self._server_name:
                    if self._owns(server):
                        yield _Departure(state_key, position)
                elif self._servers.servers_nowait(RoomID(row.room_id)) != frozenset():
                    yield _Departure(row.room_id, position)


async def _delete_unshared(
    tx: Tx, ids: StreamIds, user_ids: list[str], server_name: ServerName, before: int
) -> tuple[None, _Rows]:
    """Delete the lists of users who share no room that they joined before a position."""
    known = list(await remote_devices.find_lists(tx, user_ids))
    sharing = set(await remote_devices.users_sharing(tx, known, server_name, before))
    await remote_devices.delete_lists(tx, [user for user in known if user not in sharing])
    return None, []
