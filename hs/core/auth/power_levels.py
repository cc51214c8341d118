"""The power levels of a room, parsed once from its state.

Spec: client-server API, m.room.power_levels; rooms/v1, power levels as strings and floats.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import attrs

from hs.core.events import types
from hs.core.events.event import Event
from hs.core.versions import RoomVersion

# Above the range of canonical JSON, so that no level in a room of version 12 reaches it.
INFINITE_POWER = 2**63

# The properties with a single level, and their values if the property or the event is absent.
DEFAULT_LEVELS: Mapping[str, int] = {
    "users_default": 0,
    "events_default": 0,
    "state_default": 50,
    "ban": 50,
    "redact": 50,
    "kick": 50,
    "invite": 0,
}

_INTEGER_TEXT = re.compile(r"\s*[+-]?[0-9]{1,300}\s*", re.ASCII)
_CREATOR_WITHOUT_LEVELS = 100


def read_level(value: object, rules: RoomVersion) -> int | None:
    """Return a level as an integer, or None if the room version does not accept the value."""
    if type(value) is int:
        return value
    if rules.integer_power_levels:
        return None
    if isinstance(value, float) and math.isfinite(value):
        return int(value)
    if isinstance(value, str) and _INTEGER_TEXT.fullmatch(value):
        return int(value)
    return None


def creators_of(create: Event) -> frozenset[str]:
    """Return the creators of a room, which include `additional_creators` from version 12 on."""
    if not create.rules.implicit_creator:
        creator = create.content.get("creator")
        return frozenset({creator}) if isinstance(creator, str) else frozenset()
    if not create.rules.privileged_creators:
        return frozenset({create.sender})
    additional = create.content.get("additional_creators")
    listed = additional if isinstance(additional, list) else []
    return frozenset({create.sender, *(user_id for user_id in listed if isinstance(user_id, str))})


@attrs.frozen(slots=True, eq=False)
class PowerLevels:
    """The power levels of a room's users, and the levels required for actions and event types.

    `creators` are the users with infinite power; empty before room version 12.
    """

    users: Mapping[str, int]
    events: Mapping[str, int]
    notifications: Mapping[str, int]
    users_default: int
    events_default: int
    state_default: int
    ban: int
    redact: int
    kick: int
    invite: int
    creators: frozenset[str]

    @classmethod
    def of(cls, event: Event | None, create: Event, rules: RoomVersion) -> "PowerLevels":
        """Return the power levels of a room; `event` is its `m.room.power_levels`, if any."""
        creators = creators_of(create)
        privileged = creators if rules.privileged_creators else frozenset[str]()
        if event is None:
            users = {} if privileged else dict.fromkeys(creators, _CREATOR_WITHOUT_LEVELS)
            return cls(users, {}, {}, creators=privileged, **DEFAULT_LEVELS)
        return cls.of_content(event.content, rules, privileged)

    @classmethod
    def of_content(
        cls,
        content: Mapping[str, Any],
        rules: RoomVersion,
        creators: frozenset[str] = frozenset(),
    ) -> "PowerLevels":
        """Parse the content of `m.room.power_levels`; invalid levels count as absent."""
        levels = dict(DEFAULT_LEVELS)
        for name in DEFAULT_LEVELS:
            level = read_level(content.get(name), rules)
            if level is not None:
                levels[name] = level
        return cls(
            _read_levels(content.get("users"), rules),
            _read_levels(content.get("events"), rules),
            _read_levels(content.get("notifications"), rules),
            creators=creators,
            **levels,
        )

    def of_user(self, user_id: str) -> int:
        """Return the power level of a user; infinite for creators from room version 12 on."""
        if user_id in self.creators:
            return INFINITE_POWER
        return self.users.get(user_id, self.users_default)

    def needed(self, event_type: str, state_key: str | None) -> int:
        """Return the level required to send an event type.

        It is sent as a state event if `state_key` is not None.
        """
        default = self.events_default if state_key is None else self.state_default
        return self.events.get(event_type, default)

    def needed_to_notify(self, name: str) -> int:
        """Return the level required for a notification, such as `room` for `@room`."""
        return self.notifications.get(name, 50)

    def may_send(self, user_id: str, event_type: str, state_key: str | None) -> bool:
        """Return whether a user has the power level to send an event type."""
        return self.of_user(user_id) >= self.needed(event_type, state_key)


def power_levels_in(state: Mapping[types.StateKey, Event]) -> PowerLevels:
    """Return the power levels of a room state, which must contain the create event."""
    create = state[types.CREATE_KEY]
    return PowerLevels.of(state.get(types.POWER_LEVELS_KEY), create, create.rules)


def _read_levels(levels: object, rules: RoomVersion) -> Mapping[str, int]:
    if not isinstance(levels, Mapping):
        return {}
    if rules.integer_power_levels and all(type(level) is int for level in levels.values()):
        return levels
    parsed = ((name, read_level(level, rules)) for name, level in levels.items())
    return {name: level for name, level in parsed if level is not None}
