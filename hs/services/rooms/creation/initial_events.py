"""The first events of a new room, built from the request to create it.

Spec: client-server API, POST /createRoom, which defines their order.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import attrs

from hs.core.canonical_json import JsonObject
from hs.core.errors import BadJson, InvalidParam, InvalidRoomState
from hs.core.event_contents import check_content, check_levels
from hs.core.events import event_types
from hs.core.ids import RoomAlias, UserID, is_user_id
from hs.core.versions import RoomVersion
from hs.services.rooms.append.drafts import Draft
from hs.settings.sections.rooms import RoomSettings

Preset = Literal["private_chat", "public_chat", "trusted_private_chat"]

PUBLIC_CHAT: Final = "public_chat"
PRIVATE_CHAT: Final = "private_chat"
TRUSTED_PRIVATE_CHAT: Final = "trusted_private_chat"

ENCRYPTION_CONTENT: Final = {"algorithm": "m.megolm.v1.aes-sha2"}

MAX_INITIAL_STATE: Final = 1000
"""Entries of `initial_state`: all first events are committed and delivered at once."""

_CREATOR_LEVEL: Final = 100
_PRIVATE_STATE: Final[Mapping[str, JsonObject]] = {
    event_types.JOIN_RULES: {"join_rule": event_types.RULE_INVITE},
    event_types.HISTORY_VISIBILITY: {"history_visibility": "shared"},
    event_types.GUEST_ACCESS: {"guest_access": "can_join"},
}
_STATE_OF_PRESETS: Final[Mapping[str, Mapping[str, JsonObject]]] = {
    PUBLIC_CHAT: {
        event_types.JOIN_RULES: {"join_rule": event_types.RULE_PUBLIC},
        event_types.HISTORY_VISIBILITY: {"history_visibility": "shared"},
        # Guests are forbidden, as in any room without m.room.guest_access.
    },
    PRIVATE_CHAT: _PRIVATE_STATE,
    TRUSTED_PRIVATE_CHAT: _PRIVATE_STATE,
}


@attrs.frozen
class InitialState:
    """An entry of `initial_state`."""

    type: str
    content: JsonObject
    state_key: str = ""


@attrs.frozen(kw_only=True)
class NewRoomRequest:
    """A client's request to create a room."""

    preset: Preset | None = None
    is_listed: bool = False
    alias_localpart: str | None = None
    name: str | None = None
    topic: str | None = None
    invite: Sequence[UserID] = ()
    room_version: str | None = None
    creation_content: JsonObject = attrs.Factory(dict)
    initial_state: Sequence[InitialState] = ()
    is_direct: bool = False
    power_levels: JsonObject = attrs.Factory(dict)

    @property
    def chosen_preset(self) -> Preset:
        """The preset; by default it follows from the visibility."""
        if self.preset is not None:
            return self.preset
        return PUBLIC_CHAT if self.is_listed else PRIVATE_CHAT


@attrs.frozen(kw_only=True)
class FirstMembers:
    """The creator and the invited users, with the profile fields for their member events."""

    creator: UserID
    profile: Mapping[str, str]
    invited: Mapping[UserID, Mapping[str, str]]


def first_events(
    request: NewRoomRequest,
    members: FirstMembers,
    rules: RoomVersion,
    alias: RoomAlias | None,
    settings: RoomSettings,
) -> list[Draft]:
    """Return the events of a new room in their order; `check_first_event` has to check each.

    Raises: BadJson, InvalidParam, InvalidRoomState.
    """
    if len(request.initial_state) > MAX_INITIAL_STATE:
        raise InvalidParam(f"initial_state must not contain more than {MAX_INITIAL_STATE} events")
    if any(entry.type == event_types.MEMBER for entry in request.initial_state):
        raise InvalidRoomState("initial_state must not contain m.room.member events; use invite")
    if any(entry.type == event_types.REDACTION for entry in request.initial_state):
        raise InvalidRoomState("initial_state must not contain m.room.redaction events")
    creator = members.creator
    create = _create_content(request, members, rules)
    joined = {**members.profile, "membership": event_types.JOIN}
    levels = _power_levels(request, members, rules, settings)
    state = [
        Draft(event_types.POWER_LEVELS, creator, levels, ""),
        *(
            Draft(event_type, creator, dict(content), state_key)
            for event_type, content, state_key in _state(request, alias, settings)
        ),
    ]
    return [
        Draft(event_types.CREATE, creator, create, ""),
        Draft(event_types.MEMBER, creator, joined, creator),
        *state,
        *_invites(request, members),
    ]


def check_first_event(draft: Draft, rules: RoomVersion) -> None:
    """Reject contents that nobody could send. Raises: InvalidRoomState."""
    if draft.type in (event_types.CREATE, event_types.MEMBER):
        return
    try:
        check_content(draft.sender, draft.type, draft.state_key, draft.content)
        if draft.type == event_types.POWER_LEVELS and draft.state_key == "":
            check_levels(draft.content, rules)
    except (BadJson, InvalidParam) as error:
        raise InvalidRoomState(f"{draft.type}: {error.message}") from error


