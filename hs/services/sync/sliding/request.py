"""What a client asks of sliding sync: the lists, the rooms and the extensions it wants.

Two forms are served: as clients send it today, and as it was accepted.

Spec: MSC4186.
"""

import enum
import re
from typing import Final

import attrs

from hs.core.errors import InvalidParam
from hs.core.ids import RoomID, UserID
from hs.services.sync.sliding.required_state import NOTHING, RequiredState, required_state

MAX_LISTS: Final = 100
MAX_SUBSCRIPTIONS: Final = 1000
MAX_SUBSCRIPTIONS_ACCEPTED: Final = 100
MAX_PATTERNS: Final = 500
MAX_TIMELINE: Final = 100
MAX_CONN_ID: Final = 255
EVERYWHERE: Final = "*"
_LIST_KEY: Final = re.compile(r"[0-9A-Za-z._~-]{1,255}", re.ASCII)


class Form(enum.Enum):
    """Which text of the proposal a client follows: it decides names and a few rules."""

    DEPLOYED = "deployed"
    ACCEPTED = "accepted"


@attrs.frozen
class RoomFilters:
    """Which rooms a list is of; what is None does not matter."""

    is_dm: bool | None = None
    spaces: list[str] | None = None
    is_encrypted: bool | None = None
    is_invite: bool | None = None
    room_types: list[str | None] | None = None
    not_room_types: list[str | None] | None = None
    tags: list[str] | None = None
    not_tags: list[str] | None = None


@attrs.frozen
class ListAsked:
    """A window over the rooms that pass the filters; without ranges it shows all of them."""

    timeline_limit: int = 0
    required_state: list[tuple[str, str]] = attrs.field(factory=list)
    ranges: list[tuple[int, int]] | None = None
    range: tuple[int, int] | None = None
    filters: RoomFilters | None = None
    excluded_state: list[tuple[str, str]] = attrs.field(factory=list)

    def windows(self) -> list[tuple[int, int]] | None:
        """Give the ranges, both ends included; None for all rooms."""
        if self.range is not None:
            return [self.range]
        return self.ranges


@attrs.frozen
class RoomAsked:
    """One room, asked for by its ID."""

    timeline_limit: int = 0
    required_state: list[tuple[str, str]] = attrs.field(factory=list)
    excluded_state: list[tuple[str, str]] = attrs.field(factory=list)


@attrs.frozen
class ExtensionAsked:
    """Whether an extension is wanted, and of which lists and subscribed rooms; None: of all."""

    enabled: bool | None = None
    lists: list[str] | None = None
    rooms: list[str] | None = None


@attrs.frozen
class ToDeviceAsked:
    """Whether messages to the device are wanted, behind which token, and how many."""

    enabled: bool | None = None
    since: str | None = None
    limit: int | None = None


@attrs.frozen
class ThreadsAsked:
    """Whether changes of thread subscriptions are wanted, and how many."""

    enabled: bool | None = None
    limit: int | None = None


@attrs.frozen
class ExtensionsAsked:
    """The extensions there are."""

    account_data: ExtensionAsked = ExtensionAsked()
    receipts: ExtensionAsked = ExtensionAsked()
    typing: ExtensionAsked = ExtensionAsked()
    to_device: ToDeviceAsked = ToDeviceAsked()
    e2ee: ExtensionAsked = ExtensionAsked()
    threads: ThreadsAsked = ThreadsAsked()


@attrs.frozen
class SlidingRequest:
    """One request; `pos` is None for the first of a connection."""

    conn_id: str = ""
    pos: str | None = None
    timeout_ms: int = 0
    set_presence: str = "online"
    lists: dict[str, ListAsked] = attrs.field(factory=dict)
    room_subscriptions: dict[RoomID, RoomAsked] = attrs.field(factory=dict)
    extensions: ExtensionsAsked = attrs.field(factory=ExtensionsAsked)
    form: Form = Form.DEPLOYED


@attrs.frozen
class RoomConfig:
    """What is wanted of a room: the most that any list or subscription asks of it."""

    timeline_limit: int = 0
    required: RequiredState = NOTHING

    def union(self, other: "RoomConfig") -> "RoomConfig":
        """Give what satisfies both."""
        if self == other:
            return self
        limit = max(self.timeline_limit, other.timeline_limit)
        return RoomConfig(limit, self.required.union(other.required))


def check(request: SlidingRequest) -> None:
    """Refuse what makes no sense or is too much.

    Raises: InvalidParam.
    """
    if len(request.conn_id) > MAX_CONN_ID:
        raise InvalidParam("conn_id is too long")
    if len(request.lists) > MAX_LISTS:
        raise InvalidParam(f"At most {MAX_LISTS} lists")
    accepted = request.form is Form.ACCEPTED
    most = MAX_SUBSCRIPTIONS_ACCEPTED if accepted else MAX_SUBSCRIPTIONS
    if len(request.room_subscriptions) > most:
        raise InvalidParam(f"At most {most} room subscriptions")
    for name, wanted in request.lists.items():
        if accepted and not _LIST_KEY.fullmatch(name):
            raise InvalidParam("The key of a list is not an opaque identifier")
        for start, end in wanted.windows() or ():
            if start < 0 or end < start:
                raise InvalidParam(f"A range of list {name} is not one")
    asked: list[ListAsked | RoomAsked] = list(request.lists.values())
    asked += request.room_subscriptions.values()
    for one in asked:
        if one.timeline_limit < 0:
            raise InvalidParam("timeline_limit must not be negative")
        if len(one.required_state) + len(one.excluded_state) > MAX_PATTERNS:
            raise InvalidParam(f"At most {MAX_PATTERNS} pairs in required_state")


def config_of(asked: ListAsked | RoomAsked, user_id: UserID) -> RoomConfig:
    """Read what is wanted of each room of a list, or of a subscribed one."""
    return RoomConfig(
        min(asked.timeline_limit, MAX_TIMELINE),
        required_state(asked.required_state, user_id, asked.excluded_state),
    )
