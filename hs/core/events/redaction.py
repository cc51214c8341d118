"""The redaction algorithm: the fields that remain after redaction, by room version.

Spec: rooms/, Redactions.
"""

from collections.abc import Mapping
from typing import Any

import attrs

from hs.core.canonical_json import JsonObject
from hs.core.events import types
from hs.core.events.encoding import encode_pdu
from hs.core.events.event import Event
from hs.core.versions import ROOM_VERSIONS, RoomVersion

_TOP_LEVEL = frozenset(
    {
        "event_id",
        "type",
        "room_id",
        "sender",
        "state_key",
        "content",
        "hashes",
        "signatures",
        "depth",
        "prev_events",
        "auth_events",
        "origin_server_ts",
    }
)
_LEGACY = frozenset({"origin", "membership", "prev_state"})
_LEVELS = frozenset(
    {
        "ban",
        "events",
        "events_default",
        "kick",
        "redact",
        "state_default",
        "users",
        "users_default",
    }
)


@attrs.frozen
class _RetainedKeys:
    """The keys that redaction leaves, at the top level and in the content by event type."""

    top_level: frozenset[str]
    content: Mapping[str, frozenset[str]]


def redact_pdu(pdu: Mapping[str, Any], rules: RoomVersion) -> JsonObject:
    """Return a copy of a PDU with only its essential fields."""
    retained = _RETAINED[rules.identifier].top_level
    redacted = {key: pdu[key] for key in pdu if key in retained}
    if "content" in redacted:
        redacted["content"] = redact_content(pdu["type"], pdu["content"], rules)
    return redacted


def redact_content(
    event_type: str, content: Mapping[str, Any], rules: RoomVersion
) -> Mapping[str, Any]:
    """Return the part of an event's content that redaction leaves."""
    if event_type == types.CREATE and rules.redaction_keeps_create_content:
        return content
    retained = _RETAINED[rules.identifier].content.get(event_type)
    if retained is None:
        return {}
    redacted = {key: content[key] for key in content if key in retained}
    if event_type == types.MEMBER and rules.redaction_keeps_third_party_signed:
        invite = content.get("third_party_invite")
        if isinstance(invite, Mapping):
            redacted["third_party_invite"] = {key: invite[key] for key in invite if key == "signed"}
    return redacted


def redact(event: Event) -> Event:
    """Return the redacted form of an event; its event ID and signatures remain valid."""
    pdu = redact_pdu(event.pdu, event.rules)
    return attrs.evolve(
        event, content=pdu["content"], pdu=pdu, canonical=encode_pdu(pdu, event.rules)
    )


def _retained_by(rules: RoomVersion) -> _RetainedKeys:
    member = {"membership"}
    if rules.redaction_keeps_authorising_user:
        member.add("join_authorised_via_users_server")
    content = {
        types.MEMBER: frozenset(member),
        types.CREATE: frozenset({"creator"}),
        types.JOIN_RULES: frozenset(
            {"join_rule", "allow"} if rules.redaction_keeps_allow else {"join_rule"}
        ),
        types.POWER_LEVELS: (
            _LEVELS | {"invite"} if rules.redaction_keeps_invite_level else _LEVELS
        ),
        types.HISTORY_VISIBILITY: frozenset({"history_visibility"}),
    }
    if rules.redaction_keeps_aliases:
        content[types.ALIASES] = frozenset({"aliases"})
    if rules.redacts_in_content:
        content[types.REDACTION] = frozenset({"redacts"})
    top_level = _TOP_LEVEL | _LEGACY if rules.redaction_keeps_legacy_fields else _TOP_LEVEL
    return _RetainedKeys(top_level, content)


_RETAINED = {identifier: _retained_by(rules) for identifier, rules in ROOM_VERSIONS.items()}
