"""Which rooms have a part in an answer, and in which of its sections.

Found from what the feed brought in memory: the cost grows with the rooms that changed, not with
those the user is in.
"""

from collections.abc import Iterator
from typing import Final

import attrs

from hs.core.events import event_types
from hs.core.ids import RoomID, UserID
from hs.core.invite_permission import Verdict
from hs.core.positions import VectorPosition
from hs.repl.feed import Feed
from hs.repl.rows import EventRow
from hs.repl.streams import EVENTS
from hs.services.rooms.read.visibility import Visibility
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.memberships import LocalMembership
from hs.services.rooms.store.recent_events import Tails
from hs.services.rooms.store.state_store import StateStore
from hs.services.rooms.store.stored_event import StoredEvent, membership_in
from hs.services.sync.invite_permissions import permission_in
from hs.services.sync.recent_changes import Recent
from hs.services.sync.sources import AccountData
from hs.services.sync.sync_context import RoomTurn, Section, Turn
from hs.storage.database import Database
from hs.storage.sync import room_changes

MAX_STEPS_BACK: Final = 100
_GONE: Final = (event_types.LEAVE, event_types.BAN)


def _members_of(row: EventRow) -> Iterator[UserID]:
    for event_type, state_key, _, _ in row.changes():
        if event_type == event_types.MEMBER:
            yield UserID(state_key)


@attrs.frozen(eq=False)
class _History:
    """A user's member events in the span of an answer, the latest first, and the one before."""

    events: list[StoredEvent]
    prior: StoredEvent | None

    def was_always_in(self) -> bool:
        joined = all(membership_in(one) == event_types.JOIN for one in self.events)
        return joined and membership_in(self.prior) == event_types.JOIN

    def was_ever_in(self) -> bool:
        return any(membership_in(one) == event_types.JOIN for one in (*self.events, self.prior))


