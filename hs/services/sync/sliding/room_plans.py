"""Which rooms of the windows have something to tell, and from where on."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Final

import attrs

from hs.core.events import event_types
from hs.core.ids import RoomID
from hs.core.tokens import SyncToken
from hs.services.rooms.store.memberships import LocalMembership
from hs.services.sync.sliding.connection_state import RoomSent
from hs.services.sync.sliding.request import RoomConfig
from hs.services.sync.sliding.room_lists import Asking, Windows

INVITED: Final = (event_types.INVITE, event_types.KNOCK)
_STAYING: Final = (event_types.JOIN, *INVITED)


@attrs.frozen(eq=False)
class RoomPlan:
    """One room to be told of, from `after` on; None: the client has nothing of it."""

    room_id: RoomID
    config: RoomConfig
    own: LocalMembership
    sent: RoomSent | None
    after: SyncToken | None
    is_dm: bool

    @property
    def initial(self) -> bool:
        """Tell whether the client is to forget what it has of the room."""
        if self.sent is None:
            return True
        own, told = self.own.membership, self.sent.membership
        return own != told and own in _STAYING

    @property
    def is_stripped(self) -> bool:
        """Tell whether the user sees only what comes with an invite or knock."""
        return self.own.membership in INVITED

    @property
    def is_joined(self) -> bool:
        """Tell whether the user is in the room."""
        return self.own.membership == event_types.JOIN

    @property
    def is_alone(self) -> bool:
        """Tell whether the user sees only the event that ended their invite or knock."""
        gone = self.own.membership not in _STAYING
        return gone and self.sent is not None and self.sent.membership in INVITED

    @property
    def last(self) -> int | None:
        """Give the number of the last event that the user sees, if they are gone."""
        return None if self.own.membership in _STAYING else self.own.stream_id

    @property
    def is_expanded(self) -> bool:
        """Tell whether more of the timeline is wanted than the client has got."""
        sent = self.sent
        if sent is None or self.initial or not self.is_joined:
            return False
        return self.config.timeline_limit > sent.timeline_limit

    @property
    def is_wider(self) -> bool:
        """Tell whether state is wanted that was not asked for before."""
        sent = self.sent
        if sent is None or self.initial or not self.is_joined:
            return False
        return not sent.required.covers(self.config.required)


@attrs.frozen(eq=False)
class News:
    """What happened since the client's `pos`; `rooms` None: in any room there may be news."""

    since: SyncToken | None
    rooms: AbstractSet[RoomID] | None
    read: AbstractSet[RoomID]  # rooms where the user's own receipts moved


def plan_rooms(
    asking: Asking, windows: Windows, room_ids: Iterable[RoomID], news: News
) -> list[RoomPlan]:
    """Plan what to tell of some rooms of the windows."""
    plans = (_plan(asking, windows, room_id, news) for room_id in room_ids)
    return [plan for plan in plans if plan is not None]


def parked_rooms(asking: Asking, windows: Windows, since: SyncToken) -> dict[RoomID, RoomSent]:
    """Give the rooms that left the windows: the client has them as of its `pos`."""
    shown = windows.rooms
    return {
        room_id: attrs.evolve(sent, parked=since)
        for room_id, sent in asking.connection.rooms.items()
        if room_id not in shown and sent.parked is None and sent.membership in _STAYING
    }


def _plan(asking: Asking, windows: Windows, room_id: RoomID, news: News) -> RoomPlan | None:
    sent = asking.connection.rooms.get(room_id)
    after = None if sent is None else sent.parked or news.since
    is_dm = room_id in asking.personal.direct
    plan = RoomPlan(room_id, windows.rooms[room_id], asking.rooms[room_id], sent, after, is_dm)
    if sent is None or sent.membership != plan.own.membership or sent.is_dm != is_dm:
        return plan
    if not plan.is_joined:
        return None
    if sent.parked is not None or news.rooms is None or room_id in news.rooms:
        return plan
    return plan if room_id in news.read or plan.is_expanded or plan.is_wider else None
