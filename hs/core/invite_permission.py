"""Which invites a user accepts, according to their account data.

Spec: client-server API, Invite permission; MSC4155 for rules by user and by server.
"""

import enum
from collections.abc import Mapping
from typing import Any, Final

import attrs

from hs.core.globs import Glob, compile_glob
from hs.core.ids import UserID, server_of

STABLE_TYPE: Final = "m.invite_permission_config"
MSC4380_TYPE: Final = "org.matrix.msc4380.invite_permission_config"
MSC4155_TYPE: Final = "org.matrix.msc4155.invite_permission_config"
INVITE_PERMISSION_TYPES: Final = (STABLE_TYPE, MSC4380_TYPE, MSC4155_TYPE)


class InviteVerdict(enum.Enum):
    """The treatment of an invite: deliver it, hide it silently, or reject it with an error."""

    ALLOW = "allowed"
    IGNORE = "ignored"
    BLOCK = "blocked"


# The lists of MSC4155, in order of precedence.
_KEYS: Final = tuple(
    (verdict, scope)
    for scope in ("users", "servers")
    for verdict in (InviteVerdict.ALLOW, InviteVerdict.IGNORE, InviteVerdict.BLOCK)
)
_PORT_DIGITS: Final = frozenset("0123456789")


@attrs.frozen
class _Rule:
    """The verdict on invites by users whose ID, or whose server, matches one of the globs."""

    verdict: InviteVerdict
    is_of_servers: bool
    globs: tuple[Glob, ...]


@attrs.frozen
class InvitePermission:
    """The rules of one user about invites."""

    blocks_everybody: bool = False
    rules: tuple[_Rule, ...] = ()

    def verdict(self, inviter: UserID) -> InviteVerdict:
        """Return the verdict on an invite by a user."""
        if self.blocks_everybody:
            return InviteVerdict.BLOCK
        if not self.rules:
            return InviteVerdict.ALLOW
        server = _without_port(server_of(inviter))
        for rule in self.rules:
            value = server if rule.is_of_servers else inviter
            if any(glob.matches(value) for glob in rule.globs):
                return rule.verdict
        return InviteVerdict.ALLOW


ALLOW_EVERYBODY: Final = InvitePermission()


def parse_invite_permission(contents: Mapping[str, Any]) -> InvitePermission:
    """Read a user's rules from their account data, by type; malformed content is ignored."""
    blocks = any(
        isinstance(content := contents.get(event_type), dict)
        and content.get("default_action") == "block"
        for event_type in (STABLE_TYPE, MSC4380_TYPE)
    )
    rules = _rules(contents.get(MSC4155_TYPE))
    if not blocks and not rules:
        return ALLOW_EVERYBODY
    return InvitePermission(blocks, rules)


def _rules(content: Any) -> tuple[_Rule, ...]:
    if not isinstance(content, dict) or content.get("enabled", True) is not True:
        return ()
    rules = []
    for verdict, scope in _KEYS:
        patterns = content.get(f"{verdict.value}_{scope}", [])
        if not isinstance(patterns, list) or not all(
            isinstance(pattern, str) for pattern in patterns
        ):
            return ()
        if patterns:
            globs = tuple(compile_glob(pattern) for pattern in patterns)
            rules.append(_Rule(verdict, scope == "servers", globs))
    return tuple(rules)


def _without_port(server: str) -> str:
    name, colon, port = server.rpartition(":")
    return name if colon and port and set(port) <= _PORT_DIGITS else server
