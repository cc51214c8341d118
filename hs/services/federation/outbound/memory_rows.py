"""Typing notifications and presence of local users, of which the newest are sent.

Rows that arrive wait here, the newest of each room or user, until a task has found the servers that
get them. Users who go on typing are announced again, because servers forget them after a while. The
server of a user who joins a room gets the presence of its local members.

Spec: server-server API, Typing Notifications and Presence.
"""

from typing import Final

import attrs
import trio

from hs.core.events import event_types
from hs.core.ids import RoomID, ServerName, UserID, server_of
from hs.core.streams import EVENTS, PRESENCE, TYPING, EventRow, PresenceRow, TypingRow
from hs.lib.clock import Clock
from hs.repl.feed import Batch, Feed, Interest
from hs.services.ephemeral.presence_states import PresenceStates
from hs.services.ephemeral.presence_writer import OFFLINE
from hs.services.federation.outbound.destinations import Destinations
from hs.services.federation.outbound.edus import presence_part, typing_edu
from hs.services.federation.outbound.table_rows import ServersOfUsers
from hs.services.rooms.store.memberships import Memberships
from hs.services.rooms.store.room_servers import RoomServers

MAX_WAITING: Final = 10_000
"""Rooms, and users, that wait; of more, the oldest are dropped."""

MAX_MEMBERS: Final = 500
"""Local members of a room whose presence a server gets when it joins."""

TYPING_AGAIN_S: Final = 30.0

NO_USERS: Final[frozenset[UserID]] = frozenset()


@attrs.frozen(kw_only=True)
class PresenceRules:
    """Whether presence is sent, and the rooms whose servers do not get it."""

    is_sent: bool
    excluded_rooms: frozenset[RoomID]


@attrs.frozen
class _Join:
    """A user who joined a room."""

    room_id: RoomID
    user_id: UserID


