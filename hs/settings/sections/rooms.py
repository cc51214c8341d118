"""Settings of rooms: defaults of new rooms, rules for aliases and the directory, retention."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import attrs

from hs.core.versions import DEFAULT_ROOM_VERSION, ROOM_VERSIONS
from hs.settings.fields import block, setting
from hs.settings.kinds import (
    BOOLEAN,
    COUNT,
    DURATION,
    OBJECT,
    SIZE,
    STRING,
    STRINGS,
    ConfigLocation,
    Kind,
    choice,
    list_of,
    map_of,
    optional,
    or_infinity,
)

_PRESETS = ("public_chat", "private_chat", "trusted_private_chat")


@attrs.frozen(kw_only=True)
class RoomRule:
    """A rule for aliases or for the room directory; `*` and `?` are wildcards."""

    user_id: str = setting(STRING, "*", "Pattern of the requesting user's ID.")
    alias: str = setting(STRING, "*", "Pattern of the alias.")
    room_id: str = setting(STRING, "*", "Pattern of the room ID.")
    action: str = setting(
        choice("allow", "deny"), "allow", "Whether matching requests are allowed."
    )


def _read_version(value: Any, at: ConfigLocation) -> str:
    version = str(value)
    if version not in ROOM_VERSIONS:
        at.reject(
            f"room version {version!r} is not supported", f"use one of {', '.join(ROOM_VERSIONS)}"
        )
    return version


ROOM_VERSION = Kind("room version", _read_version, {"type": "string"})
RULES = optional(list_of(block(RoomRule, is_rule=True)))


@attrs.frozen(kw_only=True)
class RoomSettings:
    """Rooms.

    For both lists of rules, None allows everything. Otherwise the first matching rule decides, and
    a request that matches no rule is denied.
    """

    default_room_version: str = setting(
        ROOM_VERSION, DEFAULT_ROOM_VERSION, "Room version of new rooms."
    )
    encryption_enabled_by_default_for_room_type: str = setting(
        choice("all", "invite", "off"),
        "off",
        "New rooms that are encrypted: all, those with a private preset (`invite`), or none "
        "(`off`).",
    )
    default_power_level_content_override: Mapping[str, Mapping[str, Any] | None] = setting(
        map_of(optional(OBJECT)),
        MappingProxyType({}),
        "Overrides of the power levels of new rooms, by preset.",
        shown={},
    )
    alias_creation_rules: tuple[RoomRule, ...] | None = setting(
        RULES, None, "Rules for creating aliases; everyone may create any alias if null."
    )
    room_list_publication_rules: tuple[RoomRule, ...] | None = setting(
        RULES,
        None,
        "Rules for publishing rooms in the directory; everyone may publish any room if null.",
    )
    enable_room_list_search: bool = setting(BOOLEAN, True, "Allow searches in the room directory.")
    auto_join_rooms: tuple[str, ...] = setting(
        STRINGS, (), "Aliases of rooms that new users join automatically.", shown=[]
    )
    autocreate_auto_join_rooms: bool = setting(
        BOOLEAN, True, "Create the rooms of `auto_join_rooms` when the first user registers."
    )
    autocreate_auto_join_rooms_federated: bool = setting(
        BOOLEAN, True, "Allow users of other servers in automatically created rooms."
    )
    autocreate_auto_join_room_preset: str = setting(
        choice(*_PRESETS), "public_chat", "Preset of automatically created rooms."
    )
    auto_join_mxid_localpart: str | None = setting(
        optional(STRING),
        None,
        "Local part of the user who creates these rooms and invites to them.",
    )
    auto_join_rooms_for_guests: bool = setting(BOOLEAN, True, "Let guests join these rooms too.")
    redaction_retention_period: int | None = setting(
        or_infinity(DURATION),
        7 * 86_400_000,
        "Time after which the content of redacted events is deleted.",
        shown="7d",
    )
    forgotten_room_retention_period: int | None = setting(
        or_infinity(DURATION),
        None,
        "Time after which rooms are deleted that all their local users have forgotten; never if "
        "null.",
    )
    forget_rooms_on_leave: bool = setting(BOOLEAN, False, "Forget rooms when users leave them.")
    block_non_admin_invites: bool = setting(
        BOOLEAN, False, "Allow invites by server administrators only."
    )
    include_profile_data_on_invite: bool = setting(
        BOOLEAN, True, "Include the invited user's display name and avatar in invites."
    )
    require_membership_for_aliases: bool = setting(
        BOOLEAN, True, "Allow only members of a room to create aliases for it."
    )
    allow_per_room_profiles: bool = setting(
        BOOLEAN, True, "Allow users to set a different display name and avatar in a room."
    )
    dummy_events_threshold: int = setting(
        COUNT,
        10,
        "Number of forward extremities of a room above which dummy events join them.",
    )
    max_avatar_size: int | None = setting(optional(SIZE), None, "Maximum size of avatars.")
    allowed_avatar_mimetypes: tuple[str, ...] | None = setting(
        optional(STRINGS), None, "MIME types allowed for avatars; any if null."
    )
    exclude_rooms_from_presence: tuple[str, ...] = setting(
        STRINGS,
        (),
        "Room IDs whose membership does not make users see each other's presence.",
        shown=[],
    )
    enable_search: bool = setting(BOOLEAN, True, "Index messages and allow users to search them.")
    exclude_rooms_from_sync: tuple[str, ...] = setting(
        STRINGS, (), "Room IDs that are never sent to clients.", shown=[]
    )
