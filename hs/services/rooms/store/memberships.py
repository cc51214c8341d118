"""Who is where: the rooms of each of our users, and who is present in each room.

Both are caches that the feed keeps exact in every process. What a row of the feed brings while
an entry is being read is laid over what was read; of two facts about a room the later counts.
"""

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

import attrs
from immutables import Map

from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, ServerName, UserID
from hs.lib.caching.lru_cache import LruCache
from hs.lib.caching.single_flight import SingleFlight
from hs.repl.feed import Batch, Feed
from hs.repl.rows import CacheRow, EventRow
from hs.repl.streams import CACHES, EVENTS
from hs.services.rooms.store.room_members import Present, weigh_members
from hs.storage.database import Database
from hs.storage.rooms import memberships

CACHE_NAME: Final = "memberships"
"""`CacheRow(CACHE_NAME, (user_id, …))` has users' memberships read again, as after a forget."""

MAX_USERS: Final = 50_000
MAX_ROOM_BYTES: Final = 64 * 1024 * 1024
HEROES: Final = 5


@attrs.frozen
class LocalMembership:
    """What one of our users has to do with a room; `stream_id` is that of the member event."""

    membership: str
    event_id: EventID
    stream_id: int
    sender: UserID
    forgotten: bool = False


RoomsOf = Map[RoomID, LocalMembership]
_Change = tuple[int, UserID, str | None]


@attrs.define(eq=False)
class _Reading:
    """What the feed brought while a user's memberships are being read."""

    news: dict[RoomID, LocalMembership] = attrs.Factory(dict)
    stale: bool = False


