"""The parameters of sliding sync requests, and their limits.

Two variants are supported: the unstable endpoint that clients use, and MSC4186 as accepted.

Spec: MSC4186.
"""

import enum
import re
from collections.abc import Sequence
from typing import Final

import attrs

from hs.core.errors import InvalidParam
from hs.core.ids import RoomID, UserID
from hs.services.sync.sliding.required_state import (
    NO_REQUIRED_STATE,
    RequiredState,
    parse_required_state,
)

MAX_LISTS: Final = 100
MAX_SUBSCRIPTIONS: Final = 1000
MAX_SUBSCRIPTIONS_ACCEPTED: Final = 100
MAX_PATTERNS: Final = 500
"""Different state patterns of all lists and subscriptions together."""
MAX_PAIRS: Final = 20_000
"""State patterns of all lists and subscriptions, repeated ones counted each time."""
MAX_RANGES: Final = 100
MAX_FILTER_VALUES: Final = 100
MAX_TIMELINE: Final = 100
MAX_PROFILE_FIELDS: Final = 1000
MAX_CONN_ID: Final = 255
WILDCARD: Final = "*"
_LIST_KEY: Final = re.compile(r"[0-9A-Za-z._~-]{1,255}", re.ASCII)


class SlidingSyncVariant(enum.Enum):
    """The variant of the proposal that a client uses; it decides names and a few rules."""

    DEPLOYED = "deployed"
    ACCEPTED = "accepted"


@attrs.frozen
class RoomListFilters:
    """The filters of a list. A filter that is None does not apply."""

    is_dm: bool | None = None
    spaces: list[str] | None = None
    is_encrypted: bool | None = None
    is_invite: bool | None = None
    room_types: list[str | None] | None = None
    not_room_types: list[str | None] | None = None
    tags: list[str] | None = None
    not_tags: list[str] | None = None


@attrs.frozen
class SlidingListRequest:
    """One list: ranges of the rooms that pass the filters; without ranges, all of them."""

    timeline_limit: int = 0
    required_state: list[tuple[str, str]] = attrs.field(factory=list)
    ranges: list[tuple[int, int]] | None = None
    range: tuple[int, int] | None = None
    filters: RoomListFilters | None = None
    excluded_state: list[tuple[str, str]] = attrs.field(factory=list)

    def windows(self) -> list[tuple[int, int]] | None:
        """Return the ranges, both ends inclusive; None for all rooms."""
        if self.range is not None:
            return [self.range]
        return self.ranges


@attrs.frozen
class RoomSubscriptionRequest:
    """One room subscription."""

    timeline_limit: int = 0
    required_state: list[tuple[str, str]] = attrs.field(factory=list)
    excluded_state: list[tuple[str, str]] = attrs.field(factory=list)


@attrs.frozen
class ScopedExtensionRequest:
    """Whether an extension is enabled, for which lists and subscribed rooms (None: for all)."""

    enabled: bool | None = None
    lists: list[str] | None = None
    rooms: list[str] | None = None


@attrs.frozen
class ProfileExtensionRequest:
    """Whether profiles are enabled, for which lists and rooms, and which fields (None: all)."""

    enabled: bool | None = None
    lists: list[str] | None = None
    rooms: list[str] | None = None
    fields: list[str] | None = None


@attrs.frozen
class ToDeviceExtensionRequest:
    """Whether to-device messages are enabled, after which token, and how many."""

    enabled: bool | None = None
    since: str | None = None
    limit: int | None = None


@attrs.frozen
class ThreadExtensionRequest:
    """Whether changes of thread subscriptions are enabled, and how many."""

    enabled: bool | None = None
    limit: int | None = None


@attrs.frozen
class StickyExtensionRequest:
    """Whether sticky events are enabled, after which token, and how many."""

    enabled: bool | None = None
    since: str | None = None
    limit: int | None = None


@attrs.frozen
class SlidingExtensionsRequest:
    """The requested extensions."""

    account_data: ScopedExtensionRequest = ScopedExtensionRequest()
    receipts: ScopedExtensionRequest = ScopedExtensionRequest()
    typing: ScopedExtensionRequest = ScopedExtensionRequest()
    to_device: ToDeviceExtensionRequest = ToDeviceExtensionRequest()
    e2ee: ScopedExtensionRequest = ScopedExtensionRequest()
    threads: ThreadExtensionRequest = ThreadExtensionRequest()
    profiles: ProfileExtensionRequest = ProfileExtensionRequest()
    sticky: StickyExtensionRequest = StickyExtensionRequest()


