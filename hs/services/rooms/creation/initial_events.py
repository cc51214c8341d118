"""The first events of a new room, from what its creator asks for.

Spec: client-server API, POST /createRoom, which gives their order.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import attrs

from hs.core.canonical_json import JsonObject
from hs.core.errors import BadJson, InvalidParam, InvalidRoomState
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
    """What a client asks of a new room."""

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
        """Give the preset, which follows from the visibility if none is named."""
        if self.preset is not None:
            return self.preset
        return PUBLIC_CHAT if self.is_listed else PRIVATE_CHAT


@attrs.frozen(kw_only=True)
class FirstMembers:
    """The creator and whom they invite, each with what member events show of them."""

    creator: UserID
    profile: Mapping[str, str]
    invited: Mapping[UserID, Mapping[str, str]]


def first_events(
    asked: NewRoomRequest,
    members: FirstMembers,
    rules: RoomVersion,
    alias: RoomAlias | None,
    settings: RoomSettings,
) -> list[Draft]:
    """List the events of a new room in their order.

    Raises: BadJson, InvalidParam, InvalidRoomState.
    """
    if any(one.type == event_types.MEMBER for one in asked.initial_state):
        raise InvalidRoomState("Members come into a new room by `invite`")
    if any(one.type == event_types.REDACTION for one in asked.initial_state):
        raise InvalidRoomState("Redactions are no state")
    creator = members.creator
    create = _create_content(asked, members, rules)
    joined = {**members.profile, "membership": event_types.JOIN}
    levels = _power_levels(asked, members, rules, settings)
    return [
        Draft(event_types.CREATE, creator, create, ""),
        Draft(event_types.MEMBER, creator, joined, creator),
        Draft(event_types.POWER_LEVELS, creator, levels, ""),
        *(
            Draft(event_type, creator, dict(content), state_key)
            for event_type, content, state_key in _state(asked, alias, settings)
        ),
        *_invites(asked, members),
    ]


def check_creation_content(content: JsonObject, rules: RoomVersion) -> None:
    """Refuse what no create event may hold. Raises: BadJson, InvalidParam."""
    if not isinstance(content.get("m.federate", True), bool):
        raise BadJson("m.federate must be a boolean")
    if not isinstance(content.get("type", ""), str):
        raise BadJson("The type of a room must be a string")
    if rules.privileged_creators and "additional_creators" in content:
        additional = content["additional_creators"]
        if not isinstance(additional, list) or not all(is_user_id(one) for one in additional):
            raise InvalidParam("additional_creators must be a list of user IDs")


def default_power_levels(rules: RoomVersion, creator: UserID, preset: Preset) -> JsonObject:
    """Give the power levels of a new room."""
    tombstone = rules.default_tombstone_level or _CREATOR_LEVEL
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
            event_types.TOMBSTONE: tombstone,
        },
        "events_default": 0,
        "state_default": 50,
        "ban": 50,
        "kick": 50,
        "redact": 50,
        "invite": 50 if preset == PUBLIC_CHAT else 0,
    }


def _create_content(asked: NewRoomRequest, members: FirstMembers, rules: RoomVersion) -> JsonObject:
    check_creation_content(asked.creation_content, rules)
    # These two are the builder's to set.
    content = {
        key: value
        for key, value in asked.creation_content.items()
        if key not in ("creator", "room_version")
    }
    if rules.privileged_creators and asked.chosen_preset == TRUSTED_PRIVATE_CHAT:
        creators = [*content.get("additional_creators", ()), *members.invited]
        if creators:
            content["additional_creators"] = list(dict.fromkeys(creators))
    return content


def _power_levels(
    asked: NewRoomRequest, members: FirstMembers, rules: RoomVersion, settings: RoomSettings
) -> JsonObject:
    given = _given(asked, event_types.POWER_LEVELS)
    if given is not None:
        return given
    preset = asked.chosen_preset
    levels = default_power_levels(rules, members.creator, preset)
    if preset == TRUSTED_PRIVATE_CHAT and not rules.privileged_creators:
        levels["users"].update(dict.fromkeys(members.invited, _CREATOR_LEVEL))
    by_settings = settings.default_power_level_content_override.get(preset) or {}
    return _with_tombstone({**levels, **by_settings, **asked.power_levels}, rules)


def _with_tombstone(levels: JsonObject, rules: RoomVersion) -> JsonObject:
    """Give levels that name one for m.room.tombstone, where the room version demands that.

    What overrides the defaults may have replaced all of `events`.
    """
    least = rules.default_tombstone_level
    events, state_default = levels.get("events"), levels.get("state_default")
    if least is None or not isinstance(events, dict) or event_types.TOMBSTONE in events:
        return levels
    if type(state_default) is int:
        least = max(least, state_default + 1)
    return {**levels, "events": {**events, event_types.TOMBSTONE: least}}


def _given(asked: NewRoomRequest, event_type: str) -> JsonObject | None:
    for one in asked.initial_state:
        if (one.type, one.state_key) == (event_type, ""):
            return one.content
    return None


def _state(
    asked: NewRoomRequest, alias: RoomAlias | None, settings: RoomSettings
) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    if alias is not None:
        yield event_types.CANONICAL_ALIAS, {"alias": alias}, ""
    for event_type, content in _STATE_OF_PRESETS[asked.chosen_preset].items():
        if _given(asked, event_type) is None:
            yield event_type, content, ""
    if _is_encrypted(asked, settings) and _given(asked, event_types.ENCRYPTION) is None:
        yield event_types.ENCRYPTION, ENCRYPTION_CONTENT, ""
    yield from _initial_state(asked)
    if asked.name is not None:
        yield event_types.NAME, {"name": asked.name}, ""
    if asked.topic is not None:
        yield event_types.TOPIC, topic_content(asked.topic), ""


def topic_content(topic: str) -> JsonObject:
    """Give a topic in both of its forms. Spec: m.room.topic."""
    return {"topic": topic, "m.topic": {"m.text": [{"body": topic}]}}


def _initial_state(asked: NewRoomRequest) -> Iterable[tuple[str, JsonObject, str]]:
    replaced = {
        (event_type, "")
        for event_type, value in (
            (event_types.NAME, asked.name),
            (event_types.TOPIC, asked.topic),
            (event_types.POWER_LEVELS, ""),
        )
        if value is not None
    }
    for one in asked.initial_state:
        if (one.type, one.state_key) not in replaced:
            yield one.type, one.content, one.state_key


def _is_encrypted(asked: NewRoomRequest, settings: RoomSettings) -> bool:
    which = settings.encryption_enabled_by_default_for_room_type
    return which == "all" or (which == "invite" and asked.chosen_preset != PUBLIC_CHAT)


def _invites(asked: NewRoomRequest, members: FirstMembers) -> Iterator[Draft]:
    for user_id, profile in members.invited.items():
        content: JsonObject = {**profile, "membership": event_types.INVITE}
        if asked.is_direct:
            content["is_direct"] = True
        yield Draft(event_types.MEMBER, members.creator, content, user_id)
