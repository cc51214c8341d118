"""TLS connections to permitted addresses, directly or through a forward proxy.

Rules:

- Each connection goes to an address that was checked in its resolved form. So a name cannot change
  its address after the check.
- A name is resolved for each connection. Of its addresses, the next one is tried when the one
  before has failed or has not responded for a while.
- A forward proxy resolves names itself. Names are therefore also resolved and checked here before;
  a name that resolves differently at the proxy is a matter of the proxy's own rules. The proxy was
  chosen by the administrator and may have any address.
"""

import base64
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

import attrs
import trio

from hs.lib.fairness.turns import Turns
from hs.lib.http_client import HttpBlocked, HttpFault, HttpNotConnected
from hs.lib.http_client.addresses import Address, AddressRules, parse_address
from hs.lib.http_client.http1 import ResponseParser, encode_connect
from hs.lib.http_client.targets import NO_PROXIES, Proxies, parse_target
from hs.lib.http_client.wires import SocketWire, TlsWire, connect_socket, tls_over

CONNECT_S: Final = 10.0
NEXT_ADDRESS_S: Final = 0.25
MAX_ADDRESSES: Final = 8
RESOLVER_THREADS: Final = 8
HANDSHAKES_OF_PASS: Final = 4

Resolve = Callable[[str], Awaitable[Sequence[str]]]


class ConnectionTarget(NamedTuple):
    """Where a connection goes, and the name or address for which its certificate is verified."""

    host: str
    port: int
    certificate_name: str
    tls: ssl.SSLContext

    @property
    def authority(self) -> str:
        """Host and port."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@attrs.frozen(eq=False)
class Connecting:
    """Opens connections.

    `resolve` returns the addresses of a name; by default the system's resolver is used.
    """

    _rules: AddressRules
    _proxies: Proxies = NO_PROXIES
    _resolve: Resolve | None = None
    _threads: trio.CapacityLimiter = attrs.field(
        factory=lambda: trio.CapacityLimiter(RESOLVER_THREADS), kw_only=True
    )
    _turns: Turns[None] = attrs.field(factory=lambda: Turns(HANDSHAKES_OF_PASS), init=False)

    async def open(self, target: ConnectionTarget) -> TlsWire:
        """Open a connection. Raises: HttpBlocked, HttpNotConnected."""
        checked = parse_target(f"https://{target.authority}/")
        if checked.literal is not None and not self._rules.permits(checked.literal):
            raise HttpBlocked(f"{target.host} is a blocked address")
        proxy = self._proxies.proxy_for(checked)
        connect: Callable[[], Awaitable[SocketWire | TlsWire]]
        try:
            if proxy is not None:
                await self._check_before_proxy(target.host, checked.literal)
                connect = partial(_open_tunnel, proxy, target, self._turns)
            else:
                addresses = await self._permitted_addresses(target.host, checked.literal)
                connect = partial(_connect_first, addresses, target.port)
            with trio.move_on_after(CONNECT_S):
                lower = await connect()
                return await _start_tls(lower, target.tls, target.certificate_name, self._turns)
        except (OSError, ValueError) as error:
            raise HttpNotConnected(f"{target.authority}: {_reason(error)}") from error
        raise HttpNotConnected(f"{target.authority}: no connection after {CONNECT_S:g} s")

    async def _permitted_addresses(self, host: str, literal: Address | None) -> Sequence[str]:
        if literal is not None:
            return [host]
        addresses = await self._addresses_of(host)
        permitted = [text for text in addresses if self._is_permitted(text)]
        if addresses and not permitted:
            raise HttpBlocked(f"{host} resolves to a blocked address")
        return permitted[:MAX_ADDRESSES]

    async def _check_before_proxy(self, host: str, literal: Address | None) -> None:
        # Without blocked addresses, the proxy alone need resolve the name.
        if literal is None and self._rules.blocked:
            for text in await self._addresses_of(host):
                if not self._is_permitted(text):
                    raise HttpBlocked(f"{host} resolves to a blocked address")

    async def _addresses_of(self, host: str) -> Sequence[str]:
        if self._resolve is not None:
            return await self._resolve(host)
        # With a limit of their own, as slow names must not delay other work in threads.
        return await trio.to_thread.run_sync(
            system_resolve, host, limiter=self._threads, abandon_on_cancel=True
        )

    def _is_permitted(self, text: str) -> bool:
        address = parse_address(text)
        return address is not None and self._rules.permits(address)


async def _start_tls(
    lower: SocketWire | TlsWire, context: ssl.SSLContext, server_name: str, turns: Turns[None]
) -> TlsWire:
    """Begin TLS. Raises: OSError, ValueError."""
    try:
        wire = tls_over(lower, context, server_name)
        await wire.handshake(turns)
    except BaseException:
        lower.close()
        raise
    return wire


async def _connect_first(addresses: Sequence[str], port: int) -> SocketWire:
    """Connect to the first address that responds. Raises: OSError, of the first one that failed."""
    errors: list[OSError] = []
    connected: list[SocketWire] = []

    async def connect(address: str, has_ended: trio.Event) -> None:
        try:
            connected.append(await connect_socket(address, port))
        except OSError as error:
            errors.append(error)
            has_ended.set()
        else:
            nursery.cancel_scope.cancel()

    if len(addresses) == 1:
        return await connect_socket(addresses[0], port)
    try:
        async with trio.open_nursery() as nursery:
            for address in addresses:
                has_ended = trio.Event()
                nursery.start_soon(connect, address, has_ended)
                with trio.move_on_after(NEXT_ADDRESS_S):
                    await has_ended.wait()
        chosen = connected.pop() if connected else None
    finally:
        for superfluous in connected:
            superfluous.close()
    if chosen is None:
        raise errors[0] if errors else OSError("the name has no address")
    return chosen


async def _open_tunnel(
    proxy: str, target: ConnectionTarget, turns: Turns[None]
) -> SocketWire | TlsWire:
    """Let a proxy connect to a server. Raises: OSError, ValueError, HttpBlocked."""
    parts = urlsplit(proxy)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    addresses = await trio.to_thread.run_sync(system_resolve, host, abandon_on_cancel=True)
    wire: SocketWire | TlsWire = await _connect_first(addresses[:MAX_ADDRESSES], port)
    if parts.scheme == "https":
        wire = await _start_tls(wire, target.tls, host, turns)
    headers = {}
    if parts.username is not None:
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        headers["proxy-authorization"] = f"Basic {base64.b64encode(credentials).decode()}"
    try:
        await wire.send(encode_connect(target.authority, headers))
        status = await _status_of_tunnel(wire)
        if status != 200:
            raise OSError(f"the proxy responded with status {status}")
    except BaseException:
        wire.close()
        raise
    return wire


async def _status_of_tunnel(wire: SocketWire | TlsWire) -> int:
    parser = ResponseParser("CONNECT")
    try:
        while parser.head is None:
            if received := await wire.receive():
                parser.feed(received)
            else:
                parser.feed_end()
    except HttpFault as fault:
        raise OSError(f"the proxy: {fault.message}") from None
    return parser.head.status


def system_resolve(host: str) -> list[str]:
    """Return the addresses of a name, by the resolver of the system. Raises: OSError."""
    entries = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in entries))


def _reason(error: BaseException) -> str:
    """Return why there is no connection, in the words of the system or of OpenSSL."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not accepted: {error.verify_message}"
    strerror = error.strerror if isinstance(error, OSError) else None
    return strerror or str(error) or type(error).__name__
