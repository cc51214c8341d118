"""The authorisation rules for m.room.power_levels: nobody grants or removes more than they have.

Spec: rooms/v11, Authorisation rules, step 9 (rooms/v12: step 10; rooms/v1: step 10).
"""

from collections.abc import Mapping
from typing import Any

from hs.core.auth.power_levels import DEFAULT_LEVELS, PowerLevels, creators_of, read_level
from hs.core.errors import Forbidden
from hs.core.events.event import Event
from hs.core.ids import is_user_id
from hs.core.versions import RoomVersion


def check_power_levels(
    event: Event, current: Event | None, create: Event, power: PowerLevels
) -> None:
    """Check the form of a power levels event, and that all changes are within its sender's power.

    Raises: Forbidden.
    """
    rules = event.rules
    check_power_levels_form(event.content, rules)
    # Step 9.4 of room version 12
    if rules.privileged_creators:
        named_creators = creators_of(create) & event.content.get("users", {}).keys()
        if named_creators:
            raise Forbidden(f"users must not contain the room's creators: {sorted(named_creators)}")
    # Step 9.4: the first power levels of a room
    if current is None:
        return
    limit = power.of_user(event.sender)
    _check_single_levels(current.content, event.content, rules, limit)
    _check_type_levels(current.content, event.content, rules, limit)
    _check_user_levels(current.content, event.content, rules, event.sender, limit)


def check_power_levels_form(content: Mapping[str, Any], rules: RoomVersion) -> None:
    """Check that the content of m.room.power_levels has the form that the room version demands.

    Raises: Forbidden.
    """
    # Step 9.1. Before room version 10 the rules leave it open how to treat levels that are
    # neither integers nor their string form; they are rejected there too.
    for name in DEFAULT_LEVELS:
        if name in content and read_level(content[name], rules) is None:
            raise Forbidden(f"{name} must be an integer")
    # Steps 9.2 and 9.3
    for name in ("events", "notifications", "users"):
        if name not in content or (name == "notifications" and not rules.notifications_guarded):
            continue
        levels = content[name]
        if not isinstance(levels, Mapping):
            raise Forbidden(f"{name} must be an object")
        for key, level in levels.items():
            if read_level(level, rules) is None:
                raise Forbidden(f"The power level of {key} in {name} must be an integer")
    for user_id in content.get("users", ()):
        if not is_user_id(user_id):
            raise Forbidden(f"users contains {user_id!r}, which is not a user ID")


def _check_single_levels(
    old: Mapping[str, Any], new: Mapping[str, Any], rules: RoomVersion, limit: int
) -> None:
    # Step 9.5
    for name, before, after in _changes(old, new, DEFAULT_LEVELS, rules):
        _check_within(name, before, after, limit)


def _check_type_levels(
    old: Mapping[str, Any], new: Mapping[str, Any], rules: RoomVersion, limit: int
) -> None:
    # Steps 9.6 and 9.7
    guarded = ("events", "notifications") if rules.notifications_guarded else ("events",)
    for field in guarded:
        old_levels, new_levels = _members(old, field), _members(new, field)
        for name, before, after in _changes(
            old_levels, new_levels, {**old_levels, **new_levels}, rules
        ):
            _check_within(name, before, after, limit)


def _check_user_levels(
    old: Mapping[str, Any], new: Mapping[str, Any], rules: RoomVersion, sender: str, limit: int
) -> None:
    old_levels, new_levels = _members(old, "users"), _members(new, "users")
    for user_id, before, after in _changes(
        old_levels, new_levels, {**old_levels, **new_levels}, rules
    ):
        # Step 9.8
        if user_id != sender and before is not None and before >= limit:
            raise Forbidden(f"You cannot change the power level of {user_id}, which is {before}")
        # Step 9.9
        if after is not None and after > limit:
            raise Forbidden(f"You cannot give {user_id} a power level above your own, {limit}")


def _changes(
    old: Mapping[str, Any], new: Mapping[str, Any], names: Mapping[str, Any], rules: RoomVersion
) -> list[tuple[str, int | None, int | None]]:
    changes = []
    for name in names:
        before = read_level(old[name], rules) if name in old else None
        after = read_level(new[name], rules) if name in new else None
        if before != after:
            changes.append((name, before, after))
    return changes


def _check_within(name: str, before: int | None, after: int | None, limit: int) -> None:
    if before is not None and before > limit:
        raise Forbidden(f"You cannot change the power level of {name}, which is {before}")
    if after is not None and after > limit:
        raise Forbidden(f"You cannot set the power level of {name} above your own, {limit}")


def _members(content: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    levels = content.get(field)
    return levels if isinstance(levels, Mapping) else {}
