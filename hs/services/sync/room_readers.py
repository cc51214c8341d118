"""The stores and readers of rooms that sync is built on."""

import attrs

from hs.repl.feed import Feed
from hs.services.rooms.read.rendering import EventRenderer
from hs.services.rooms.read.stripped_state import StrippedState
from hs.services.rooms.read.visibility import Visibility
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.membership_history import MembershipHistory
from hs.services.rooms.store.memberships import Memberships
from hs.services.rooms.store.recent_events import RecentEvents
from hs.services.rooms.store.state_store import StateStore
from hs.services.rooms.store.sticky_events import StickyEvents
from hs.storage.database import Database


@attrs.frozen(eq=False, kw_only=True)
class RoomReaders:
    """The stores and readers of rooms that sync uses."""

    database: Database
    feed: Feed
    events: EventStore
    states: StateStore
    memberships: Memberships
    membership_history: MembershipHistory
    tails: RecentEvents
    sticky: StickyEvents
    rendering: EventRenderer
    visibility: Visibility
    stripped: StrippedState
