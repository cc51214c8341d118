"""Who may invite a user, by what they say in their account data.

Spec: client-server API, Invite permission; MSC4155 for rules by user and by server.
"""

import enum
from collections.abc import Mapping
from typing import Any, Final

import attrs

from hs.core.globs import Glob, compile_glob
from hs.core.ids import UserID, server_of

STABLE: Final = "m.invite_permission_config"
OLD_STABLE: Final = "org.matrix.msc4380.invite_permission_config"
FINER: Final = "org.matrix.msc4155.invite_permission_config"
TYPES: Final = (STABLE, OLD_STABLE, FINER)


class Verdict(enum.Enum):
    """What becomes of an invite: it arrives, it is never shown, or the inviter is told."""

    ALLOW = "allowed"
    IGNORE = "ignored"
    BLOCK = "blocked"


# In the order in which they are tried.
_KEYS: Final = tuple(
    (verdict, whom)
    for whom in ("users", "servers")
    for verdict in (Verdict.ALLOW, Verdict.IGNORE, Verdict.BLOCK)
)
_PORT_DIGITS: Final = frozenset("0123456789")


@attrs.frozen
class _Rule:
    """A verdict on those whose ID, or server, a pattern matches."""

    verdict: Verdict
    is_of_servers: bool
    globs: tuple[Glob, ...]


@attrs.frozen
class InvitePermission:
    """What one user wants."""

    blocks_everybody: bool = False
    rules: tuple[_Rule, ...] = ()

    def verdict(self, inviter: UserID) -> Verdict:
        """Judge an invite."""
        if self.blocks_everybody:
            return Verdict.BLOCK
        if not self.rules:
            return Verdict.ALLOW
        server = _without_port(server_of(inviter))
        for rule in self.rules:
            value = server if rule.is_of_servers else inviter
            if any(glob.matches(value) for glob in rule.globs):
                return rule.verdict
        return Verdict.ALLOW


EVERYBODY_MAY: Final = InvitePermission()


def read_permission(contents: Mapping[str, Any]) -> InvitePermission:
    """Read a user's account data, by type; what is malformed counts as missing."""
    blocks = any(
        isinstance(content := contents.get(event_type), dict)
        and content.get("default_action") == "block"
        for event_type in (STABLE, OLD_STABLE)
    )
    rules = _rules(contents.get(FINER))
    if not blocks and not rules:
        return EVERYBODY_MAY
    return InvitePermission(blocks, rules)


def _rules(content: Any) -> tuple[_Rule, ...]:
    if not isinstance(content, dict) or content.get("enabled", True) is not True:
        return ()
    rules = []
    for verdict, whom in _KEYS:
        patterns = content.get(f"{verdict.value}_{whom}", [])
        if not isinstance(patterns, list) or not all(isinstance(one, str) for one in patterns):
            return ()
        if patterns:
            globs = tuple(compile_glob(one) for one in patterns)
            rules.append(_Rule(verdict, whom == "servers", globs))
    return tuple(rules)


def _without_port(server: str) -> str:
    name, colon, port = server.rpartition(":")
    return name if colon and port and set(port) <= _PORT_DIGITS else server
