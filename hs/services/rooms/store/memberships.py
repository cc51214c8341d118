"""Who is where: the rooms of each local user, and the members present in each room.

Both are caches that follow the feed in every process. Of two facts about a membership the one with
the later event counts, so a row that was already read changes nothing.
"""

from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import Final

import attrs
from immutables import Map

from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, ServerName, UserID
from hs.core.streams import CACHES, EVENTS, CacheRow, EventRow, StateChange
from hs.lib.caching.lru_cache import LruCache
from hs.lib.time_slice import TimeSlice
from hs.repl.feed import Batch, Feed, Interest
from hs.repl.followers import KeyFollower
from hs.services.rooms.store.room_members import PresentMembers, weigh_members
from hs.storage.database import Database
from hs.storage.rooms import memberships, rooms

CACHE_NAME: Final = "memberships"
"""`CacheRow(CACHE_NAME, (user_id, …))` has all processes read the users' memberships again."""

MAX_USERS: Final = 50_000
MAX_ROOM_BYTES: Final = 64 * 1024 * 1024
HEROES: Final = 5
MEMBERS_AT_ONCE: Final = 1_000


@attrs.frozen
class LocalMembership:
    """The membership of a local user in a room; `stream_id` is that of the member event."""

    membership: str
    event_id: EventID
    stream_id: int
    sender: UserID
    forgotten: bool = False


RoomsOf = Map[RoomID, LocalMembership]
_MemberChange = tuple[UserID, str | None, int]  # member, membership, stream ID


def member_changes(row: EventRow) -> Iterable[StateChange]:
    """Return the changed memberships, also those of local users in rooms that we are not in."""
    if row.outside:
        return ((row.type, row.state_key or "", row.event_id, row.membership),)
    return (change for change in row.changes() if change[0] == event_types.MEMBER)


