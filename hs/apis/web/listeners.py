"""Where a process listens, and the sockets and TLS contexts that come of it."""

import errno
import logging
import os
import socket
import ssl
import stat
from collections.abc import Iterable

import attrs
from hypercorn.config import Config

logger = logging.getLogger(__name__)

BACKLOG = 2048


@attrs.frozen
class ListenerSpec:
    """One listener: an address (or the path of a UNIX socket) and what is served there.

    `mode` is the file mode of a UNIX socket; port 0 lets the system choose.
    """

    resources: frozenset[str]
    host: str = "127.0.0.1"
    port: int = 0
    path: str | None = None
    mode: int = 0o666
    certificate_path: str | None = None
    private_key_path: str | None = None
    x_forwarded: bool = False

    @property
    def has_tls(self) -> bool:
        """Tell whether the listener speaks TLS."""
        return self.certificate_path is not None


@attrs.frozen(eq=False)
class Bound:
    """A listener that listens."""

    spec: ListenerSpec
    sock: socket.socket
    tls: ssl.SSLContext | None

    @property
    def port(self) -> int | None:
        """Give the port that the system chose."""
        return None if self.spec.path is not None else int(self.sock.getsockname()[1])

    @property
    def address(self) -> str:
        """Give the address for a log line."""
        if self.spec.path is not None:
            return f"unix:{self.spec.path}"
        scheme = "https" if self.tls is not None else "http"
        host = f"[{self.spec.host}]" if ":" in self.spec.host else self.spec.host
        return f"{scheme}://{host}:{self.port}"

    def reload_certificate(self) -> None:
        """Read certificate and key again, for the handshakes from now on."""
        if self.tls is not None and self.spec.certificate_path is not None:
            self.tls.load_cert_chain(self.spec.certificate_path, self.spec.private_key_path)

    def forget_path(self) -> None:
        """Remove the file of a UNIX socket."""
        if self.spec.path is not None and os.path.exists(self.spec.path):
            os.unlink(self.spec.path)


def bind_all(specs: Iterable[ListenerSpec]) -> list[Bound]:
    """Open every listener, or none. Raises: OSError, ssl.SSLError."""
    wanted = list(specs)
    ipv4_ports = {one.port for one in wanted if one.path is None and ":" not in one.host}
    bound: list[Bound] = []
    try:
        for spec in wanted:
            tls = tls_context(spec)
            try:
                sock = _open_unix(spec) if spec.path is not None else _open_tcp(spec, ipv4_ports)
            except OSError as error:
                if not _lacks_ipv6(spec, error) or spec.port not in ipv4_ports:
                    raise
                logger.warning("There is no IPv6 here; not listening on %s", spec.host)
                continue
            sock.listen(BACKLOG)
            bound.append(Bound(spec, sock, tls))
    except BaseException:
        for one in bound:
            one.sock.close()
            one.forget_path()
        raise
    return bound


def _lacks_ipv6(spec: ListenerSpec, error: OSError) -> bool:
    """Tell whether a usual IPv6 address is refused because the machine has no IPv6."""
    return spec.host in ("::", "::1") and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


def _open_tcp(spec: ListenerSpec, ipv4_ports: set[int]) -> socket.socket:
    family = socket.AF_INET6 if ":" in spec.host else socket.AF_INET
    place = f"{spec.host} port {spec.port}"
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise OSError(error.errno, error.strerror, place) from None
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and spec.port in ipv4_ports:
            # "::" takes IPv4 too, unless that has a listener of its own.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((spec.host, spec.port))
    except OSError as error:
        sock.close()
        raise OSError(error.errno, error.strerror, place) from None
    return sock


def _open_unix(spec: ListenerSpec) -> socket.socket:
    assert spec.path is not None
    _remove_stale(spec.path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind(spec.path)
        os.chmod(spec.path, spec.mode)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, error.strerror, spec.path) from None
    return sock


def _remove_stale(path: str) -> None:
    """Remove the socket file of a process that is gone. Raises: OSError if it is not gone."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise OSError(errno.EADDRINUSE, "There is a file in the place of the socket", path)
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise OSError(errno.EADDRINUSE, "Another process listens on the socket", path)


def tls_context(spec: ListenerSpec) -> ssl.SSLContext | None:
    """Make the TLS context of a listener: TLS 1.2 and up, HTTP/1.1 before HTTP/2."""
    if not spec.has_tls:
        return None
    config = Config()
    config.certfile = spec.certificate_path
    config.keyfile = spec.private_key_path or spec.certificate_path
    config.ciphers = "ECDHE+AESGCM:ECDHE+CHACHA20"
    # HTTP/2 in Python costs eight times HTTP/1.1; it is there for who has nothing else.
    config.alpn_protocols = ["http/1.1", "h2"]
    try:
        return config.create_ssl_context()
    except OSError as error:
        # Python does not tell which file it could not read.
        files = f"{config.certfile}, {config.keyfile}"
        raise OSError(error.errno, error.strerror or str(error), files) from None