class MemoryRows:
    """Queues typing notifications and presence for the servers that get them."""

    def __init__(
        self,
        rooms: RoomServers,
        sharing: ServersOfUsers,
        destinations: Destinations,
        server_name: ServerName,
        clock: Clock,
        memberships: Memberships,
        states: PresenceStates,
        presence: PresenceRules,
    ) -> None:
        self._rooms = rooms
        self._sharing = sharing
        self._destinations = destinations
        self._suffix = f":{server_name}"
        self._clock = clock
        self._memberships = memberships
        self._states = states
        self._presence_rules = presence
        self._typing: dict[RoomID, frozenset[UserID]] = {}  # users who are typing
        self._typing_writers: dict[RoomID, str] = {}  # of the same rooms
        self._sent: dict[RoomID, frozenset[UserID]] = {}  # users announced as typing
        self._rooms_waiting: dict[RoomID, None] = {}
        self._presence: dict[UserID, PresenceRow] = {}
        self._joins: dict[_Join, None] = {}
        self._arrived = trio.Event()

    def follow(self, feed: Feed) -> None:
        """Subscribe to the streams."""
        feed.subscribe(TYPING, self._on_typing)
        if self._presence_rules.is_sent:
            feed.subscribe(PRESENCE, self._on_presence)
            feed.subscribe(EVENTS, self._on_events, Interest.CHANGES)

    async def run(self) -> None:
        """Queue EDUs for the rows that arrive, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._type_again)
            while True:
                await self._arrived.wait()
                self._arrived = trio.Event()
                rooms, self._rooms_waiting = self._rooms_waiting, {}
                for room_id in rooms:
                    await self._send_typing(room_id)
                presence, self._presence = self._presence, {}
                for user_id, row in presence.items():
                    await self._send_presence(user_id, row)
                joins, self._joins = self._joins, {}
                for join in joins:
                    await self._send_presence_of_members(join)

    async def _send_typing(self, room_id: RoomID) -> None:
        servers = await self._rooms.servers_in(room_id)
        now, before = self._typing.get(room_id, NO_USERS), self._sent.pop(room_id, NO_USERS)
        if now:
            self._sent[room_id] = now
        for user_id in sorted(now ^ before):
            edu = typing_edu(room_id, user_id, user_id in now)
            self._destinations.send_edu(servers, ("typing", room_id, user_id), edu)

    async def _type_again(self) -> None:
        while True:
            await trio.sleep(TYPING_AGAIN_S)
            for room_id, users in list(self._sent.items()):
                servers = await self._rooms.servers_in(room_id)
                for user_id in users & self._typing.get(room_id, NO_USERS):
                    edu = typing_edu(room_id, user_id, is_typing=True)
                    self._destinations.send_edu(servers, ("typing", room_id, user_id), edu)

    async def _send_presence(self, user_id: UserID, row: PresenceRow) -> None:
        servers = await self._sharing.of(user_id, self._presence_rules.excluded_rooms)
        if not servers:
            return
        part = presence_part(row, self._clock.now_ms())
        if row.is_quiet:
            self._destinations.add_edu_for_later(servers, ("presence", user_id), part)
        else:
            self._destinations.send_edu(servers, ("presence", user_id), part)

    async def _send_presence_of_members(self, join: _Join) -> None:
        """Send the presence of local members to servers that have not been sent it."""
        present = await self._memberships.present(join.room_id)
        if join.user_id.endswith(self._suffix):
            members, servers = [join.user_id], await self._rooms.servers_in(join.room_id)
        else:
            members = sorted(present.local)[:MAX_MEMBERS]
            servers = frozenset((server_of(join.user_id),))
        if not servers:
            return
        for user_id, row in (await self._states.get(members)).items():
            if row.state != OFFLINE:
                part = presence_part(row, self._clock.now_ms())
                self._destinations.send_edu(servers, ("presence", user_id), part)

    def _on_events(self, batch: Batch[EventRow]) -> None:
        for _, row in batch.rows:
            if row.membership != event_types.JOIN or row.prev_membership == event_types.JOIN:
                continue
            room_id = RoomID(row.room_id)
            is_hidden = row.outlier or row.soft_failed or row.rejected
            if is_hidden or row.state_key is None or room_id in self._presence_rules.excluded_rooms:
                continue
            if self._rooms.servers_nowait(room_id) != frozenset():
                self._joins[_Join(room_id, UserID(row.state_key))] = None
                if len(self._joins) > MAX_WAITING:
                    del self._joins[next(iter(self._joins))]
                self._arrived.set()

    def _on_typing(self, batch: Batch[TypingRow]) -> None:
        if batch.reset:
            for room_id, writer in list(self._typing_writers.items()):
                if writer == batch.writer:
                    self._set_typing(room_id, NO_USERS, batch.writer)
        for _, row in batch.rows:
            users = [UserID(user_id) for user_id in row.user_ids if user_id.endswith(self._suffix)]
            self._set_typing(RoomID(row.room_id), frozenset(users), batch.writer)

    def _set_typing(self, room_id: RoomID, users: frozenset[UserID], writer: str) -> None:
        if users:
            self._typing_writers[room_id] = writer
        if users == self._typing.get(room_id, NO_USERS):
            return
        if users:
            self._typing[room_id] = users
        else:
            del self._typing[room_id], self._typing_writers[room_id]
        if self._rooms.servers_nowait(room_id) == frozenset():
            return
        self._rooms_waiting[room_id] = None
        if len(self._rooms_waiting) > MAX_WAITING:
            del self._rooms_waiting[next(iter(self._rooms_waiting))]
        self._arrived.set()

    def _on_presence(self, batch: Batch[PresenceRow]) -> None:
        for _, row in batch.rows:
            if row.user_id.endswith(self._suffix):
                user_id = UserID(row.user_id)
                self._presence.pop(user_id, None)
                self._presence[user_id] = row
                if len(self._presence) > MAX_WAITING:
                    del self._presence[next(iter(self._presence))]
                self._arrived.set()
