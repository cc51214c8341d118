"""Listening sockets that the parent of this process opened, and keeps open.

Rules:

- The parent closes its copy of a socket only when it ends, so there is no moment without a
  listener: while the process restarts, connections wait in the socket's queue.
- A process that drains accepts what is queued and closes its own copy. It does not shrink the
  queue and removes no socket file, because the next process goes on with both.
"""

import ipaddress
import socket
from collections.abc import Iterable, Mapping

import attrs

Address = tuple[str, int]
"""Host and port; the path and 0 for a UNIX socket."""

_ALL_IPV4, _ALL_IPV6 = "0.0.0.0", "::"


@attrs.frozen(eq=False)
class InheritedSockets:
    """The sockets by address; a process without such a parent has none."""

    by_address: Mapping[Address, socket.socket] = attrs.field(factory=dict)

    def find(self, address: Address) -> socket.socket | None:
        """Return the socket for a listener, ready for use, or None if it has to be opened."""
        sock = self.by_address.get(address)
        if sock is not None:
            sock.setblocking(False)
        return sock

    def covers(self, address: Address) -> bool:
        """Return whether the socket of `::` accepts the connections for this address too."""
        host, port = address
        both = self.by_address.get((_ALL_IPV6, port)) if host == _ALL_IPV4 else None
        return both is not None and not both.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)

    def unused_by(self, addresses: Iterable[Address]) -> list[Address]:
        """Return the addresses that none of these listeners has."""
        return sorted(set(self.by_address) - set(addresses))


NO_SOCKETS = InheritedSockets()


def bound_address(sock: socket.socket) -> Address:
    """Return the address of a listening socket."""
    name = sock.getsockname()
    return (name, 0) if isinstance(name, str) else (normalized_host(name[0]), name[1])


def normalized_host(host: str) -> str:
    """Return the same text for every spelling of an IP address."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return "127.0.0.1" if host == "localhost" else host
