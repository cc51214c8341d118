"""Selection of the rooms of a sync response, and of the section that each belongs to.

An incremental selection starts from the recent changes in memory, so its cost depends on the number
of changed rooms, not on the number of the user's rooms.

Rules:

- The user's memberships may be ahead of the response's end position, because they are read from
  the database or have followed the feed since. Membership events after the end are skipped by
  walking back, through the state before each event, to the latest one inside the response.
- The stream ID of a membership only says that it may have changed in the interval: IDs of different
  writers do not commit in order. The walk decides by vector position. It stops after
  `MAX_STEPS_BACK` events.
- A user who was joined at both ends but left in between may have missed state changes: the room is
  sent with full state.
- A room is always reported as left, even if the user has forgotten it since, because other devices
  of the user do not know yet that they left.
- Invites from ignored or blocked senders are dropped in initial and incremental responses alike.
"""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import Final

import attrs

from hs.core.events import event_types
from hs.core.ids import RoomID, UserID
from hs.core.invite_permission import InviteVerdict
from hs.core.positions import VectorPosition
from hs.core.streams import EVENTS, EventRow
from hs.repl.feed import Feed, Interest
from hs.repl.recent_keys import RecentKeys
from hs.services.accounts.account_data.account_data import AccountDataService
from hs.services.rooms.read.visibility import Visibility
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.memberships import LocalMembership, member_changes
from hs.services.rooms.store.recent_events import RecentEvents
from hs.services.rooms.store.state_store import StateStore
from hs.services.rooms.store.stored_event import StoredEvent, membership_in
from hs.services.sync.invite_permissions import invite_permission_in
from hs.services.sync.sync_context import MembershipSection, RoomSyncContext, SyncContext
from hs.storage.database import Database
from hs.storage.sync import room_changes

MAX_STEPS_BACK: Final = 100
_LEFT: Final = (event_types.LEAVE, event_types.BAN)


def _members_in(row: EventRow) -> Iterator[UserID]:
    for _, state_key, _, _ in member_changes(row):
        yield UserID(state_key)


@attrs.frozen(eq=False)
class _MembershipChanges:
    """The user's member events within a response, latest first, and the last one before them."""

    events: list[StoredEvent]
    prior: StoredEvent | None

    def was_always_joined(self) -> bool:
        joined = all(membership_in(event) == event_types.JOIN for event in self.events)
        return joined and membership_in(self.prior) == event_types.JOIN

    def was_ever_joined(self) -> bool:
        return any(membership_in(event) == event_types.JOIN for event in (*self.events, self.prior))


