"""Server ACLs: which servers may participate in a room.

Spec: client-server API, Server Access Control Lists.
"""

import ipaddress
from collections.abc import Mapping
from typing import Any

import attrs

from hs.core.globs import Glob, compile_glob


@attrs.frozen
class ServerAcl:
    """The compiled content of one `m.room.server_acl` event."""

    allow: tuple[Glob, ...]
    deny: tuple[Glob, ...]
    allow_ip_literals: bool = True

    def permits(self, server_name: str) -> bool:
        """Return whether a server may participate in the room; its port is ignored."""
        host = _host_of(server_name)
        if not self.allow_ip_literals and _is_ip_literal(host):
            return False
        if any(glob.matches(host) for glob in self.deny):
            return False
        return any(glob.matches(host) for glob in self.allow)


EVERYONE = ServerAcl(allow=(compile_glob("*"),), deny=())
"""The ACL of a room without an `m.room.server_acl` event."""


def parse_server_acl(content: Mapping[str, Any]) -> ServerAcl:
    """Compile the content of `m.room.server_acl`; malformed fields count as absent."""
    return ServerAcl(
        allow=_globs(content.get("allow")),
        deny=_globs(content.get("deny")),
        allow_ip_literals=content.get("allow_ip_literals") is not False,
    )


def _globs(patterns: object) -> tuple[Glob, ...]:
    if not isinstance(patterns, list):
        return ()
    return tuple(compile_glob(pattern) for pattern in patterns if isinstance(pattern, str))


def _host_of(server_name: str) -> str:
    if server_name.startswith("["):
        return server_name[: server_name.find("]") + 1]
    return server_name.partition(":")[0]


def _is_ip_literal(host: str) -> bool:
    if host.startswith("["):
        return True
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True
