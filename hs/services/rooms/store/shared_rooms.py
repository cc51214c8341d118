"""Which users share rooms, now and at an earlier position: for device lists.

Membership changes since that position are taken from the recent events of rooms. The database is
read only if memberships have changed, or if the position is too old.

A user of another server who may have shared no room for a while counts as one who began to share:
this server may have missed changes that the other server did not send meanwhile.
"""

from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Final

import attrs

from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.core.positions import VectorPosition
from hs.services.devices.remote_devices import SharedRoomChanges
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.memberships import Memberships, RoomsOf
from hs.services.rooms.store.recent_events import RecentEvents
from hs.storage.database import Database
from hs.storage.rooms import shared_rooms, timelines

NO_CHANGES: Final = SharedRoomChanges()


@attrs.frozen
class _Member:
    """A member event; whether it is a join is not known (None) of events read from the database."""

    user_id: UserID
    event_id: EventID
    is_join: bool | None = None


@attrs.define(eq=False)
class _MembershipChanges:
    """The users whose membership of a room changed since the position.

    `first` is the ID of the first such member event; `joined` are the users who may have joined,
    `left` those who may have left.
    """

    first: EventID
    users: set[UserID] = attrs.Factory(set)
    joined: set[UserID] = attrs.Factory(set)
    left: set[UserID] = attrs.Factory(set)


@attrs.frozen(eq=False)
class _Comparison:
    """A user's rooms now and at the earlier position.

    `joined_before` says whether a user was joined to a room at that position, for users whose
    membership of it changed.
    """

    user_id: UserID
    rooms: RoomsOf
    changes: dict[RoomID, _MembershipChanges]
    joined_before: dict[tuple[RoomID, UserID], bool]

    def is_in(self, room_id: RoomID) -> bool:
        own = self.rooms.get(room_id)
        return own is not None and own.membership == event_types.JOIN

    def was_in(self, room_id: RoomID) -> bool:
        return self.joined_before.get((room_id, self.user_id), self.is_in(room_id))

    def came_in(self, room_id: RoomID, user_id: UserID) -> bool:
        """Return whether a user may have joined a room after the earlier position."""
        return room_id in self.changes and user_id in self.changes[room_id].joined

    def stayed_in(self, room_id: RoomID, user_id: UserID) -> bool:
        """Return whether a user who is in a room has been there since the earlier position."""
        changes = self.changes.get(room_id)
        if changes is None or user_id not in changes.users:
            return True
        return self.joined_before[room_id, user_id] and user_id not in changes.left