class RoomSelection:
    """The selector of the rooms of sync responses."""

    def __init__(
        self,
        database: Database,
        feed: Feed,
        tails: RecentEvents,
        events: EventStore,
        states: StateStore,
        visibility: Visibility,
        account_data: AccountDataService,
        excluded: frozenset[RoomID],
    ) -> None:
        self._database = database
        self._tails = tails
        self._events = events
        self._states = states
        self._visibility = visibility
        self._account_data = account_data
        self._excluded = excluded
        self._recent_member_changes: RecentKeys[UserID, EventRow] = RecentKeys(
            feed, EVENTS, _members_in, interest=Interest.CHANGES
        )

    def allows_room(self, context: SyncContext, room_id: RoomID) -> bool:
        """Return whether neither the configuration nor the filter excludes the room."""
        return room_id not in self._excluded and context.compiled_filter.filter.room.allows_room(
            room_id
        )

    async def initial(self, context: SyncContext) -> list[RoomSyncContext]:
        """Return the rooms of an initial sync."""
        room_contexts = []
        for room_id, membership in context.rooms.items():
            # Memberships read from the database may be ahead of the feed.
            is_ahead = membership.stream_id > context.events_position.floor
            own = await self._membership_at_end(context, membership) if is_ahead else membership
            if own is None or own.forgotten or not self.allows_room(context, room_id):
                continue
            if own.membership in _LEFT:
                if context.compiled_filter.filter.room.include_leave:
                    room_contexts.append(await self._left_before(context, room_id, own))
            else:
                room_contexts.append(_new_room(room_id, own, MembershipSection(own.membership)))
            await context.time_slice.yield_if_over()
        return await self._without_unwanted_invites(context, room_contexts)

    async def incremental(self, context: SyncContext) -> list[RoomSyncContext]:
        """Return the rooms with new events, and those in which the user's membership changed."""
        assert context.since is not None
        since = context.since.events
        if context.events_position is since or since.covers_all(context.events_position):
            return []
        changed = await self.rooms_with_events(context, since)
        membership_changes = self._rooms_with_membership_change(context, since)
        end = context.events_position.floor
        room_contexts = []
        for room_id in changed:
            own = context.rooms.get(room_id)
            if own is None or room_id in membership_changes:
                continue
            if own.stream_id > end:
                # It was read from the database before the feed had it.
                membership_changes[room_id] = own
            elif own.membership == event_types.JOIN and self.allows_room(context, room_id):
                room_contexts.append(
                    RoomSyncContext(room_id, MembershipSection.JOIN, own, since, always_joined=True)
                )
        if not membership_changes:
            return room_contexts
        for room_id, own in membership_changes.items():
            if not self.allows_room(context, room_id):
                continue
            room = await self._membership_change(context, room_id, own, since)
            if room is not None:
                room_contexts.append(room)
        return await self._without_unwanted_invites(context, room_contexts)

    async def rooms_with_events(
        self, context: SyncContext, since: VectorPosition
    ) -> AbstractSet[RoomID]:
        """Return the rooms with events after a position; those of others may be among them."""
        changed = self._tails.rooms_since(since)
        if changed is not None:
            return changed
        room_ids = await self._database.read(
            room_changes.changed_rooms, list(context.rooms), since.floor
        )
        return {RoomID(room_id) for room_id in room_ids}

    def _rooms_with_membership_change(
        self, context: SyncContext, since: VectorPosition
    ) -> dict[RoomID, LocalMembership]:
        if self._tails.memberships_unchanged_since(
            since
        ) or not self._recent_member_changes.touched(context.user_id, since):
            return {}
        return {
            room_id: own for room_id, own in context.rooms.items() if own.stream_id > since.floor
        }

    async def _membership_change(
        self, context: SyncContext, room_id: RoomID, own: LocalMembership, since: VectorPosition
    ) -> RoomSyncContext | None:
        changes = await self._membership_changes(context, own, since)
        if not changes.events:
            # All membership changes are before or after the interval, which the stream ID alone
            # does not show.
            membership = membership_in(changes.prior)
            if membership != event_types.JOIN or changes.prior is None:
                return None
            return RoomSyncContext(
                room_id,
                MembershipSection.JOIN,
                _as_membership(changes.prior),
                since,
                always_joined=True,
            )
        own = _as_membership(changes.events[0])
        if own.membership == event_types.JOIN:
            return await self._joined_room(room_id, own, changes, since)
        if own.membership in (event_types.INVITE, event_types.KNOCK):
            return _new_room(room_id, own, MembershipSection(own.membership))
        # Even if forgotten: other devices of the user do not know yet that they left.
        return await self._left_room(room_id, own, changes, since)

    async def _joined_room(
        self,
        room_id: RoomID,
        own: LocalMembership,
        changes: _MembershipChanges,
        since: VectorPosition,
    ) -> RoomSyncContext:
        if changes.was_always_joined():
            return RoomSyncContext(room_id, MembershipSection.JOIN, own, since, always_joined=True)
        after, follows_gap = await self._known_until(changes, since)
        return RoomSyncContext(
            room_id,
            MembershipSection.JOIN,
            own,
            after,
            needs_full_state=True,
            is_new=True,
            follows_gap=follows_gap,
        )

    async def _left_room(
        self,
        room_id: RoomID,
        own: LocalMembership,
        changes: _MembershipChanges,
        since: VectorPosition,
    ) -> RoomSyncContext:
        was_joined_before = membership_in(changes.prior) == event_types.JOIN
        after, follows_gap = await self._known_until(changes, since)
        return RoomSyncContext(
            room_id,
            MembershipSection.LEAVE,
            own,
            after,
            follows_gap=follows_gap,
            last_stream_id=own.stream_id,
            needs_full_state=not was_joined_before,
            is_new=not was_joined_before,
            never_joined=not changes.was_ever_joined(),
        )

    async def _known_until(
        self, changes: _MembershipChanges, since: VectorPosition
    ) -> tuple[VectorPosition | None, bool]:
        """Return the position up to which the client received a room's events; None if nothing.

        And return whether it lacks events before that.
        """
        prior = changes.prior
        if membership_in(prior) == event_types.JOIN:
            return since, False
        before = prior
        for step in range(MAX_STEPS_BACK):
            if before is None or membership_in(before) not in _LEFT:
                break
            before = await self._states.replaced_event(before)
            if prior is not None and membership_in(before) == event_types.JOIN:
                # The client received the events until the user left when that happened; of later
                # bans and the like only these events.
                return VectorPosition(prior.stream_id), step > 0
        return None, False

    async def _without_unwanted_invites(
        self, context: SyncContext, room_contexts: list[RoomSyncContext]
    ) -> list[RoomSyncContext]:
        """Drop invites from ignored senders and those that the invite permission forbids."""
        if not any(room.section is MembershipSection.INVITE for room in room_contexts):
            return room_contexts
        permission = invite_permission_in(await self._account_data.all(context.user_id))
        return [
            room
            for room in room_contexts
            if room.section is not MembershipSection.INVITE
            or (
                room.own.sender not in context.ignored
                and permission.verdict(room.own.sender) is InviteVerdict.ALLOW
            )
        ]

    async def _left_before(
        self, context: SyncContext, room_id: RoomID, own: LocalMembership
    ) -> RoomSyncContext:
        access = await self._visibility.access(context.user_id, room_id)
        return RoomSyncContext(
            room_id,
            MembershipSection.LEAVE,
            own,
            None,
            last_stream_id=own.stream_id,
            needs_full_state=True,
            is_new=True,
            never_joined=access.joined_until == 0,
        )

    async def _membership_changes(
        self, context: SyncContext, own: LocalMembership, since: VectorPosition
    ) -> _MembershipChanges:
        """Walk back through the user's membership events, by the state before each of them."""
        events: list[StoredEvent] = []
        stored = await self._events.get_one(own.event_id)
        for _ in range(MAX_STEPS_BACK):
            if stored is None or since.covers(stored.writer, stored.stream_id):
                break
            if context.events_position.covers(stored.writer, stored.stream_id):
                events.append(stored)
            stored = await self._states.replaced_event(stored)
        return _MembershipChanges(events, stored)

    async def _membership_at_end(
        self, context: SyncContext, own: LocalMembership
    ) -> LocalMembership | None:
        stored = await self._events.get_one(own.event_id)
        for _ in range(MAX_STEPS_BACK):
            if stored is None or context.events_position.covers(stored.writer, stored.stream_id):
                break
            stored = await self._states.replaced_event(stored)
        return None if stored is None else _as_membership(stored)


def _new_room(room_id: RoomID, own: LocalMembership, section: MembershipSection) -> RoomSyncContext:
    return RoomSyncContext(room_id, section, own, None, needs_full_state=True, is_new=True)


def _as_membership(stored: StoredEvent) -> LocalMembership:
    return LocalMembership(
        membership_in(stored), stored.event_id, stored.stream_id, stored.event.sender
    )
