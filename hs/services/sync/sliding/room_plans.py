"""The requested rooms that have changes to send, and the position each continues from."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Final

import attrs

from hs.core.events import event_types
from hs.core.ids import RoomID
from hs.core.tokens import SyncToken
from hs.services.rooms.store.memberships import LocalMembership
from hs.services.sync.sliding.connection_state import SentRoom
from hs.services.sync.sliding.request import RoomParameters
from hs.services.sync.sliding.requested_rooms import RequestedRooms, SlidingSyncContext

NOT_YET_JOINED: Final = (event_types.INVITE, event_types.KNOCK)
_PRESENT: Final = (event_types.JOIN, *NOT_YET_JOINED)


@attrs.frozen(eq=False)
class RoomPlan:
    """One room to send, from the token `after`; None if the client has nothing of the room."""

    room_id: RoomID
    config: RoomParameters
    own: LocalMembership
    sent: SentRoom | None
    after: SyncToken | None
    is_dm: bool

    @property
    def initial(self) -> bool:
        """Whether the client must discard what it has of the room."""
        if self.sent is None:
            return True
        own, sent_membership = self.own.membership, self.sent.membership
        return own != sent_membership and own in _PRESENT

    @property
    def is_stripped(self) -> bool:
        """Whether the user sees only the stripped state of an invite or knock."""
        return self.own.membership in NOT_YET_JOINED

    @property
    def is_joined(self) -> bool:
        """Whether the user is joined to the room."""
        return self.own.membership == event_types.JOIN

    @property
    def is_ended_invite(self) -> bool:
        """Whether the user sees only the event that ended their invite or knock."""
        has_left = self.own.membership not in _PRESENT
        return has_left and self.sent is not None and self.sent.membership in NOT_YET_JOINED

    @property
    def last_stream_id(self) -> int | None:
        """The stream ID of the last event that the user sees, if they are no longer in the room."""
        return None if self.own.membership in _PRESENT else self.own.stream_id

    @property
    def is_expanded(self) -> bool:
        """Whether the request has a higher timeline limit than the client was sent."""
        sent = self.sent
        if sent is None or self.initial or not self.is_joined:
            return False
        return self.config.timeline_limit > sent.timeline_limit

    @property
    def has_more_state(self) -> bool:
        """Whether the request selects state that it did not select before."""
        sent = self.sent
        if sent is None or self.initial or not self.is_joined:
            return False
        return not sent.required.covers(self.config.required)


@attrs.frozen(eq=False)
class ChangesSincePos:
    """The changes since the client's `pos`."""

    since: SyncToken | None
    rooms: AbstractSet[RoomID] | None
    """The rooms with new events; None: any room may have some."""
    read: AbstractSet[RoomID]
    """The rooms in which the user's own receipts moved, or whose counts were evaluated late."""


def plan_rooms(
    context: SlidingSyncContext,
    requested: RequestedRooms,
    room_ids: Iterable[RoomID],
    changes: ChangesSincePos,
) -> list[RoomPlan]:
    """Return plans for those of the given requested rooms that may have changes to send."""
    plans = (_plan(context, requested, room_id, changes) for room_id in room_ids)
    return [plan for plan in plans if plan is not None]


def no_longer_requested(
    context: SlidingSyncContext, requested: RequestedRooms, since: SyncToken
) -> dict[RoomID, SentRoom]:
    """Return new records of rooms that are no longer requested: they were sent up to `pos`."""
    shown = requested.rooms
    return {
        room_id: attrs.evolve(sent, sent_until=since)
        for room_id, sent in context.connection.rooms.items()
        if room_id not in shown and sent.sent_until is None and sent.membership in _PRESENT
    }


def _plan(
    context: SlidingSyncContext,
    requested: RequestedRooms,
    room_id: RoomID,
    changes: ChangesSincePos,
) -> RoomPlan | None:
    sent = context.connection.rooms.get(room_id)
    after = None if sent is None else sent.sent_until or changes.since
    is_dm = room_id in context.account_data.direct
    plan = RoomPlan(
        room_id=room_id,
        config=requested.rooms[room_id],
        own=context.rooms[room_id],
        sent=sent,
        after=after,
        is_dm=is_dm,
    )
    if sent is None or sent.membership != plan.own.membership or sent.is_dm != is_dm:
        return plan
    if not plan.is_joined:
        return None
    if sent.sent_until is not None or changes.rooms is None or room_id in changes.rooms:
        return plan
    return plan if room_id in changes.read or plan.is_expanded or plan.has_more_state else None
