"""Settings about rooms: what new ones are like, who may name and list them."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import attrs

from hs.core.versions import DEFAULT_ROOM_VERSION, ROOM_VERSIONS
from hs.settings.fields import block, setting
from hs.settings.kinds import (
    BOOLEAN,
    DURATION,
    OBJECT,
    SIZE,
    STRING,
    STRINGS,
    At,
    Kind,
    choice,
    endless,
    list_of,
    map_of,
    optional,
)

_PRESETS = ("public_chat", "private_chat", "trusted_private_chat")


@attrs.frozen(kw_only=True)
class RoomRule:
    """One line of the rules for aliases or for the room directory; `*` and `?` are wild."""

    user_id: str = setting(STRING, "*", "Who asks.")
    alias: str = setting(STRING, "*", "Which alias.")
    room_id: str = setting(STRING, "*", "Which room.")
    action: str = setting(choice("allow", "deny"), "allow", "What then.")


def _read_version(value: Any, at: At) -> str:
    version = str(value)
    if version not in ROOM_VERSIONS:
        at.refuse(
            f"room version {version!r} is not known", f"use one of {', '.join(ROOM_VERSIONS)}"
        )
    return version


ROOM_VERSION = Kind("room version", _read_version, {"type": "string"})
RULES = optional(list_of(block(RoomRule)))


@attrs.frozen(kw_only=True)
class RoomSettings:
    """Rooms.

    The two lists of rules: None allows everything; otherwise the first matching rule decides,
    and what none matches is denied.
    """

    default_room_version: str = setting(ROOM_VERSION, DEFAULT_ROOM_VERSION, "Version of new rooms.")
    encryption_enabled_by_default_for_room_type: str = setting(
        choice("all", "invite", "off"), "off", "Which new rooms are encrypted from the start."
    )
    default_power_level_content_override: Mapping[str, Mapping[str, Any] | None] = setting(
        map_of(optional(OBJECT)),
        MappingProxyType({}),
        "Power levels of new rooms, by preset.",
        shown={},
    )
    alias_creation_rules: tuple[RoomRule, ...] | None = setting(
        RULES, None, "Who may create which aliases; everybody when null."
    )
    room_list_publication_rules: tuple[RoomRule, ...] | None = setting(
        RULES, None, "Who may publish which rooms; everybody when null."
    )
    enable_room_list_search: bool = setting(
        BOOLEAN, True, "Answer searches in the directory of rooms."
    )
    auto_join_rooms: tuple[str, ...] = setting(
        STRINGS, (), "Aliases of rooms that new users join.", shown=[]
    )
    autocreate_auto_join_rooms: bool = setting(
        BOOLEAN, True, "Create those rooms with the first user."
    )
    autocreate_auto_join_rooms_federated: bool = setting(
        BOOLEAN, True, "Let other servers into the rooms so created."
    )
    autocreate_auto_join_room_preset: str = setting(
        choice(*_PRESETS), "public_chat", "Preset of the rooms so created."
    )
    auto_join_mxid_localpart: str | None = setting(
        optional(STRING),
        None,
        "Local user who creates those rooms and invites to them.",
    )
    auto_join_rooms_for_guests: bool = setting(BOOLEAN, True, "Guests join those rooms as well.")
    redaction_retention_period: int | None = setting(
        endless(DURATION),
        7 * 86_400_000,
        "How long redacted events are kept whole.",
        shown="7d",
    )
    forgotten_room_retention_period: int | None = setting(
        endless(DURATION),
        None,
        "How long rooms are kept that all their users here have forgotten; for ever when null.",
    )
    forget_rooms_on_leave: bool = setting(BOOLEAN, False, "Forget a room on leaving it.")
    block_non_admin_invites: bool = setting(BOOLEAN, False, "Only administrators may invite.")
    include_profile_data_on_invite: bool = setting(
        BOOLEAN, True, "Put the invited user's name and avatar into invites."
    )
    require_membership_for_aliases: bool = setting(
        BOOLEAN, True, "Only members of a room may make aliases for it."
    )
    allow_per_room_profiles: bool = setting(
        BOOLEAN, True, "Let users have another name or avatar in a room."
    )
    max_avatar_size: int | None = setting(optional(SIZE), None, "Largest avatar.")
    allowed_avatar_mimetypes: tuple[str, ...] | None = setting(
        optional(STRINGS), None, "Types that avatars may have; any when null."
    )
    exclude_rooms_from_presence: tuple[str, ...] = setting(
        STRINGS, (), "Rooms whose members do not see each other's presence by them.", shown=[]
    )
    enable_search: bool = setting(BOOLEAN, True, "Let users search in messages.")
    exclude_rooms_from_sync: tuple[str, ...] = setting(
        STRINGS, (), "Rooms that clients are never shown.", shown=[]
    )
