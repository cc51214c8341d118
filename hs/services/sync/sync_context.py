"""The context that one sync response is computed from, for the request and for each room."""

import enum
from collections.abc import Set as AbstractSet
from typing import Final

import attrs

from hs.core.filters import SyncFilter
from hs.core.ids import RoomID, UserID
from hs.core.positions import VectorPosition
from hs.core.requester import Requester
from hs.core.tokens import SyncToken
from hs.lib.time_slice import TimeSlice
from hs.services.rooms.read.rendering import Viewer
from hs.services.rooms.store.memberships import LocalMembership, RoomsOf
from hs.services.sync.lazy_members import SentMember, SentMembers
from hs.services.sync.positions import SyncPosition

DEFAULT_TIMELINE_LIMIT: Final = 10

_RECEIPT: Final = "m.receipt"
_TYPING: Final = "m.typing"
_PRESENCE: Final = "m.presence"


@attrs.frozen
class SyncRequest:
    """The parameters of `/sync`.

    `filter` is the ID of a stored filter, or inline JSON. `state_after` is the name of the response
    member for the state at the end of the timeline; None requests the state at its start.
    """

    requester: Requester
    since: str | None = None
    timeout_ms: int = 0
    filter: str | None = None
    full_state: bool = False
    set_presence: str = "online"
    state_after: str | None = None


@attrs.frozen(eq=False)
class CompiledFilter:
    """A parsed filter with derived properties."""

    filter: SyncFilter
    rendering_id: int
    """The ID that all filters which render events alike have in common."""
    timeline_limit: int
    """The timeline limit, after the limit of the configuration."""
    shows_every_event: bool = attrs.field(init=False)
    shows_all_state: bool = attrs.field(init=False)
    shows_no_state: bool = attrs.field(init=False)
    shows_receipts: bool = attrs.field(init=False)
    shows_typing: bool = attrs.field(init=False)
    shows_presence: bool = attrs.field(init=False)
    needs_children: bool = attrs.field(init=False)
    shapes_events: bool = attrs.field(init=False)
    is_lazy: bool = attrs.field(init=False)
    """Whether member events are loaded lazily."""

    @shows_every_event.default
    def _shows_every_event(self) -> bool:
        return self.filter.room.timeline.allows_everything

    @shows_all_state.default
    def _shows_all_state(self) -> bool:
        return self.filter.room.state.allows_everything

    @shows_no_state.default
    def _shows_no_state(self) -> bool:
        return self.filter.room.state.allows_nothing

    @shows_receipts.default
    def _shows_receipts(self) -> bool:
        return self.filter.room.ephemeral.allows_type(_RECEIPT)

    @shows_typing.default
    def _shows_typing(self) -> bool:
        return self.filter.room.ephemeral.allows_type(_TYPING)

    @shows_presence.default
    def _shows_presence(self) -> bool:
        presence = self.filter.presence
        return not presence.allows_nothing and presence.allows_type(_PRESENCE)

    @needs_children.default
    def _needs_children(self) -> bool:
        return self.filter.room.timeline.needs_children

    @shapes_events.default
    def _shapes_events(self) -> bool:
        return self.filter.federation_format or self.filter.event_fields is not None

    @is_lazy.default
    def _is_lazy(self) -> bool:
        return self.filter.room.state.lazy_load_members


@attrs.frozen(eq=False)
class SyncContext:
    """The context of one response, for the changes after `since` up to a fixed position.

    The rooms are those of the user at, or a little after, that position.
    """

    request: SyncRequest
    compiled_filter: CompiledFilter
    since: SyncToken | None
    position: SyncPosition
    rooms: RoomsOf
    ignored: AbstractSet[UserID]
    viewer: Viewer
    sent_members: SentMembers
    added_members: list[SentMember] = attrs.Factory(list)
    """The member events that the response contains, collected while it is rendered."""
    time_slice: TimeSlice = attrs.Factory(TimeSlice)
    """The time since other tasks could last run while the response is computed."""
    user_id: UserID = attrs.field(init=False)
    events_position: VectorPosition = attrs.field(init=False)
    """The position in the events stream at which the response ends."""

    @user_id.default
    def _user_id(self) -> UserID:
        return self.request.requester.user_id

    @events_position.default
    def _events_position(self) -> VectorPosition:
        return self.position.token.events


class MembershipSection(enum.Enum):
    """The parts of the `rooms` section, by the user's membership."""

    JOIN = "join"
    INVITE = "invite"
    KNOCK = "knock"
    LEAVE = "leave"

    # The hash of enum.Enum is that of the name, and costs a call.
    __hash__ = object.__hash__


@attrs.frozen(eq=False)
class RoomSyncContext:
    """The context of one room in a response."""

    room_id: RoomID
    section: MembershipSection
    own: LocalMembership
    after: VectorPosition | None
    """The timeline starts after this position; None: it is the latest part of all events."""
    last_stream_id: int | None = None
    """The stream ID of the last event, if the user has left; None: the end of the response."""
    needs_full_state: bool = False
    """Whether the full state is sent."""
    is_new: bool = False
    """Whether the client has received nothing of the room since the user joined it."""
    always_joined: bool = False
    """Whether the user was joined during the whole range, so that all of it is visible."""
    never_joined: bool = False
    """Whether the user was never joined: the room has only the event that ended the invite."""
    follows_gap: bool = False
    """Whether the client lacks events before `after`, from while the user was not in the room."""
    has_new_count: bool = False
    """Whether the room is sent for its unread counts, if for nothing else."""

    @property
    def may_lack_history(self) -> bool:
        """Whether the room is newly joined and may have earlier history than the timeline."""
        return self.is_new and self.after is None and self.section is MembershipSection.JOIN