class RoomTurns:
    """Finds the rooms of answers."""

    def __init__(
        self,
        database: Database,
        feed: Feed,
        tails: Tails,
        events: EventStore,
        states: StateStore,
        visibility: Visibility,
        account_data: AccountData,
        excluded: frozenset[RoomID],
    ) -> None:
        self._database = database
        self._tails = tails
        self._events = events
        self._states = states
        self._visibility = visibility
        self._account_data = account_data
        self._excluded = excluded
        self._moved: Recent[UserID, EventRow] = Recent(feed, EVENTS, _members_of)

    def shows(self, turn: Turn, room_id: RoomID) -> bool:
        """Tell whether a room may be shown at all."""
        return room_id not in self._excluded and turn.plan.filter.room.allows_room(room_id)

    async def everything(self, turn: Turn) -> list[RoomTurn]:
        """List the rooms of a first answer."""
        turns = []
        for room_id, held in turn.rooms.items():
            # What was read of the database may be ahead of the feed.
            is_ahead = held.stream_id > turn.events.most()
            own = await self._as_of(turn, held) if is_ahead else held
            if own is None or own.forgotten or not self.shows(turn, room_id):
                continue
            if own.membership in _GONE:
                if turn.plan.filter.room.include_leave:
                    turns.append(await self._long_gone(turn, room_id, own))
            else:
                turns.append(_first(room_id, own, Section(own.membership)))
        return await self._wanted(turn, turns)

    async def changed(self, turn: Turn) -> list[RoomTurn]:
        """List the rooms in which events arrived, or to which the user's relation changed."""
        assert turn.since is not None
        since = turn.since.events
        if turn.events is since or since.covers_all(turn.events):
            return []
        touched = await self._touched(turn, since)
        moved = self._moved_rooms(turn, since)
        turns = [
            RoomTurn(room_id, Section.JOIN, turn.rooms[room_id], since, certain=True)
            for room_id in touched
            if room_id in turn.rooms
            and room_id not in moved
            and turn.rooms[room_id].membership == event_types.JOIN
            and self.shows(turn, room_id)
        ]
        for room_id, own in moved.items():
            if not self.shows(turn, room_id):
                continue
            one = await self._moved_turn(turn, room_id, own, since)
            if one is not None:
                turns.append(one)
        return await self._wanted(turn, turns)

    async def _touched(self, turn: Turn, since: VectorPosition) -> set[RoomID]:
        touched = self._tails.rooms_since(since)
        if touched is not None:
            return touched
        found = await self._database.read(room_changes.changed_rooms, list(turn.rooms), since.floor)
        return {RoomID(room_id) for room_id in found}

    def _moved_rooms(self, turn: Turn, since: VectorPosition) -> dict[RoomID, LocalMembership]:
        if self._tails.nobody_moved_since(since) or not self._moved.touched(turn.user_id, since):
            return {}
        return {room_id: own for room_id, own in turn.rooms.items() if own.stream_id > since.floor}

    async def _moved_turn(
        self, turn: Turn, room_id: RoomID, own: LocalMembership, since: VectorPosition
    ) -> RoomTurn | None:
        history = await self._history(turn, own, since)
        if not history.events:
            # It lies in the future, or before the span: the number alone could not tell.
            membership = membership_in(history.prior)
            if membership != event_types.JOIN or history.prior is None:
                return None
            return RoomTurn(room_id, Section.JOIN, _as_own(history.prior), since, certain=True)
        own = _as_own(history.events[0])
        if own.membership == event_types.JOIN:
            return await self._joined(room_id, own, history, since)
        if own.membership in (event_types.INVITE, event_types.KNOCK):
            return _first(room_id, own, Section(own.membership))
        # Forgotten or not: other devices of the user do not know yet that they are out.
        return _left(room_id, own, history, since)

    async def _joined(
        self, room_id: RoomID, own: LocalMembership, history: _History, since: VectorPosition
    ) -> RoomTurn:
        if history.was_always_in():
            return RoomTurn(room_id, Section.JOIN, own, since, certain=True)
        after: VectorPosition | None = None
        if membership_in(history.prior) == event_types.JOIN:
            after = since
        elif history.prior is not None and await self._ended_a_stay(history.prior):
            # What came before the user left was given to the client at that time.
            after = VectorPosition(history.prior.stream_id)
        return RoomTurn(room_id, Section.JOIN, own, after, complete=True, is_new=True)

    async def _wanted(self, turn: Turn, turns: list[RoomTurn]) -> list[RoomTurn]:
        """Leave out invites that the user does not want."""
        if not any(one.section is Section.INVITE for one in turns):
            return turns
        permission = permission_in(await self._account_data.all(turn.user_id))
        return [
            one
            for one in turns
            if one.section is not Section.INVITE
            or (
                one.own.sender not in turn.ignored
                and permission.verdict(one.own.sender) is Verdict.ALLOW
            )
        ]

    async def _long_gone(self, turn: Turn, room_id: RoomID, own: LocalMembership) -> RoomTurn:
        standing = await self._visibility.standing(turn.user_id, room_id)
        return RoomTurn(
            room_id,
            Section.LEAVE,
            own,
            None,
            last=own.stream_id,
            complete=True,
            is_new=True,
            alone=standing.joined_until == 0,
        )

    async def _history(self, turn: Turn, own: LocalMembership, since: VectorPosition) -> _History:
        """Go back from event to event through the states before them."""
        events: list[StoredEvent] = []
        stored = await self._events.get_one(own.event_id)
        for _ in range(MAX_STEPS_BACK):
            if stored is None or since.covers(stored.writer, stored.stream_id):
                break
            if turn.events.covers(stored.writer, stored.stream_id):
                events.append(stored)
            stored = await self._before(stored)
        return _History(events, stored)

    async def _as_of(self, turn: Turn, own: LocalMembership) -> LocalMembership | None:
        stored = await self._events.get_one(own.event_id)
        for _ in range(MAX_STEPS_BACK):
            if stored is None or turn.events.covers(stored.writer, stored.stream_id):
                break
            stored = await self._before(stored)
        return None if stored is None else _as_own(stored)

    async def _before(self, stored: StoredEvent) -> StoredEvent | None:
        if stored.snapshot_id is None:
            return None
        key = (event_types.MEMBER, stored.event.state_key or "")
        before = await self._states.of_snapshot(stored.snapshot_id, (key,))
        return await self._events.get_one(before[key]) if key in before else None

    async def _ended_a_stay(self, stored: StoredEvent) -> bool:
        if membership_in(stored) not in _GONE:
            return False
        return membership_in(await self._before(stored)) == event_types.JOIN


def _first(room_id: RoomID, own: LocalMembership, section: Section) -> RoomTurn:
    return RoomTurn(room_id, section, own, None, complete=True, is_new=True)


def _left(
    room_id: RoomID, own: LocalMembership, history: _History, since: VectorPosition
) -> RoomTurn:
    if membership_in(history.prior) == event_types.JOIN:
        return RoomTurn(room_id, Section.LEAVE, own, since, last=own.stream_id)
    return RoomTurn(
        room_id,
        Section.LEAVE,
        own,
        None,
        last=own.stream_id,
        complete=True,
        is_new=True,
        alone=not history.was_ever_in(),
    )


def _as_own(stored: StoredEvent) -> LocalMembership:
    return LocalMembership(
        membership_in(stored), stored.event_id, stored.stream_id, stored.event.sender
    )