@attrs.frozen(eq=False)
class SharedRooms:
    """Which users share rooms, by the memberships of rooms."""

    _database: Database
    _events: EventStore
    _memberships: Memberships
    _recent_events: RecentEvents

    async def sharing(self, user_id: UserID, among: Collection[UserID]) -> AbstractSet[UserID]:
        """Return the users of `among` that share a room with a local user now."""
        remaining = set(among)
        sharing: set[UserID] = set()
        all_known = True
        for room_id in await self._memberships.joined_rooms(user_id):
            present = self._memberships.present_nowait(room_id)
            if present is None:
                all_known = False
                continue
            # The smaller of both is iterated.
            members = remaining & present.joined.keys()
            sharing |= members
            remaining -= members
            if not remaining:
                return sharing
        if not all_known:
            sharing |= (await self._shared_rooms(user_id, remaining)).keys()
        return sharing

    async def sharing_changes(self, user_id: UserID, since: VectorPosition) -> SharedRoomChanges:
        """Return the users who began or ceased to share rooms with a local user."""
        if self._recent_events.memberships_unchanged_since(since):
            return NO_CHANGES
        rooms = await self._memberships.rooms_of(user_id)
        changes = await self._membership_changes(rooms, since)
        if not changes:
            return NO_CHANGES
        comparison = _Comparison(
            user_id, rooms, changes, await self._joined_before(user_id, changes)
        )
        affected: set[UserID] = set()
        for room_id, room_changes in changes.items():
            was_in, is_in = comparison.was_in(room_id), comparison.is_in(room_id)
            came_in = comparison.came_in(room_id, user_id)
            if was_in or is_in or came_in:
                affected |= room_changes.users
            if was_in != is_in or came_in:
                affected |= await self._memberships.joined(room_id)
        affected.discard(user_id)
        if not affected:
            return NO_CHANGES
        return await self._sharing_changes(comparison, affected)

    async def _sharing_changes(
        self, comparison: _Comparison, affected: set[UserID]
    ) -> SharedRoomChanges:
        shared = await self._shared_rooms(comparison.user_id, affected)
        present = {
            room_id: await self._memberships.present(room_id) for room_id in comparison.changes
        }
        joined = {room_id: members.joined.keys() for room_id, members in present.items()}
        began: set[UserID] = set()
        ceased: set[UserID] = set()
        invited: set[UserID] = set()
        for other_id in affected:
            now = shared.get(other_id, set())
            was_sharing = any(
                comparison.was_in(room_id)
                and comparison.joined_before.get(
                    (room_id, other_id),
                    other_id in joined[room_id] if room_id in joined else True,
                )
                for room_id in now | comparison.changes.keys()
            )
            if now and not (was_sharing and self._is_up_to_date(comparison, other_id, now)):
                began.add(other_id)
            elif not now and (was_sharing or _shared_between(comparison, other_id, joined)):
                ceased.add(other_id)
            if not now and any(
                comparison.is_in(room_id)
                and other_id in changes.users
                and other_id in present[room_id].invited
                for room_id, changes in comparison.changes.items()
            ):
                invited.add(other_id)
        return SharedRoomChanges(began, ceased, invited)

    def _is_up_to_date(
        self, comparison: _Comparison, other_id: UserID, shared: AbstractSet[RoomID]
    ) -> bool:
        """Return whether this server was told of all changes of a user since the position."""
        return self._memberships.is_local(other_id) or any(
            comparison.stayed_in(room_id, comparison.user_id)
            and comparison.stayed_in(room_id, other_id)
            for room_id in shared
        )

    async def _shared_rooms(
        self, user_id: UserID, others: Iterable[UserID]
    ) -> dict[UserID, set[RoomID]]:
        rows = await self._database.read(shared_rooms.list_shared_rooms, user_id, sorted(others))
        shared: dict[UserID, set[RoomID]] = {}
        for other_id, room_id in rows:
            shared.setdefault(UserID(other_id), set()).add(RoomID(room_id))
        return shared

    async def _membership_changes(
        self, rooms: RoomsOf, since: VectorPosition
    ) -> dict[RoomID, _MembershipChanges]:
        touched = self._recent_events.rooms_since(since)
        changes: dict[RoomID, _MembershipChanges] = {}
        unknown: list[RoomID] = []
        for room_id in rooms if touched is None else touched:
            own = rooms.get(room_id)
            if own is None:
                continue
            # Rooms that the user left before the position do not matter.
            if own.membership != event_types.JOIN and own.stream_id <= since.floor:
                continue
            if not self._add_recent(changes, room_id, since):
                unknown.append(room_id)
        if unknown:
            for row in await self._database.read(
                shared_rooms.list_membership_changes, unknown, since.floor
            ):
                if not since.covers(row.writer, row.stream_id):
                    member = _Member(UserID(row.user_id), EventID(row.event_id))
                    _add(changes, RoomID(row.room_id), member)
        return changes

    def _add_recent(
        self, changes: dict[RoomID, _MembershipChanges], room_id: RoomID, since: VectorPosition
    ) -> bool:
        entries = self._recent_events.since(room_id, since)
        if entries is None:
            return False
        for entry in entries:
            for event_type, state_key, _, membership in entry.changes:
                if event_type == event_types.MEMBER:
                    is_join = membership == event_types.JOIN
                    _add(changes, room_id, _Member(UserID(state_key), entry.event_id, is_join))
        return True

    async def _joined_before(
        self, user_id: UserID, changes: dict[RoomID, _MembershipChanges]
    ) -> dict[tuple[RoomID, UserID], bool]:
        firsts = await self._events.get([room_changes.first for room_changes in changes.values()])
        snapshots = {
            room_id: stored.snapshot_id
            for room_id, room_changes in changes.items()
            if (stored := firsts.get(room_changes.first)) is not None
            and stored.snapshot_id is not None
        }
        users = {user_id}.union(*(room_changes.users for room_changes in changes.values()))
        keys = [(event_types.MEMBER, str(user_id)) for user_id in sorted(users)]
        entries = await self._database.read(timelines.entries_at, set(snapshots.values()), keys)
        event_ids = {EventID(each) for state in entries.values() for each in state.values()}
        events = await self._events.get(event_ids)
        joined_before: dict[tuple[RoomID, UserID], bool] = {}
        for room_id, room_changes in changes.items():
            state = entries.get(snapshots.get(room_id, -1), {})
            for member in room_changes.users:
                stored = events.get(EventID(state.get((event_types.MEMBER, member), "")))
                joined_before[room_id, member] = (
                    stored is not None
                    and stored.event.content.get("membership") == event_types.JOIN
                )
        return joined_before


def _shared_between(
    comparison: _Comparison, other_id: UserID, joined: Mapping[RoomID, AbstractSet[UserID]]
) -> bool:
    """Return whether both users may have been in a room together since the earlier position.

    Clients that saw the other user join have begun to track the devices. It is also True if one
    left a room before the other joined: then clients drop what they do not have.
    """
    for room_id, changes in comparison.changes.items():
        own = comparison.came_in(room_id, comparison.user_id) or comparison.was_in(room_id)
        other = other_id in changes.joined or comparison.joined_before.get(
            (room_id, other_id), other_id in joined[room_id]
        )
        if own and other:
            return True
    return False


def _add(changes: dict[RoomID, _MembershipChanges], room_id: RoomID, member: _Member) -> None:
    room_changes = changes.setdefault(room_id, _MembershipChanges(member.event_id))
    if member.is_join is not False:
        room_changes.joined.add(member.user_id)
    # It takes two events to leave and to come back.
    if member.is_join is False or (member.is_join is None and member.user_id in room_changes.users):
        room_changes.left.add(member.user_id)
    room_changes.users.add(member.user_id)
