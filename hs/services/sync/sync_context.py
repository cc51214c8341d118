"""One answer in the making: who asks, from where to where, and which rooms have a part in it."""

import enum
from collections.abc import Set as AbstractSet
from typing import Final

import attrs

from hs.core.filters import SyncFilter
from hs.core.ids import RoomID, UserID
from hs.core.positions import VectorPosition
from hs.core.requester import Requester
from hs.core.tokens import SyncToken
from hs.services.rooms.read.rendering import Viewer
from hs.services.rooms.store.memberships import LocalMembership, RoomsOf
from hs.services.sync.lazy_members import Member, SentMembers
from hs.services.sync.positions import Moment

DEFAULT_LIMIT: Final = 10


@attrs.frozen
class SyncRequest:
    """What a client asks of /sync.

    `filter` is the ID of a stored filter, or a filter as JSON. `state_after` is the name of the
    answer's member for the state at the end of the timeline; None: the state at its start.
    """

    requester: Requester
    since: str | None = None
    timeout_ms: int = 0
    filter: str | None = None
    full_state: bool = False
    set_presence: str = "online"
    state_after: str | None = None


@attrs.frozen(eq=False)
class Plan:
    """A filter, with the number that equal ways of showing rooms have in common."""

    filter: SyncFilter
    look: int
    limit: int
    shows_every_event: bool = attrs.field(init=False)
    shows_all_state: bool = attrs.field(init=False)
    shapes_events: bool = attrs.field(init=False)

    @shows_every_event.default
    def _ask_timeline(self) -> bool:
        return self.filter.room.timeline.allows_everything

    @shows_all_state.default
    def _ask_state(self) -> bool:
        return self.filter.room.state.allows_everything

    @shapes_events.default
    def _ask_shape(self) -> bool:
        return self.filter.federation_format or self.filter.event_fields is not None

    @property
    def is_lazy(self) -> bool:
        """Tell whether members are to be loaded lazily."""
        return self.filter.room.state.lazy_load_members


@attrs.frozen(eq=False)
class Turn:
    """The making of one answer for what happened in `(since, moment]`; `rooms` as of the moment.

    `brought` collects the member events that the answer brings to the device.
    """

    request: SyncRequest
    plan: Plan
    since: SyncToken | None
    moment: Moment
    rooms: RoomsOf
    ignored: AbstractSet[UserID]
    viewer: Viewer
    sent: SentMembers
    brought: list[Member] = attrs.Factory(list)

    @property
    def user_id(self) -> UserID:
        """Give who asks."""
        return self.request.requester.user_id

    @property
    def events(self) -> VectorPosition:
        """Give how far the events go that belong into the answer."""
        return self.moment.token.events


class Section(enum.Enum):
    """The sections of the answer that a room may be in."""

    JOIN = "join"
    INVITE = "invite"
    KNOCK = "knock"
    LEAVE = "leave"


@attrs.frozen(eq=False)
class RoomTurn:
    """One room's part in an answer.

    The timeline shows what came behind `after` (None: the end of all there is), up to the number
    `last` if the user is gone. `complete`: the whole state is given. `is_new`: the client has
    nothing of the room yet. `certain`: the user was joined all along. `alone`: the user never
    was in the room, so that there is only the event that ended the invite.
    """

    room_id: RoomID
    section: Section
    own: LocalMembership
    after: VectorPosition | None
    last: int | None = None
    complete: bool = False
    is_new: bool = False
    certain: bool = False
    alone: bool = False

    @property
    def starts_late(self) -> bool:
        """Tell whether a joined room's history begins before all that clients were given of it."""
        return self.is_new and self.after is None and self.section is Section.JOIN
