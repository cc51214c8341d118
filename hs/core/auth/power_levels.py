"""Power levels of a room, read once from its state and then asked.

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

# More than canonical JSON can write, so no level in a room of version 12 reaches it.
INFINITE_POWER = 2**63

# Of the properties that hold one level each: what absence means, of the whole event as well.
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
    """Read one level; None if it is not what the room version takes for an integer."""
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
    """List a room's creators: one, or with `additional_creators` where those exist."""
    if not create.rules.implicit_creator:
        creator = create.content.get("creator")
        return frozenset({creator}) if isinstance(creator, str) else frozenset()
    if not create.rules.privileged_creators:
        return frozenset({create.sender})
    additional = create.content.get("additional_creators")
    found = additional if isinstance(additional, list) else []
    return frozenset({create.sender, *(user for user in found if isinstance(user, str))})


@attrs.frozen(slots=True, eq=False)
class PowerLevels:
    """What each user may do and what each event type needs.

    `creators` are those with infinite power: none before room version 12.
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
        """Read the levels of a room; `event` is its `m.room.power_levels`, if it has one."""
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
        """Read the content of a power levels event; what cannot be read counts as absent."""
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
        """Give the power of a user, infinite for privileged creators."""
        if user_id in self.creators:
            return INFINITE_POWER
        return self.users.get(user_id, self.users_default)

    def needed(self, event_type: str, state_key: str | None) -> int:
        """Give the power needed to send a type of event, as state or as a message."""
        default = self.events_default if state_key is None else self.state_default
        return self.events.get(event_type, default)

    def needed_to_notify(self, name: str) -> int:
        """Give the power needed to notify, such as all the `room`."""
        return self.notifications.get(name, 50)

    def may_send(self, user_id: str, event_type: str, state_key: str | None) -> bool:
        """Tell whether a user has the power for a type of event."""
        return self.of_user(user_id) >= self.needed(event_type, state_key)


def power_levels_in(state: Mapping[types.StateKey, Event]) -> PowerLevels:
    """Read the power levels of a room state that has its create event."""
    create = state[types.CREATE_KEY]
    return PowerLevels.of(state.get(types.POWER_LEVELS_KEY), create, create.rules)


def _read_levels(levels: object, rules: RoomVersion) -> Mapping[str, int]:
    if not isinstance(levels, Mapping):
        return {}
    if rules.integer_power_levels and all(type(level) is int for level in levels.values()):
        return levels
    read = ((name, read_level(level, rules)) for name, level in levels.items())
    return {name: level for name, level in read if level is not None}