def check_creation_content(content: JsonObject, rules: RoomVersion) -> None:
    """Reject invalid fields of a create event. Raises: BadJson, InvalidParam."""
    if not isinstance(content.get("m.federate", True), bool):
        raise BadJson("m.federate must be a boolean")
    if not isinstance(content.get("type", ""), str):
        raise BadJson("type must be a string")
    if rules.privileged_creators and "additional_creators" in content:
        additional = content["additional_creators"]
        if not isinstance(additional, list) or not all(is_user_id(each) for each in additional):
            raise InvalidParam("additional_creators must be a list of user IDs")


def default_power_levels(rules: RoomVersion, creator: UserID, preset: Preset) -> JsonObject:
    """Return the power levels of a new room."""
    tombstone_level = rules.default_tombstone_level or _CREATOR_LEVEL
    return {
        "users": {} if rules.privileged_creators else {creator: _CREATOR_LEVEL},
        "users_default": 0,
        "events": {
            event_types.NAME: 50,
            event_types.AVATAR: 50,
            event_types.CANONICAL_ALIAS: 50,
            event_types.POWER_LEVELS: 100,
            event_types.HISTORY_VISIBILITY: 100,
            event_types.SERVER_ACL: 100,
            event_types.ENCRYPTION: 100,
            event_types.TOMBSTONE: tombstone_level,
        },
        "events_default": 0,
        "state_default": 50,
        "ban": 50,
        "kick": 50,
        "redact": 50,
        "invite": 50 if preset == PUBLIC_CHAT else 0,
    }


def _create_content(
    request: NewRoomRequest, members: FirstMembers, rules: RoomVersion
) -> JsonObject:
    check_creation_content(request.creation_content, rules)
    # The event builder sets these two.
    content = {
        key: value
        for key, value in request.creation_content.items()
        if key not in ("creator", "room_version")
    }
    if rules.privileged_creators and request.chosen_preset == TRUSTED_PRIVATE_CHAT:
        creators = [*content.get("additional_creators", ()), *members.invited]
        if creators:
            content["additional_creators"] = list(dict.fromkeys(creators))
    return content


def _power_levels(
    request: NewRoomRequest, members: FirstMembers, rules: RoomVersion, settings: RoomSettings
) -> JsonObject:
    requested = _requested_state(request, event_types.POWER_LEVELS)
    if requested is not None:
        return requested
    preset = request.chosen_preset
    levels = default_power_levels(rules, members.creator, preset)
    if preset == TRUSTED_PRIVATE_CHAT and not rules.privileged_creators:
        levels["users"].update(dict.fromkeys(members.invited, _CREATOR_LEVEL))
    by_settings = settings.default_power_level_content_override.get(preset) or {}
    return _with_tombstone({**levels, **by_settings, **request.power_levels}, rules)


def _with_tombstone(levels: JsonObject, rules: RoomVersion) -> JsonObject:
    """Return levels that include m.room.tombstone, where the room version requires it.

    The settings or the client may have replaced all of `events`.
    """
    level = rules.default_tombstone_level
    events, state_default = levels.get("events"), levels.get("state_default")
    if level is None or not isinstance(events, dict) or event_types.TOMBSTONE in events:
        return levels
    if type(state_default) is int:
        level = max(level, state_default + 1)
    return {**levels, "events": {**events, event_types.TOMBSTONE: level}}


def _requested_state(request: NewRoomRequest, event_type: str) -> JsonObject | None:
    for entry in request.initial_state:
        if (entry.type, entry.state_key) == (event_type, ""):
            return entry.content
    return None


def _state(
    request: NewRoomRequest, alias: RoomAlias | None, settings: RoomSettings
) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    if alias is not None:
        yield event_types.CANONICAL_ALIAS, {"alias": alias}, ""
    for event_type, content in _STATE_OF_PRESETS[request.chosen_preset].items():
        if _requested_state(request, event_type) is None:
            yield event_type, content, ""
    if (
        _is_encrypted(request, settings)
        and _requested_state(request, event_types.ENCRYPTION) is None
    ):
        yield event_types.ENCRYPTION, ENCRYPTION_CONTENT, ""
    yield from _initial_state(request)
    if request.name is not None:
        yield event_types.NAME, {"name": request.name}, ""
    if request.topic is not None:
        yield event_types.TOPIC, topic_content(request.topic), ""


def topic_content(topic: str) -> JsonObject:
    """Return the content of m.room.topic with the topic in both forms. Spec: m.room.topic."""
    return {"topic": topic, "m.topic": {"m.text": [{"body": topic}]}}


def _initial_state(request: NewRoomRequest) -> Iterable[tuple[str, JsonObject, str]]:
    replaced = {
        (event_type, "")
        for event_type, value in (
            (event_types.NAME, request.name),
            (event_types.TOPIC, request.topic),
            (event_types.POWER_LEVELS, ""),
        )
        if value is not None
    }
    for entry in request.initial_state:
        if (entry.type, entry.state_key) not in replaced:
            yield entry.type, entry.content, entry.state_key


def _is_encrypted(request: NewRoomRequest, settings: RoomSettings) -> bool:
    room_types = settings.encryption_enabled_by_default_for_room_type
    return room_types == "all" or (room_types == "invite" and request.chosen_preset != PUBLIC_CHAT)


def _invites(request: NewRoomRequest, members: FirstMembers) -> Iterator[Draft]:
    for user_id, profile in members.invited.items():
        content: JsonObject = {**profile, "membership": event_types.INVITE}
        if request.is_direct:
            content["is_direct"] = True
        yield Draft(event_types.MEMBER, members.creator, content, user_id)