@attrs.frozen
class SlidingRequest:
    """One request; `pos` is None for the first request of a connection."""

    conn_id: str = ""
    pos: str | None = None
    timeout_ms: int = 0
    set_presence: str = "online"
    lists: dict[str, SlidingListRequest] = attrs.field(factory=dict)
    room_subscriptions: dict[RoomID, RoomSubscriptionRequest] = attrs.field(factory=dict)
    extensions: SlidingExtensionsRequest = attrs.field(factory=SlidingExtensionsRequest)
    form: SlidingSyncVariant = SlidingSyncVariant.DEPLOYED


@attrs.frozen
class RoomParameters:
    """The combined parameters for one room of all lists and subscriptions that include it."""

    timeline_limit: int = 0
    required: RequiredState = NO_REQUIRED_STATE

    def union(self, other: "RoomParameters") -> "RoomParameters":
        """Return parameters that satisfy both."""
        if self == other:
            return self
        limit = max(self.timeline_limit, other.timeline_limit)
        return RoomParameters(limit, self.required.union(other.required))


def validate_request(request: SlidingRequest) -> None:
    """Reject requests with invalid values or too many elements.

    Raises: InvalidParam.
    """
    if len(request.conn_id) > MAX_CONN_ID:
        raise InvalidParam(f"conn_id must not be longer than {MAX_CONN_ID} characters")
    if len(request.lists) > MAX_LISTS:
        raise InvalidParam(f"lists must not have more than {MAX_LISTS} entries")
    if len(request.extensions.profiles.fields or ()) > MAX_PROFILE_FIELDS:
        raise InvalidParam(
            f"fields of the profiles extension must not have more than {MAX_PROFILE_FIELDS} entries"
        )
    accepted = request.form is SlidingSyncVariant.ACCEPTED
    max_subscriptions = MAX_SUBSCRIPTIONS_ACCEPTED if accepted else MAX_SUBSCRIPTIONS
    if len(request.room_subscriptions) > max_subscriptions:
        raise InvalidParam(
            f"room_subscriptions must not have more than {max_subscriptions} entries"
        )
    for name, list_ in request.lists.items():
        if accepted and not _LIST_KEY.fullmatch(name):
            raise InvalidParam(
                "The keys of lists must be opaque identifiers of up to 255 characters"
            )
        _check_list_size(name, list_)
        for start, end in list_.windows() or ():
            if start < 0 or end < start:
                raise InvalidParam(
                    f"The ranges of list {name} must be non-negative and not end before they start"
                )
    _check_parameters([*request.lists.values(), *request.room_subscriptions.values()])


def pattern_count(request: SlidingRequest) -> int:
    """Return the number of state patterns in all lists and subscriptions."""
    return sum(map(_pairs_in, request.lists.values())) + sum(
        map(_pairs_in, request.room_subscriptions.values())
    )


def _pairs_in(parameters: SlidingListRequest | RoomSubscriptionRequest) -> int:
    return len(parameters.required_state) + len(parameters.excluded_state)


def _check_list_size(name: str, list_: SlidingListRequest) -> None:
    if len(list_.windows() or ()) > MAX_RANGES:
        raise InvalidParam(f"The list {name} must not have more than {MAX_RANGES} ranges")
    filters = list_.filters or RoomListFilters()
    for values in (
        filters.spaces,
        filters.room_types,
        filters.not_room_types,
        filters.tags,
        filters.not_tags,
    ):
        if values is not None and len(values) > MAX_FILTER_VALUES:
            raise InvalidParam(
                f"A filter of list {name} must not have more than {MAX_FILTER_VALUES} values"
            )


def _check_parameters(
    all_parameters: Sequence[SlidingListRequest | RoomSubscriptionRequest],
) -> None:
    pairs = 0
    patterns: set[tuple[str, str]] = set()
    excluded: set[tuple[str, str]] = set()
    for parameters in all_parameters:
        if parameters.timeline_limit < 0:
            raise InvalidParam("timeline_limit must not be negative")
        pairs += _pairs_in(parameters)
        if pairs > MAX_PAIRS:
            raise InvalidParam(
                f"A request must not have more than {MAX_PAIRS} required_state pairs"
            )
        patterns.update(parameters.required_state)
        excluded.update(parameters.excluded_state)
        if len(patterns) + len(excluded) > MAX_PATTERNS:
            raise InvalidParam(
                f"required_state must not have more than {MAX_PATTERNS} different pairs"
            )


def room_parameters(
    parameters: SlidingListRequest | RoomSubscriptionRequest, user_id: UserID
) -> RoomParameters:
    """Return the parameters of a list or subscription for each of its rooms."""
    return RoomParameters(
        min(parameters.timeline_limit, MAX_TIMELINE),
        parse_required_state(parameters.required_state, user_id, parameters.excluded_state),
    )
