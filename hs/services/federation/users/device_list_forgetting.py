"""Forgetting of device lists of users who no longer share a room with users of this server.

Their servers send no more updates, so a list that was kept would be wrong when a room is shared
again. What ended while the process did not run is found when it starts.
"""

from collections.abc import Iterator
from typing import Final

import attrs

from hs.core.events import event_types
from hs.core.ids import RoomID, ServerName
from hs.core.streams import EVENTS, DeviceListRow, EventRow
from hs.repl.feed import Batch, Feed
from hs.repl.feed_queue import FeedQueue, WhenFull
from hs.repl.writers import StreamIds, TableWriter
from hs.services.rooms.store.room_servers import RoomServers
from hs.storage.database import Database, Tx
from hs.storage.federation import remote_devices

MAX_WAITING: Final = 10_000
AT_ONCE: Final = 500
_Rows = list[tuple[int, DeviceListRow]]


@attrs.define(eq=False)
class DeviceListForgetting:
    """The duty that deletes device lists, in the process that owns the stream `device_lists`.

    Waiting are users of other servers who left a room, and rooms that users of this server left.
    """

    _database: Database
    _feed: Feed
    _stream: TableWriter[DeviceListRow]
    _servers: RoomServers
    _server_name: ServerName
    _departures: FeedQueue[str] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._departures = FeedQueue("departures of users", MAX_WAITING, WhenFull.START_OVER)
        self._departures.follow(self._feed, EVENTS, self._departed)

    def waiting(self) -> int:
        """Return how many departures wait."""
        return self._departures.waiting

    async def run(self) -> None:
        """Forget lists for ever."""
        with self._departures.opened():
            await self.forget_all()
            await self._departures.serve(self._forget, at_most=AT_ONCE)

    async def forget_all(self) -> None:
        """Forget the lists of all users who share no room."""
        after = ""
        while users := await self._database.read(remote_devices.list_users, after, AT_ONCE):
            await self._stream.write(_forget, users, self._server_name)
            after = users[-1]

    async def _forget(self, departures: list[str]) -> None:
        users = [entry for entry in departures if entry.startswith("@")]
        if users:
            await self._stream.write(_forget, users, self._server_name)
        for room_id in departures:
            if room_id.startswith("@"):
                continue
            if not await self._servers.is_in_room(RoomID(room_id), self._server_name):
                await self.forget_all()
                return

    def _departed(self, batch: Batch[EventRow]) -> Iterator[str]:
        for _, row in batch.rows:
            if row.type != event_types.MEMBER and row.state_changes is None:
                continue
            for event_type, state_key, _, membership in row.changes():
                if event_type != event_types.MEMBER or membership == event_types.JOIN:
                    continue
                if state_key.partition(":")[2] != self._server_name:
                    yield state_key
                elif self._servers.servers_nowait(RoomID(row.room_id)) != frozenset():
                    yield row.room_id


async def _forget(
    tx: Tx, ids: StreamIds, user_ids: list[str], server_name: ServerName
) -> tuple[None, _Rows]:
    known = list(await remote_devices.find_lists(tx, user_ids))
    sharing = set(await remote_devices.users_sharing(tx, known, server_name))
    await remote_devices.delete_lists(tx, [user for user in known if user not in sharing])
    return None, []
