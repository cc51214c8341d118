"""The form that the content of an event must have for this server to send it.

Only fields that this server reads itself, or that every client needs, are checked; all others pass.
Events of other servers are never checked: whoever reads them treats malformed fields as absent.
Clients change a field of a content that they have received, and send all of it. So what the rules
of a room version accept passes in rooms of that version.

Spec: client-server API, the schemas of the events; `null` also where clients send it to remove a
name, a topic or an avatar. MSC3765 for an `m.topic` that is a list, as clients sent it before the
specification had it.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from hs.core.auth.power_levels import DEFAULT_LEVELS, read_level
from hs.core.errors import BadJson, InvalidParam
from hs.core.events import event_types
from hs.core.ids import UserID, is_user_id, server_of
from hs.core.server_acl import parse_server_acl
from hs.core.versions import RoomVersion, room_version

Accepts = Callable[[object], bool]

_LENIENT: Final = room_version("9")
_MAPS_OF_LEVELS: Final = ("users", "events", "notifications")


@attrs.frozen
class ContentField:
    """A field of a content: the values that it may have, and their description for the client."""

    name: str
    accepts: Accepts
    form: str
    is_required: bool = False

    def check(self, content: Mapping[str, Any]) -> None:
        """Check the field in a content. Raises: BadJson."""
        if self.name not in content:
            if self.is_required:
                raise BadJson(f"{self.name} is required and must be {self.form}")
        elif not self.accepts(content[self.name]):
            raise BadJson(f"{self.name} must be {self.form}")


def check_content(
    sender: UserID, event_type: str, state_key: str | None, content: Mapping[str, Any]
) -> None:
    """Check the content of an event that a user of this server sends.

    Raises: BadJson; InvalidParam for a second m.room.create.
    """
    if event_type == event_types.CREATE:
        raise InvalidParam("A room has one m.room.create event, which cannot be replaced")
    fields = FIELDS.get((event_type, state_key))
    if fields is None:
        return
    for field in fields:
        field.check(content)
    if event_type == event_types.SERVER_ACL:
        _check_server_acl(sender, content)


def check_levels(content: Mapping[str, Any], rules: RoomVersion) -> None:
    """Check that the levels of an m.room.power_levels are as its room version wants them.

    Raises: BadJson.
    """
    if not rules.integer_power_levels:
        return
    levels = [(name, content.get(name)) for name in DEFAULT_LEVELS]
    for name in _MAPS_OF_LEVELS:
        of_entries = content.get(name)
        if isinstance(of_entries, Mapping):
            levels += [(f"{name}.{key}", level) for key, level in of_entries.items()]
    for name, level in levels:
        if level is not None and not _is_integer(level):
            raise BadJson(f"{name} must be an integer")


def _check_server_acl(sender: UserID, content: Mapping[str, Any]) -> None:
    server_name = server_of(sender)
    if not parse_server_acl(content).permits(server_name):
        raise BadJson(f"The server ACL must permit this server, {server_name}")


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_text_or_null(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_integer(value: object) -> bool:
    return type(value) is int


def _is_object(value: object) -> bool:
    return isinstance(value, Mapping)


def _is_one_of(*allowed: str) -> Accepts:
    return lambda value: isinstance(value, str) and value in allowed


def _is_list_of(accepts: Accepts) -> Accepts:
    return lambda value: isinstance(value, list) and all(accepts(entry) for entry in value)


def _is_level(value: object) -> bool:
    # Rooms before version 10 may have levels that are text, which clients send back.
    return read_level(value, _LENIENT) is not None


def _are_levels(value: object) -> bool:
    return isinstance(value, Mapping) and all(_is_level(level) for level in value.values())


def _are_levels_of_users(value: object) -> bool:
    return _are_levels(value) and isinstance(value, Mapping) and all(map(is_user_id, value))


def _is_allow_condition(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and _is_text(value.get("type"))
        and _is_text(value.get("room_id", ""))
    )


def _is_text_representation(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and _is_text(value.get("body"))
        and _is_text(value.get("mimetype", ""))
    )


def _is_topic_block(value: object) -> bool:
    texts = value.get("m.text", []) if isinstance(value, Mapping) else value
    return _is_list_of(_is_text_representation)(texts)


def _choice(name: str, *allowed: str) -> ContentField:
    return ContentField(name, _is_one_of(*allowed), f"one of {', '.join(allowed)}", True)


FIELDS: Final[Mapping[tuple[str, str | None], tuple[ContentField, ...]]] = {
    (event_types.MESSAGE, None): (
        ContentField("msgtype", _is_text, "a string", is_required=True),
        ContentField("body", _is_text, "a string", is_required=True),
    ),
    (event_types.NAME, ""): (ContentField("name", _is_text_or_null, "a string"),),
    (event_types.TOPIC, ""): (
        ContentField("topic", _is_text_or_null, "a string"),
        ContentField(
            "m.topic", _is_topic_block, "an object whose m.text is a list of objects with a body"
        ),
    ),
    (event_types.AVATAR, ""): (
        ContentField("url", _is_text_or_null, "a string"),
        ContentField("info", _is_object, "an object"),
    ),
    (event_types.CANONICAL_ALIAS, ""): (
        ContentField("alias", _is_text_or_null, "a string"),
        ContentField(
            "alt_aliases",
            lambda value: value is None or _is_list_of(_is_text)(value),
            "a list of strings",
        ),
    ),
    (event_types.POWER_LEVELS, ""): (
        *(ContentField(name, _is_level, "an integer") for name in DEFAULT_LEVELS),
        ContentField("events", _are_levels, "an object with integers"),
        ContentField("notifications", _are_levels, "an object with integers"),
        ContentField("users", _are_levels_of_users, "an object from user IDs to integers"),
    ),
    (event_types.JOIN_RULES, ""): (
        _choice(
            "join_rule", "public", "knock", "invite", "private", "restricted", "knock_restricted"
        ),
        ContentField(
            "allow", _is_list_of(_is_allow_condition), "a list of objects with a type and a room_id"
        ),
    ),
    (event_types.HISTORY_VISIBILITY, ""): (
        _choice("history_visibility", "invited", "joined", "shared", "world_readable"),
    ),
    (event_types.GUEST_ACCESS, ""): (_choice("guest_access", "can_join", "forbidden"),),
    (event_types.ENCRYPTION, ""): (
        ContentField("algorithm", _is_text, "a string", is_required=True),
        ContentField("rotation_period_ms", _is_integer, "an integer"),
        ContentField("rotation_period_msgs", _is_integer, "an integer"),
    ),
    # An empty tombstone revives a room, so its fields are not required.
    (event_types.TOMBSTONE, ""): (
        ContentField("body", _is_text, "a string"),
        ContentField("replacement_room", _is_text, "a string"),
    ),
    (event_types.SERVER_ACL, ""): (
        ContentField("allow", _is_list_of(_is_text), "a list of strings"),
        ContentField("deny", _is_list_of(_is_text), "a list of strings"),
        # Any other allow_ip_literals than a boolean counts as true.
    ),
}
"""The checked fields of each event type; the state key is None for message events."""
