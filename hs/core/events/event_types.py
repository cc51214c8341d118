"""Names of the event types, memberships and join rules that this server interprets."""

from typing import Final

CREATE: Final = "m.room.create"
MEMBER: Final = "m.room.member"
POWER_LEVELS: Final = "m.room.power_levels"
JOIN_RULES: Final = "m.room.join_rules"
THIRD_PARTY_INVITE: Final = "m.room.third_party_invite"
HISTORY_VISIBILITY: Final = "m.room.history_visibility"
GUEST_ACCESS: Final = "m.room.guest_access"
NAME: Final = "m.room.name"
TOPIC: Final = "m.room.topic"
AVATAR: Final = "m.room.avatar"
CANONICAL_ALIAS: Final = "m.room.canonical_alias"
ALIASES: Final = "m.room.aliases"
PINNED_EVENTS: Final = "m.room.pinned_events"
ENCRYPTION: Final = "m.room.encryption"
SERVER_ACL: Final = "m.room.server_acl"
TOMBSTONE: Final = "m.room.tombstone"
POLICY: Final = "m.room.policy"
RETENTION: Final = "m.room.retention"
SPACE_CHILD: Final = "m.space.child"
SPACE_PARENT: Final = "m.space.parent"

MESSAGE: Final = "m.room.message"
ENCRYPTED: Final = "m.room.encrypted"
REDACTION: Final = "m.room.redaction"
REACTION: Final = "m.reaction"
STICKER: Final = "m.sticker"
DUMMY: Final = "org.matrix.dummy_event"  # joins forward extremities
GROUP_CALL: Final = "org.matrix.msc3401.call"  # a group call, from MSC3401

CREATE_KEY: Final = (CREATE, "")
POWER_LEVELS_KEY: Final = (POWER_LEVELS, "")
JOIN_RULES_KEY: Final = (JOIN_RULES, "")

JOIN: Final = "join"
INVITE: Final = "invite"
LEAVE: Final = "leave"
BAN: Final = "ban"
KNOCK: Final = "knock"

RULE_PUBLIC: Final = "public"
RULE_INVITE: Final = "invite"
RULE_KNOCK: Final = "knock"
RULE_RESTRICTED: Final = "restricted"
RULE_KNOCK_RESTRICTED: Final = "knock_restricted"

StateKey = tuple[str, str]
