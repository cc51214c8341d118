"""Simplified sliding sync, as it was accepted: all parameters in the body, and other names.

Spec: MSC4186.
"""

from collections.abc import Iterable
from typing import Final

import attrs

from hs.apis.client.sync.sliding_sync import MAX_BODY_BYTES, ExtensionsBody
from hs.apis.web.auth import USER_OR_GUEST
from hs.apis.web.request import body
from hs.apis.web.route import route
from hs.core.errors import InvalidParam
from hs.core.ids import RoomID
from hs.core.requester import Requester
from hs.services.sync.sliding.request import (
    Form,
    ListAsked,
    RoomAsked,
    RoomFilters,
    SlidingRequest,
)
from hs.services.sync.sliding.sliding_sync import SlidingSync

_ANY: Final = "*"
_PRESENCES: Final = ("online", "unavailable", "offline")
_LAZY_MEMBERS: Final = ("m.room.member", "$LAZY")


@attrs.frozen
class StateElement:
    """Entries of the state; what is not said does not matter."""

    type: str | None = None
    state_key: str | None = None


@attrs.frozen
class StateAsked:
    """Which entries of the state are wanted."""

    include: list[StateElement] = attrs.field(factory=list)
    exclude: list[StateElement] = attrs.field(factory=list)
    lazy_members: bool = False

    def required(self) -> list[tuple[str, str]]:
        """Give what is wanted as patterns."""
        return [*_patterns(self.include), *([_LAZY_MEMBERS] if self.lazy_members else ())]

    def excluded(self) -> list[tuple[str, str]]:
        """Give what is not wanted as patterns."""
        return _patterns(self.exclude)


@attrs.frozen
class Filters:
    """Which rooms a list is of."""

    is_dm: bool | None = None
    spaces: list[str] | None = None
    is_encrypted: bool | None = None
    is_invited: bool | None = None
    room_types: list[str | None] | None = None
    not_room_types: list[str | None] | None = None
    tags: list[str] | None = None
    not_tags: list[str] | None = None

    def asked(self) -> RoomFilters:
        """Give them as the service reads them."""
        return RoomFilters(
            self.is_dm,
            self.spaces,
            self.is_encrypted,
            self.is_invited,
            self.room_types,
            self.not_room_types,
            self.tags,
            self.not_tags,
        )


@attrs.frozen
class Room:
    """What is wanted of a room."""

    timeline_limit: int
    required_state: StateAsked

    def asked(self) -> RoomAsked:
        """Give it as the service reads it."""
        state = self.required_state
        return RoomAsked(self.timeline_limit, state.required(), state.excluded())


@attrs.frozen
class List:
    """A window over the rooms that pass the filters, and what is wanted of each."""

    timeline_limit: int
    required_state: StateAsked
    range: tuple[int, int] | None = None
    filters: Filters | None = None

    def asked(self) -> ListAsked:
        """Give it as the service reads it."""
        state = self.required_state
        return ListAsked(
            self.timeline_limit,
            state.required(),
            range=self.range,
            filters=None if self.filters is None else self.filters.asked(),
            excluded_state=state.excluded(),
        )


def _presence(text: str) -> str:
    if text not in _PRESENCES:
        raise InvalidParam(f"set_presence must be one of {', '.join(_PRESENCES)}")
    return text


@attrs.frozen
class Slide:
    """The windows a client looks through, and how far it has seen them."""

    requester: Requester
    pos: str | None = body(default=None)
    timeout: int = body(default=0)
    set_presence: str = body(default="online", parse=_presence)
    conn_id: str = body(default="")
    lists: dict[str, List] = body(factory=dict)
    room_subscriptions: dict[str, Room] = body(factory=dict)
    extensions: ExtensionsBody = body(factory=ExtensionsBody)


def _begins(request: Slide) -> bool:
    return not request.pos


@attrs.frozen
class AcceptedSlidingSyncApi:
    """Tells what is new in the windows."""

    sliding: SlidingSync

    @route(
        "POST",
        "/_matrix/client/v4/sync",
        auth=USER_OR_GUEST,
        waits=True,
        fresh=_begins,
        max_body_bytes=MAX_BODY_BYTES,
    )
    async def slide(self, request: Slide) -> bytes:
        """MSC4186."""
        return await self.sliding.sync(
            request.requester,
            SlidingRequest(
                conn_id=request.conn_id,
                pos=request.pos,
                timeout_ms=request.timeout,
                set_presence=request.set_presence,
                lists={name: one.asked() for name, one in request.lists.items()},
                room_subscriptions={
                    RoomID(room_id): one.asked()
                    for room_id, one in request.room_subscriptions.items()
                },
                extensions=request.extensions.asked(),
                form=Form.ACCEPTED,
            ),
        )


def _patterns(elements: Iterable[StateElement]) -> list[tuple[str, str]]:
    return [
        (
            _ANY if one.type is None else one.type,
            _ANY if one.state_key is None else one.state_key,
        )
        for one in elements
    ]