class Memberships:
    """The memberships of all rooms, in each process."""

    def __init__(self, database: Database, feed: Feed, server_name: ServerName) -> None:
        self._database = database
        self._suffix = f":{server_name}"
        self._users: LruCache[UserID, RoomsOf] = LruCache("rooms_of_users", max_entries=MAX_USERS)
        self._rooms: LruCache[RoomID, Present] = LruCache(
            "members_of_rooms", max_weight=MAX_ROOM_BYTES, weigh=weigh_members
        )
        self._reading: dict[UserID, _Reading] = {}
        # For each room being read, one list for each reader.
        self._reading_rooms: dict[RoomID, list[list[_Change]]] = {}
        self._user_flights: SingleFlight[UserID] = SingleFlight()
        self._room_flights: SingleFlight[RoomID] = SingleFlight()
        feed.subscribe(EVENTS, self._on_events)
        feed.subscribe(CACHES, self._on_caches)

    def is_local(self, user_id: str) -> bool:
        """Tell whether a user is of this server."""
        return user_id.endswith(self._suffix)

    # Of users

    def rooms_of_nowait(self, user_id: UserID) -> RoomsOf | None:
        """Give the rooms of one of our users, if they are in memory."""
        return self._users.get(user_id)

    async def rooms_of(self, user_id: UserID) -> RoomsOf:
        """Give what one of our users has to do with each room, as of this process's feed.

        The map never changes; a later call gives another.
        """
        held = self._users.get(user_id)
        return (
            held
            if held is not None
            else await self._user_flights.run(user_id, self._read_user, user_id)
        )

    async def joined_rooms(self, user_id: UserID) -> list[RoomID]:
        """List the rooms one of our users is joined to."""
        rooms = await self.rooms_of(user_id)
        return [room_id for room_id, own in rooms.items() if own.membership == event_types.JOIN]

    async def local_membership(self, room_id: RoomID, user_id: UserID) -> LocalMembership | None:
        """Give what one of our users has to do with a room."""
        rooms = self._users.get(user_id)
        if rooms is None:
            rooms = await self.rooms_of(user_id)
        return rooms.get(room_id)

    async def membership(self, room_id: RoomID, user_id: UserID) -> str | None:
        """Give any user's membership in the room's current state."""
        if user_id.endswith(self._suffix):
            own = await self.local_membership(room_id, user_id)
            return None if own is None else own.membership
        held = self._rooms.get(room_id)
        membership = None if held is None else held.membership_of(user_id)
        if membership is not None:
            return membership
        found = await self._database.read(memberships.of_members, room_id, [user_id])
        return found.get(user_id)

    async def look_again(self, room_id: RoomID, user_id: UserID) -> LocalMembership | None:
        """Give what one of our users has to do with a room, as the database knows by now.

        Before somebody is refused, this is asked: another process may have let them in, and this
        one not have heard of it yet.
        """
        found = await self._database.read(memberships.of_members, room_id, [user_id])
        own = await self.local_membership(room_id, user_id)
        if user_id in found and (own is None or own.membership != found[user_id]):
            self._forget_user(user_id)
            own = await self.local_membership(room_id, user_id)
        return own

    async def is_joined(self, room_id: RoomID, user_id: UserID) -> bool:
        """Tell whether any user is joined to a room; a refusal is as the database knows."""
        held = self._rooms.get(room_id)
        if held is not None and user_id in held.joined:
            return True
        if await self.membership(room_id, user_id) == event_types.JOIN:
            return True
        if not self.is_local(user_id):
            return False
        own = await self.look_again(room_id, user_id)
        return own is not None and own.membership == event_types.JOIN

    async def share_room(self, user_id: UserID, other_id: UserID) -> bool:
        """Tell whether two users are joined to a room that they have in common."""
        return await self._database.read(memberships.share_room, user_id, other_id)

    # Of rooms

    def present_nowait(self, room_id: RoomID) -> Present | None:
        """Give who is in a room, if it is in memory. It lives: copy before awaiting."""
        return self._rooms.get(room_id)

    async def present(self, room_id: RoomID) -> Present:
        """Give who is in a room. It lives, as the feed goes on: copy before awaiting."""
        held = self._rooms.get(room_id)
        return (
            held
            if held is not None
            else await self._room_flights.run(room_id, self._read_room, room_id)
        )

    async def present_in(self, room_ids: Collection[RoomID]) -> dict[RoomID, Present]:
        """Give who is in each of many rooms, reading those not in memory by one statement."""
        missing = [room_id for room_id in room_ids if room_id not in self._rooms]
        read = await self._read_rooms(missing) if missing else {}
        found: dict[RoomID, Present] = {}
        for room_id in room_ids:
            held = self._rooms.get(room_id, read.get(room_id))
            found[room_id] = held if held is not None else await self.present(room_id)
        return found

    async def joined(self, room_id: RoomID) -> AbstractSet[UserID]:
        """Give the joined members of a room. It lives: copy before awaiting."""
        return (await self.present(room_id)).joined.keys()

    async def heroes(self, room_id: RoomID, user_id: UserID) -> list[UserID]:
        """Give whom a room without a name is called after, for one of its members.

        Spec: client-server API, Syncing, `m.heroes`.
        """
        heroes = (await self.present(room_id)).first_but(user_id, HEROES)
        if heroes:
            return heroes
        found = await self._database.read(memberships.gone, room_id, user_id, HEROES)
        return [UserID(one) for one in found]

    # Reading

    async def _read_user(self, user_id: UserID) -> RoomsOf:
        while True:
            reading = self._reading[user_id] = _Reading()
            try:
                records = await self._database.read(memberships.of_user, user_id)
            finally:
                del self._reading[user_id]
            if not reading.stale:
                break
        rooms: RoomsOf = Map((RoomID(one.room_id), _local(one)) for one in records)
        for room_id, news in reading.news.items():
            rooms = _with(rooms, room_id, news)
        self._users.put(user_id, rooms)
        return rooms

    async def _read_room(self, room_id: RoomID) -> Present:
        return (await self._read_rooms([room_id]))[room_id]

    async def _read_rooms(self, room_ids: Sequence[RoomID]) -> dict[RoomID, Present]:
        changes: dict[RoomID, list[_Change]] = {room_id: [] for room_id in room_ids}
        for room_id, news in changes.items():
            self._reading_rooms.setdefault(room_id, []).append(news)
        try:
            records = await self._database.read(memberships.present, room_ids)
        finally:
            for room_id, news in changes.items():
                self._stop_listening(room_id, news)
        found = {room_id: Present(self._suffix) for room_id in room_ids}
        for one in records:
            found[RoomID(one.room_id)].change(UserID(one.user_id), one.membership, one.stream_id)
        for room_id, present in found.items():
            for stream_id, user_id, membership in changes[room_id]:
                present.change(user_id, membership, stream_id)
            self._keep_room(room_id, present)
        return found

    def _stop_listening(self, room_id: RoomID, news: list[_Change]) -> None:
        listening = [one for one in self._reading_rooms[room_id] if one is not news]
        if listening:
            self._reading_rooms[room_id] = listening
        else:
            del self._reading_rooms[room_id]

    def _keep_room(self, room_id: RoomID, present: Present) -> None:
        self._rooms.pop(room_id)
        present.weighed = len(present)
        self._rooms.put(room_id, present)

    # The feed

    def _on_events(self, batch: Batch[EventRow]) -> None:
        for stream_id, row in batch.rows:
            if row.state_changes is None and row.type != event_types.MEMBER:
                continue
            for event_type, state_key, event_id, membership in row.changes():
                if event_type == event_types.MEMBER:
                    user_id = UserID(state_key)
                    self._change_room(RoomID(row.room_id), user_id, membership, stream_id)
                    if state_key.endswith(self._suffix):
                        self._change_user(user_id, stream_id, row, event_id, membership)

    def _change_room(
        self, room_id: RoomID, user_id: UserID, membership: str | None, stream_id: int
    ) -> None:
        if room_id in self._rooms:
            held = self._rooms.get(room_id)
            assert held is not None
            held.change(user_id, membership, stream_id)
            if len(held) > 2 * held.weighed:
                self._keep_room(room_id, held)
        for news in self._reading_rooms.get(room_id, ()):
            news.append((stream_id, user_id, membership))

    def _change_user(
        self,
        user_id: UserID,
        stream_id: int,
        row: EventRow,
        event_id: str | None,
        membership: str | None,
    ) -> None:
        if row.event_id != event_id or membership is None:
            # State resolution chose another event, whose sender the row does not tell.
            self._forget_user(user_id)
            return
        news = LocalMembership(membership, EventID(event_id), stream_id, UserID(row.sender))
        room_id = RoomID(row.room_id)
        held = self._users.get(user_id) if user_id in self._users else None
        if held is not None:
            self._users.put(user_id, _with(held, room_id, news))
        elif user_id in self._reading:
            self._reading[user_id].news[room_id] = news

    def _on_caches(self, batch: Batch[CacheRow]) -> None:
        if batch.reset:
            self._forget_all_users()
        for _, row in batch.rows:
            if row.cache != CACHE_NAME:
                continue
            if not row.keys:
                self._forget_all_users()
            for key in row.keys:
                self._forget_user(UserID(key))

    def _forget_user(self, user_id: UserID) -> None:
        self._users.pop(user_id)
        if user_id in self._reading:
            self._reading[user_id].stale = True

    def _forget_all_users(self) -> None:
        self._users.clear()
        for reading in self._reading.values():
            reading.stale = True


def _local(record: memberships.LocalRecord) -> LocalMembership:
    return LocalMembership(
        record.membership,
        EventID(record.event_id),
        record.stream_id,
        UserID(record.sender),
        bool(record.forgotten),
    )


def _with(rooms: RoomsOf, room_id: RoomID, news: LocalMembership) -> RoomsOf:
    known: Mapping[RoomID, LocalMembership] = rooms
    held = known.get(room_id)
    # What was read may be ahead of the feed; events of a room are numbered in order.
    if held is not None and held.stream_id >= news.stream_id:
        return rooms
    return rooms.set(room_id, news)
