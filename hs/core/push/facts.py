"""The facts about events and users that push rules may ask for."""

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

import attrs

from hs.core.auth.power_levels import PowerLevels
from hs.core.events.event import Event
from hs.core.ids import EventID, RoomID, UserID
from hs.core.property_paths import ABSENT, PropertyPath, property_at

DEFAULT_NOTIFICATION_LEVEL = 50
LARGEST_BYTES = 65_536
_NOT_OF_PDU = frozenset(("room_id", "event_id", "unsigned", "signatures", "hashes"))


class SenderPower(NamedTuple):
    """The sender's power before the event, infinite for privileged creators.

    `notification_levels` is `notifications` of the power levels, parsed.
    """

    level: float
    notification_levels: Mapping[str, int]


@attrs.frozen(eq=False)
class EventFacts:
    """Facts about one event and its room, the same for all users.

    `power` returns the sender's power: few events notify whole rooms, so few need it. It may raise.
    `subscribers` are those of the event's thread; None for events in no thread.
    """

    event_id: EventID
    room_id: RoomID
    sender: UserID
    properties: Mapping[str, Any]
    member_count: int
    power: Callable[[], SenderPower]
    subscribers: AbstractSet[UserID] | None = None
    replaced: Mapping[str, Any] | None = None
    """Content of the state event that the event replaced; for calls only."""
    size_bytes: int = LARGEST_BYTES
    """An upper bound of the length of texts in the event."""
    memo: dict[Any, bool] = attrs.field(factory=dict)
    """Answers of the conditions that do not depend on the user."""

    def at(self, path: PropertyPath) -> Any:
        """Return a property of the event, or ABSENT."""
        if path[0] in _NOT_OF_PDU:
            if path == ("room_id",):
                # The create event of room version 12 lacks it in its PDU.
                return self.room_id
            return self.event_id if path == ("event_id",) else ABSENT
        return property_at(self.properties, path)


@attrs.frozen
class UserFacts:
    """Facts about a user; the display name is that in the room."""

    user_id: UserID
    display_name: str | None = None


def facts_of(
    event: Event,
    power: Callable[[], PowerLevels],
    member_count: int,
    subscribers: AbstractSet[UserID] | None = None,
    replaced: Mapping[str, Any] | None = None,
) -> EventFacts:
    """Return the facts about an event; `power` returns the power levels before the event."""

    def sender_power() -> SenderPower:
        levels = power()
        return SenderPower(levels.of_user(event.sender), levels.notifications)

    return EventFacts(
        event_id=event.event_id,
        room_id=event.room_id,
        sender=event.sender,
        properties=event.pdu,
        member_count=member_count,
        power=sender_power,
        subscribers=subscribers,
        replaced=replaced,
        size_bytes=len(event.canonical),
    )
