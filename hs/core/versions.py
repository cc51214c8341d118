"""The room versions: one row of rules each, so that no other code compares version numbers.

Spec: rooms/, Room Versions.
"""

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType

import attrs

from hs.core.errors import UnsupportedRoomVersion


class EventIdFormat(Enum):
    """The ways in which event IDs are formed."""

    SERVER_CHOSEN = "v1"  # `$opaque:domain`, in the event; references are (ID, hash) pairs
    HASH = "v3"  # `$` and the reference hash in standard base64
    URLSAFE_HASH = "v4"  # `$` and the reference hash in URL-safe base64


@attrs.frozen(slots=True, eq=False)
class RoomVersion:
    """The rules of one room version. Rows are compared by identity."""

    identifier: str
    event_id_format: EventIdFormat = EventIdFormat.SERVER_CHOSEN
    state_resolution: str = "v1"  # "v1", "v2" or "v2.1"
    strict_canonical_json: bool = False  # no floats, integers within ±(2**53 − 1)
    enforce_key_validity: bool = False  # keys must be valid at origin_server_ts

    # Authorisation rules
    aliases_rule: bool = True  # m.room.aliases has a rule of its own
    redaction_auth_rule: bool = True  # m.room.redaction has a rule of its own
    notifications_guarded: bool = False  # changes to power levels' `notifications` are checked
    knocking: bool = False
    restricted_joins: bool = False
    knock_restricted: bool = False
    integer_power_levels: bool = False  # no strings, no floats
    implicit_creator: bool = False  # the creator is the sender; `content.creator` is ignored
    room_id_is_create_hash: bool = False  # and no event has the create event in auth_events
    privileged_creators: bool = False  # creators' power is infinite

    # Redaction
    redaction_keeps_legacy_fields: bool = True  # `origin`, `membership`, `prev_state`
    redaction_keeps_aliases: bool = True  # of m.room.aliases
    redaction_keeps_allow: bool = False  # of m.room.join_rules
    redaction_keeps_authorising_user: bool = False  # of m.room.member
    redaction_keeps_create_content: bool = False  # all of it, not only `creator`
    redaction_keeps_invite_level: bool = False  # of m.room.power_levels
    redaction_keeps_third_party_signed: bool = False  # of m.room.member
    redacts_in_content: bool = False  # and redaction keeps it there

    # Power of m.room.tombstone in a new room's power levels; None means state_default.
    default_tombstone_level: int | None = None

    # Then `prev_events` and `auth_events` are lists of event IDs rather than pairs.
    event_id_is_hash: bool = attrs.field(init=False)

    @event_id_is_hash.default
    def _event_id_is_hash(self) -> bool:
        return self.event_id_format is not EventIdFormat.SERVER_CHOSEN


_V1 = RoomVersion("1")
_V2 = attrs.evolve(_V1, identifier="2", state_resolution="v2")
_V3 = attrs.evolve(
    _V2, identifier="3", event_id_format=EventIdFormat.HASH, redaction_auth_rule=False
)
_V4 = attrs.evolve(_V3, identifier="4", event_id_format=EventIdFormat.URLSAFE_HASH)
_V5 = attrs.evolve(_V4, identifier="5", enforce_key_validity=True)
_V6 = attrs.evolve(
    _V5,
    identifier="6",
    strict_canonical_json=True,
    aliases_rule=False,
    notifications_guarded=True,
    redaction_keeps_aliases=False,
)
_V7 = attrs.evolve(_V6, identifier="7", knocking=True)
_V8 = attrs.evolve(_V7, identifier="8", restricted_joins=True, redaction_keeps_allow=True)
_V9 = attrs.evolve(_V8, identifier="9", redaction_keeps_authorising_user=True)
_V10 = attrs.evolve(_V9, identifier="10", knock_restricted=True, integer_power_levels=True)
_V11 = attrs.evolve(
    _V10,
    identifier="11",
    implicit_creator=True,
    redaction_keeps_legacy_fields=False,
    redaction_keeps_create_content=True,
    redaction_keeps_invite_level=True,
    redaction_keeps_third_party_signed=True,
    redacts_in_content=True,
)
_V12 = attrs.evolve(
    _V11,
    identifier="12",
    state_resolution="v2.1",
    room_id_is_create_hash=True,
    privileged_creators=True,
    default_tombstone_level=150,
)

ROOM_VERSIONS: Mapping[str, RoomVersion] = MappingProxyType(
    {
        rules.identifier: rules
        for rules in (_V1, _V2, _V3, _V4, _V5, _V6, _V7, _V8, _V9, _V10, _V11, _V12)
    }
)

DEFAULT_ROOM_VERSION = "12"


def room_version(identifier: object) -> RoomVersion:
    """Return the rules of a room version.

    Raises: UnsupportedRoomVersion.
    """
    rules = ROOM_VERSIONS.get(identifier) if isinstance(identifier, str) else None
    if rules is None:
        raise UnsupportedRoomVersion("The server does not support this room version")
    return rules
