"""Simplified sliding sync at its stable path: all parameters are in the body, some renamed.

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
    RoomListFilters,
    RoomSubscriptionRequest,
    SlidingListRequest,
    SlidingRequest,
    SlidingSyncVariant,
)
from hs.services.sync.sliding.sliding_sync import SlidingSync

_ANY: Final = "*"
_PRESENCES: Final = ("online", "unavailable", "offline")
_LAZY_MEMBERS: Final = ("m.room.member", "$LAZY")


@attrs.frozen
class StateElement:
    """A pattern of state entries; None matches any value."""

    type: str | None = None
    state_key: str | None = None


@attrs.frozen
class StateSelection:
    """The state entries to include and to exclude."""

    include: list[StateElement] = attrs.field(factory=list)
    exclude: list[StateElement] = attrs.field(factory=list)
    lazy_members: bool = False

    def required(self) -> list[tuple[str, str]]:
        """Return the patterns of included state entries."""
        return [*_patterns(self.include), *([_LAZY_MEMBERS] if self.lazy_members else ())]

    def excluded(self) -> list[tuple[str, str]]:
        """Return the patterns of excluded state entries."""
        return _patterns(self.exclude)


@attrs.frozen
class SlidingSyncFilters:
    """The conditions for rooms in a list."""

    is_dm: bool | None = None
    spaces: list[str] | None = None
    is_encrypted: bool | None = None
    is_invited: bool | None = None
    room_types: list[str | None] | None = None
    not_room_types: list[str | None] | None = None
    tags: list[str] | None = None
    not_tags: list[str] | None = None

    def to_service(self) -> RoomListFilters:
        """Return the filters as the service takes them."""
        return RoomListFilters(
            is_dm=self.is_dm,
            spaces=self.spaces,
            is_encrypted=self.is_encrypted,
            is_invite=self.is_invited,
            room_types=self.room_types,
            not_room_types=self.not_room_types,
            tags=self.tags,
            not_tags=self.not_tags,
        )


@attrs.frozen
class SlidingSyncRoom:
    """A room subscription."""

    timeline_limit: int
    required_state: StateSelection

    def to_service(self) -> RoomSubscriptionRequest:
        """Return the subscription as the service takes it."""
        state = self.required_state
        return RoomSubscriptionRequest(self.timeline_limit, state.required(), state.excluded())


@attrs.frozen
class SlidingSyncList:
    """A list: a range of the rooms that pass the filters, and the data to return of each."""

    timeline_limit: int
    required_state: StateSelection
    range: tuple[int, int] | None = None
    filters: SlidingSyncFilters | None = None

    def to_service(self) -> SlidingListRequest:
        """Return the list as the service takes it."""
        state = self.required_state
        return SlidingListRequest(
            self.timeline_limit,
            state.required(),
            range=self.range,
            filters=None if self.filters is None else self.filters.to_service(),
            excluded_state=state.excluded(),
        )


def _presence(text: str) -> str:
    if text not in _PRESENCES:
        raise InvalidParam(f"set_presence must be one of {', '.join(_PRESENCES)}")
    return text


@attrs.frozen
class SlidingSyncRequest:
    """POST /_matrix/client/v4/sync."""

    requester: Requester
    pos: str | None = body(default=None)
    timeout: int = body(default=0)
    set_presence: str = body(default="online", parse=_presence)
    conn_id: str = body(default="")
    lists: dict[str, SlidingSyncList] = body(factory=dict)
    room_subscriptions: dict[str, SlidingSyncRoom] = body(factory=dict)
    extensions: ExtensionsBody = body(factory=ExtensionsBody)


def _is_initial(request: SlidingSyncRequest) -> bool:
    return not request.pos


@attrs.frozen
class SlidingSyncApi:
    """The endpoint of sliding sync at the stable path."""

    sliding: SlidingSync

    @route(
        "POST",
        "/_matrix/client/v4/sync",
        auth=USER_OR_GUEST,
        cancel_on_disconnect=True,
        fresh=_is_initial,
        max_body_bytes=MAX_BODY_BYTES,
    )
    async def sliding_sync(self, request: SlidingSyncRequest) -> bytes:
        """Spec: MSC4186."""
        return await self.sliding.sync(
            request.requester,
            SlidingRequest(
                conn_id=request.conn_id,
                pos=request.pos,
                timeout_ms=request.timeout,
                set_presence=request.set_presence,
                lists={
                    name: sliding_list.to_service() for name, sliding_list in request.lists.items()
                },
                room_subscriptions={
                    RoomID(room_id): room.to_service()
                    for room_id, room in request.room_subscriptions.items()
                },
                extensions=request.extensions.to_service(),
                form=SlidingSyncVariant.ACCEPTED,
            ),
        )


def _patterns(elements: Iterable[StateElement]) -> list[tuple[str, str]]:
    return [
        (
            _ANY if element.type is None else element.type,
            _ANY if element.state_key is None else element.state_key,
        )
        for element in elements
    ]
