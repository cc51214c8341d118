"""Resolution of server names.

Spec: server-server API, Resolving server names. The numbers in comments are its steps.
"""

import ipaddress
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, Protocol

import attrs

from hs.core.errors import InvalidParam, RemoteFault
from hs.core.ids import ServerName, parse_server_name
from hs.lib.srv_records import SrvRecord

DEFAULT_PORT: Final = 8448
MAX_PORT: Final = 65535
CACHED_NAMES: Final = 10_000
SRV_SERVICES: Final = ("_matrix-fed._tcp", "_matrix._tcp")


@attrs.frozen
class ServerAddress:
    """A name or IP address, without brackets, and a port."""

    host: str
    port: int


@attrs.frozen
class ServerRoute:
    """The addresses of a server in the order in which they are to be tried.

    `host_header` is sent in requests; the certificate must be valid for `certificate_name`, a name
    or an IP address. `reason` says how the addresses were found, for administrators.
    """

    addresses: tuple[ServerAddress, ...]
    host_header: str
    certificate_name: str
    reason: str


class Delegations(Protocol):
    """What a domain says about where its server is."""

    async def delegated_name(self, hostname: str) -> ServerName | None:
        """Return the name in the well-known file of a host; None without a valid one."""
        ...

    async def srv_records(self, name: str) -> Sequence[SrvRecord]:
        """Return SRV records in the order of use; none if the look-up fails."""
        ...


async def discover(server: ServerName, delegations: Delegations) -> ServerRoute:
    """Return the route to a server.

    Raises: RemoteFault, if its name is not valid, or if it says that it has no address.
    """
    route = _route_by_name(server)
    if route is not None:
        return route
    hostname = server
    delegated = await delegations.delegated_name(hostname)  # 3
    if delegated is not None:
        route = _fixed_route(delegated, "well-known")  # 3.1, 3.2
        if route is not None:
            return route
        hostname = delegated
    how = "well-known, " if delegated is not None else ""
    for service in SRV_SERVICES:  # 3.3, 3.4, 4, 5
        records = await delegations.srv_records(f"{service}.{hostname}")
        if not records:
            continue
        addresses = tuple(ServerAddress(row.host, row.port) for row in records if row.host)
        if not addresses:
            raise RemoteFault(server, f"its SRV record of {service} says that it has no server")
        return ServerRoute(addresses, hostname, hostname, f"{how}SRV record of {service}")
    address = ServerAddress(hostname, DEFAULT_PORT)  # 3.5, 6
    return ServerRoute((address,), hostname, hostname, f"{how}port {DEFAULT_PORT}")


@lru_cache(maxsize=CACHED_NAMES)
def _route_by_name(server: ServerName) -> ServerRoute | None:
    """Return the route that the name alone determines. Raises: RemoteFault."""
    try:
        parse_server_name(server)
    except InvalidParam as fault:
        raise RemoteFault(server, fault.message, retry=False) from None
    return _fixed_route(server, "server name")  # 1, 2


def _fixed_route(name: ServerName, how: str) -> ServerRoute | None:
    """Return the route to an IP address, or to a name with a port; None for a mere name.

    Raises: RemoteFault, if there is no such port.
    """
    host, port = split_server_name(name)
    if not is_ip_address(host) and port is None:
        return None
    if port is not None and not 0 < port <= MAX_PORT:
        raise RemoteFault(name, f"there is no port {port}", retry=False)
    address = ServerAddress(host, DEFAULT_PORT if port is None else port)
    return ServerRoute((address,), name, host, how)


def split_server_name(name: ServerName) -> tuple[str, int | None]:
    """Return the host, without brackets, and the port, if the name has one."""
    if name.startswith("["):
        host, _, rest = name[1:].partition("]")
        port = rest.removeprefix(":")
    else:
        host, _, port = name.partition(":")
    return host, int(port) if port else None


def is_ip_address(host: str) -> bool:
    """Return whether a host is an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