class Memberships:
    """The memberships of all rooms, in each process."""

    def __init__(self, database: Database, feed: Feed, server_name: ServerName) -> None:
        self._database = database
        self._suffix = f":{server_name}"
        self._users: LruCache[UserID, RoomsOf] = LruCache("rooms_of_users", max_entries=MAX_USERS)
        self._rooms: LruCache[RoomID, PresentMembers] = LruCache(
            "members_of_rooms", max_weight=MAX_ROOM_BYTES, weigh=weigh_members
        )
        self._user_follower = KeyFollower(self._users, self._read_users, _with_membership)
        self._room_follower = KeyFollower(
            self._rooms, self._read_rooms, _with_change, self._keep_room
        )
        feed.subscribe(EVENTS, self._on_events, Interest.CHANGES)
        feed.subscribe(CACHES, self._on_caches)

    def is_local(self, user_id: str) -> bool:
        """Return whether a user belongs to this server."""
        return user_id.endswith(self._suffix)

    # Of users

    def rooms_of_nowait(self, user_id: UserID) -> RoomsOf | None:
        """Return the memberships of a local user if they are in memory."""
        return self._users.get(user_id)

    async def rooms_of(self, user_id: UserID) -> RoomsOf:
        """Return the memberships of a local user, by room, as of this process's feed.

        The map never changes; a later call returns another.
        """
        return await self._user_follower.get(user_id)

    async def joined_rooms(self, user_id: UserID) -> list[RoomID]:
        """List the rooms that a local user is joined to."""
        rooms = await self.rooms_of(user_id)
        return [room_id for room_id, own in rooms.items() if own.membership == event_types.JOIN]

    async def local_membership(self, room_id: RoomID, user_id: UserID) -> LocalMembership | None:
        """Return the membership of a local user in a room."""
        rooms = self._users.get(user_id)
        if rooms is None:
            rooms = await self.rooms_of(user_id)
        return rooms.get(room_id)

    async def membership(self, room_id: RoomID, user_id: UserID) -> str | None:
        """Return the membership of any user in the room's current state."""
        if user_id.endswith(self._suffix):
            own = await self.local_membership(room_id, user_id)
            return None if own is None else own.membership
        present = self._rooms.get(room_id)
        membership = None if present is None else present.membership_of(user_id)
        if membership is not None:
            return membership
        found = await self._database.read(memberships.memberships_of, room_id, [user_id])
        return found.get(user_id)

    async def look_again(self, room_id: RoomID, user_id: UserID) -> LocalMembership | None:
        """Return the membership of a local user in a room, as the database has it now.

        Call this before a user is refused: the user may have joined through another process whose
        rows have not arrived here yet.
        """
        record = await self._database.read(memberships.find_of_user, room_id, user_id)
        return None if record is None else _local(record)

    async def stored_rooms_of(self, user_id: UserID) -> RoomsOf:
        """Return the memberships of a local user, by room, as the database has them now."""
        return await self._read_user(user_id)

    async def is_joined(self, room_id: RoomID, user_id: UserID) -> bool:
        """Return whether any user is joined to a room; False only if the database says so."""
        present = self._rooms.get(room_id)
        if present is not None and user_id in present.joined:
            return True
        if await self.membership(room_id, user_id) == event_types.JOIN:
            return True
        if not self.is_local(user_id):
            return False
        own = await self.look_again(room_id, user_id)
        return own is not None and own.membership == event_types.JOIN

    async def share_room(self, user_id: UserID, other_id: UserID) -> bool:
        """Return whether two users share a room."""
        return await self._database.read(memberships.share_room, user_id, other_id)

    # Of rooms

    def present_nowait(self, room_id: RoomID) -> PresentMembers | None:
        """Return the members of a room if they are in memory. They change with the feed."""
        return self._rooms.get(room_id)

    async def present(self, room_id: RoomID) -> PresentMembers:
        """Return the members of a room. They change with the feed: copy before awaiting."""
        return await self._room_follower.get(room_id)

    async def present_in(self, room_ids: Collection[RoomID]) -> dict[RoomID, PresentMembers]:
        """Return the members of many rooms, reading those not in memory by one statement."""
        return await self._room_follower.get_many(room_ids)

    async def member_counts(self, room_ids: Collection[RoomID]) -> dict[RoomID, tuple[int, int]]:
        """Return the numbers of joined and invited members of rooms, without reading the members.

        Counts that were read may be ahead of this process's feed.
        """
        counts = {
            room_id: (present.joined_count, present.invited_count)
            for room_id, present in self._rooms.get_cached(room_ids).items()
        }
        missing = [room_id for room_id in room_ids if room_id not in counts]
        if missing:
            read = await self._database.read(rooms.member_counts, missing)
            counts.update((room_id, read.get(room_id, (0, 0))) for room_id in missing)
        return counts

    async def joined(self, room_id: RoomID) -> AbstractSet[UserID]:
        """Return the joined members of a room. They change with the feed: copy before awaiting."""
        return (await self.present(room_id)).joined.keys()

    async def heroes(self, room_id: RoomID, user_id: UserID) -> list[UserID]:
        """Return the members that a room without a name is called after, as one member sees it.

        Spec: client-server API, Syncing, `m.heroes`.
        """
        heroes = (await self.present(room_id)).first_but(user_id, HEROES)
        if heroes:
            return heroes
        left = await self._database.read(memberships.list_former_members, room_id, user_id, HEROES)
        return [UserID(left_id) for left_id in left]

    # Reading

    async def _read_users(self, user_ids: list[UserID]) -> dict[UserID, RoomsOf]:
        return {user_id: await self._read_user(user_id) for user_id in user_ids}

    async def _read_user(self, user_id: UserID) -> RoomsOf:
        records = await self._database.read(memberships.list_of_user, user_id)
        return Map((RoomID(record.room_id), _local(record)) for record in records)

    async def _read_rooms(self, room_ids: list[RoomID]) -> dict[RoomID, PresentMembers]:
        records = await self._database.read(memberships.list_present_members, room_ids)
        rooms = {room_id: PresentMembers(self._suffix) for room_id in room_ids}
        remaining, time_slice = iter(records), TimeSlice()
        while part := list(islice(remaining, MEMBERS_AT_ONCE)):
            for record in part:
                present = rooms[RoomID(record.room_id)]
                present.add(UserID(record.user_id), record.membership, record.stream_id)
            await time_slice.yield_if_over()
        return rooms

    def _keep_room(self, room_id: RoomID, present: PresentMembers) -> None:
        self._rooms.pop(room_id)
        # A room that is larger than the cache would be read again for each event.
        present.weigh(at_most=self._rooms.limit // 2)
        self._rooms.put(room_id, present)

    # The feed

    def _on_events(self, batch: Batch[EventRow]) -> None:
        for stream_id, row in batch.rows:
            if row.state_changes is None and row.type != event_types.MEMBER:
                continue
            if row.outside and row.state_key is not None:
                user_id = UserID(row.state_key)
                self._change_user(user_id, stream_id, row, row.event_id, row.membership)
            for event_type, state_key, event_id, membership in row.changes():
                if event_type == event_types.MEMBER:
                    user_id = UserID(state_key)
                    change = (user_id, membership, stream_id)
                    self._change_room(RoomID(row.room_id), change)
                    if state_key.endswith(self._suffix):
                        self._change_user(user_id, stream_id, row, event_id, membership)

    def _change_room(self, room_id: RoomID, change: _MemberChange) -> None:
        present = self._room_follower.update(room_id, change)
        if present is not None and len(present) > 2 * present.weighed:
            self._keep_room(room_id, present)

    def _change_user(
        self,
        user_id: UserID,
        stream_id: int,
        row: EventRow,
        event_id: str | None,
        membership: str | None,
    ) -> None:
        if user_id not in self._user_follower:
            return
        if row.event_id != event_id or membership is None:
            # State resolution chose another event, and the row does not have its sender.
            self._user_follower.invalidate(user_id)
            return
        own = LocalMembership(membership, EventID(event_id), stream_id, UserID(row.sender))
        self._user_follower.update(user_id, (RoomID(row.room_id), own))

    def _on_caches(self, batch: Batch[CacheRow]) -> None:
        if batch.reset:
            self._user_follower.invalidate_all()
        for _, row in batch.rows:
            if row.cache != CACHE_NAME:
                continue
            if not row.keys:
                self._user_follower.invalidate_all()
            for key in row.keys:
                self._user_follower.invalidate(UserID(key))


def _local(record: memberships.LocalMembershipRecord) -> LocalMembership:
    return LocalMembership(
        record.membership,
        EventID(record.event_id),
        record.stream_id,
        UserID(record.sender),
        bool(record.forgotten),
    )


def _with_membership(rooms: RoomsOf, change: tuple[RoomID, LocalMembership]) -> RoomsOf:
    room_id, own = change
    known: Mapping[RoomID, LocalMembership] = rooms
    before = known.get(room_id)
    # What was read may be ahead of the feed; events of a room are numbered in order.
    if before is not None and before.stream_id >= own.stream_id:
        return rooms
    return rooms.set(room_id, own)


def _with_change(present: PresentMembers, change: _MemberChange) -> PresentMembers:
    present.change(*change)
    return present
