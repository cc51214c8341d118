"""Who shares rooms with whom, now and compared with an earlier moment: for device lists.

What happened lately is looked up in the tails of rooms; the database is read only if somebody
came or went, or for a moment long ago.
"""

from collections.abc import Collection, Iterable
from collections.abc import Set as AbstractSet
from typing import Final

import attrs

from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.core.positions import VectorPosition
from hs.services.devices.remote_devices import MetAndParted
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.memberships import Memberships, RoomsOf
from hs.services.rooms.store.recent_events import Tails
from hs.storage.database import Database
from hs.storage.rooms import shared_rooms, timelines

NOBODY: Final = MetAndParted()


@attrs.define(eq=False)
class _Moves:
    """Whose memberships in a room were set since a moment, and by which event first."""

    first: EventID
    users: set[UserID] = attrs.Factory(set)


@attrs.frozen(eq=False)
class _Comparison:
    """What is known of a user's rooms at both moments.

    `then` tells who was joined, of those whose memberships were set since.
    """

    user_id: UserID
    rooms: RoomsOf
    moves: dict[RoomID, _Moves]
    then: dict[tuple[RoomID, UserID], bool]

    def is_in(self, room_id: RoomID) -> bool:
        own = self.rooms.get(room_id)
        return own is not None and own.membership == event_types.JOIN

    def was_in(self, room_id: RoomID) -> bool:
        return self.then.get((room_id, self.user_id), self.is_in(room_id))


@attrs.frozen(eq=False)
class RoomNeighbours:
    """The answers by memberships."""

    _database: Database
    _events: EventStore
    _memberships: Memberships
    _tails: Tails

    async def sharing(self, user_id: UserID, among: Collection[UserID]) -> AbstractSet[UserID]:
        """Give those who share a room with one of our users now."""
        others = set(among)
        found: set[UserID] = set()
        all_known = True
        for room_id in await self._memberships.joined_rooms(user_id):
            present = self._memberships.present_nowait(room_id)
            if present is None:
                all_known = False
                continue
            here = {one for one in others if one in present.joined}
            found |= here
            others -= here
            if not others:
                return found
        if not all_known:
            found |= (await self._shared_rooms(user_id, others)).keys()
        return found

    async def met_and_parted(self, user_id: UserID, since: VectorPosition) -> MetAndParted:
        """Compare who shares rooms with one of our users now with those who did."""
        if self._tails.nobody_moved_since(since):
            return NOBODY
        rooms = await self._memberships.rooms_of(user_id)
        moves = await self._moves(rooms, since)
        if not moves:
            return NOBODY
        compared = _Comparison(user_id, rooms, moves, await self._then(user_id, moves))
        concerned: set[UserID] = set()
        for room_id, moved in moves.items():
            was_in, is_in = compared.was_in(room_id), compared.is_in(room_id)
            if was_in or is_in:
                concerned |= moved.users
            if was_in != is_in:
                concerned |= await self._memberships.joined(room_id)
        concerned.discard(user_id)
        if not concerned:
            return NOBODY
        return await self._met_and_parted(compared, concerned)

    async def _met_and_parted(self, compared: _Comparison, concerned: set[UserID]) -> MetAndParted:
        shared = await self._shared_rooms(compared.user_id, concerned)
        joined = {room_id: await self._memberships.joined(room_id) for room_id in compared.moves}
        met: set[UserID] = set()
        parted: set[UserID] = set()
        for other_id in concerned:
            now = shared.get(other_id, set())
            was_sharing = any(
                compared.was_in(room_id)
                and compared.then.get(
                    (room_id, other_id),
                    other_id in joined[room_id] if room_id in joined else True,
                )
                for room_id in now | compared.moves.keys()
            )
            if now and not was_sharing:
                met.add(other_id)
            elif was_sharing and not now:
                parted.add(other_id)
        return MetAndParted(met, parted)

    async def _shared_rooms(
        self, user_id: UserID, others: Iterable[UserID]
    ) -> dict[UserID, set[RoomID]]:
        rows = await self._database.read(shared_rooms.shared_rooms, user_id, sorted(others))
        shared: dict[UserID, set[RoomID]] = {}
        for other_id, room_id in rows:
            shared.setdefault(UserID(other_id), set()).add(RoomID(room_id))
        return shared

    async def _moves(self, rooms: RoomsOf, since: VectorPosition) -> dict[RoomID, _Moves]:
        touched = self._tails.rooms_since(since)
        moves: dict[RoomID, _Moves] = {}
        unknown: list[RoomID] = []
        for room_id in rooms if touched is None else touched:
            own = rooms.get(room_id)
            if own is None:
                continue
            # Rooms that were left before are of no concern.
            if own.membership != event_types.JOIN and own.stream_id <= since.floor:
                continue
            if not self._add_from_tail(moves, room_id, since):
                unknown.append(room_id)
        if unknown:
            for one in await self._database.read(shared_rooms.moved, unknown, since.floor):
                if not since.covers(one.writer, one.stream_id):
                    _add(moves, RoomID(one.room_id), EventID(one.event_id), UserID(one.user_id))
        return moves

    def _add_from_tail(
        self, moves: dict[RoomID, _Moves], room_id: RoomID, since: VectorPosition
    ) -> bool:
        entries = self._tails.since(room_id, since)
        if entries is None:
            return False
        for entry in entries:
            for event_type, state_key, _, _ in entry.changes:
                if event_type == event_types.MEMBER:
                    _add(moves, room_id, entry.event_id, UserID(state_key))
        return True

    async def _then(
        self, user_id: UserID, moves: dict[RoomID, _Moves]
    ) -> dict[tuple[RoomID, UserID], bool]:
        firsts = await self._events.get([one.first for one in moves.values()])
        snapshots = {
            room_id: stored.snapshot_id
            for room_id, moved in moves.items()
            if (stored := firsts.get(moved.first)) is not None and stored.snapshot_id is not None
        }
        users = {user_id}.union(*(moved.users for moved in moves.values()))
        keys = [(event_types.MEMBER, str(one)) for one in sorted(users)]
        entries = await self._database.read(timelines.entries_at, set(snapshots.values()), keys)
        event_ids = {EventID(one) for held in entries.values() for one in held.values()}
        events = await self._events.get(event_ids)
        then: dict[tuple[RoomID, UserID], bool] = {}
        for room_id, moved in moves.items():
            held = entries.get(snapshots.get(room_id, -1), {})
            for one in moved.users:
                stored = events.get(EventID(held.get((event_types.MEMBER, one), "")))
                then[room_id, one] = (
                    stored is not None
                    and stored.event.content.get("membership") == event_types.JOIN
                )
        return then


def _add(moves: dict[RoomID, _Moves], room_id: RoomID, event_id: EventID, user_id: UserID) -> None:
    moves.setdefault(room_id, _Moves(event_id)).users.add(user_id)
