"""The listeners of a process: their settings, sockets and TLS contexts."""

import errno
import logging
import os
import socket
import ssl
import stat
from collections.abc import Iterable

import attrs

from hs.apis.web.inherited_sockets import (
    NO_SOCKETS,
    Address,
    InheritedSockets,
    normalized_host,
)

logger = logging.getLogger(__name__)

BACKLOG = 2048
MAX_SOCKET_PATH_BYTES = 107


@attrs.frozen
class ListenerSpec:
    """One listener to open: a TCP address, or the `path` of a UNIX socket with its file `mode`.

    `resources` are served there. Port 0 lets the system choose. `x_forwarded` says that
    trusted proxies pass the addresses of clients in X-Forwarded-For.
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
        """Whether the listener uses TLS."""
        return self.certificate_path is not None

    @property
    def address(self) -> Address:
        """Address, the same for every spelling of an IP address."""
        return (self.path, 0) if self.path is not None else (normalized_host(self.host), self.port)


@attrs.frozen(eq=False)
class BoundListener:
    """An open listener; `is_inherited` says that the parent process opened the socket."""

    spec: ListenerSpec
    sock: socket.socket
    tls: ssl.SSLContext | None
    is_inherited: bool = False

    @property
    def port(self) -> int | None:
        """TCP port, which the system may have chosen; None for a UNIX socket."""
        return None if self.spec.path is not None else int(self.sock.getsockname()[1])

    @property
    def address(self) -> str:
        """Address as a URL, for the log."""
        if self.spec.path is not None:
            return f"unix:{self.spec.path}"
        scheme = "https" if self.tls is not None else "http"
        host = f"[{self.spec.host}]" if ":" in self.spec.host else self.spec.host
        return f"{scheme}://{host}:{self.port}"

    def reload_certificate(self) -> None:
        """Reload certificate and key, for new connections. Raises: OSError, ssl.SSLError."""
        if self.tls is not None and self.spec.certificate_path is not None:
            # A context that fails to load a key has lost the certificate that it had before.
            trial = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            trial.load_cert_chain(self.spec.certificate_path, self.spec.private_key_path)
            self.tls.load_cert_chain(self.spec.certificate_path, self.spec.private_key_path)

    def remove_socket_file(self) -> None:
        """Remove the file of a UNIX socket, unless the parent process goes on with it."""
        if self.is_inherited:
            return
        if self.spec.path is not None and os.path.exists(self.spec.path):
            os.unlink(self.spec.path)


def bind_listeners(
    specs: Iterable[ListenerSpec], inherited: InheritedSockets = NO_SOCKETS
) -> list[BoundListener]:
    """Open all listeners, or none of them if one fails; sockets of the parent are used as they are.

    An IPv6 address is skipped on a machine without IPv6 if its port is also bound on IPv4.
    Raises: OSError, ssl.SSLError.
    """
    specs = list(specs)
    listeners: list[BoundListener] = []
    try:
        for spec in specs:
            tls = tls_context(spec)
            passed = inherited.find(spec.address)
            if passed is not None:
                listeners.append(BoundListener(spec, passed, tls, is_inherited=True))
            elif not inherited.covers(spec.address):
                sock = open_socket(spec, specs)
                if sock is not None:
                    listeners.append(BoundListener(spec, sock, tls))
    except BaseException:
        for bound in listeners:
            bound.sock.close()
            bound.remove_socket_file()
        raise
    return listeners


def address_errors(specs: Iterable[ListenerSpec]) -> list[OSError]:
    """Return why listeners could not be opened, without listening and without creating files."""
    specs = list(specs)
    ipv4_ports = {spec.port for spec in specs if spec.path is None and ":" not in spec.host}
    errors: list[OSError] = []
    for spec in specs:
        try:
            tls_context(spec)
            if spec.path is not None:
                _check_unix(spec.path)
            else:
                _open_tcp(spec, ipv4_ports).close()
        except OSError as error:
            if not _lacks_ipv6(spec, error) or spec.port not in ipv4_ports:
                errors.append(error)
    return errors


def open_socket(spec: ListenerSpec, all_specs: Iterable[ListenerSpec]) -> socket.socket | None:
    """Open the socket of a listener; None for IPv6 on a machine without it. Raises: OSError."""
    ipv4_ports = {other.port for other in all_specs if other.path is None and ":" not in other.host}
    try:
        sock = _open_unix(spec) if spec.path is not None else _open_tcp(spec, ipv4_ports)
    except OSError as error:
        if not _lacks_ipv6(spec, error) or spec.port not in ipv4_ports:
            raise
        logger.warning("this machine has no IPv6, not listening on %s", spec.host)
        return None
    sock.listen(BACKLOG)
    return sock


def _check_unix(path: str) -> None:
    _check_length(path)
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    if not os.access(folder, os.W_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)
    if os.path.exists(path) and not stat.S_ISSOCK(os.stat(path).st_mode):
        raise OSError(errno.EEXIST, "A file that is not a socket exists", path)


def _check_length(path: str) -> None:
    # Python's own error has neither a number nor a file name.
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        reason = f"The path of a socket may have {MAX_SOCKET_PATH_BYTES} bytes"
        raise OSError(errno.ENAMETOOLONG, reason, path)


def _lacks_ipv6(spec: ListenerSpec, error: OSError) -> bool:
    """Return whether `::` or `::1` could not be bound because the machine has no IPv6."""
    return spec.host in ("::", "::1") and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


def _open_tcp(spec: ListenerSpec, ipv4_ports: set[int]) -> socket.socket:
    family = socket.AF_INET6 if ":" in spec.host else socket.AF_INET
    address = f"{spec.host} port {spec.port}"
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise OSError(error.errno, error.strerror, address) from None
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and spec.port in ipv4_ports:
            # By default "::" accepts IPv4 too, which would conflict with the IPv4 listener.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((spec.host, spec.port))
    except OSError as error:
        sock.close()
        raise OSError(error.errno, error.strerror, address) from None
    return sock


def _open_unix(spec: ListenerSpec) -> socket.socket:
    assert spec.path is not None
    _check_length(spec.path)
    _remove_stale_socket(spec.path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind(spec.path)
        os.chmod(spec.path, spec.mode)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, error.strerror, spec.path) from None
    return sock


def _remove_stale_socket(path: str) -> None:
    """Remove the socket file of a process that has ended. Raises: OSError if it is in use."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise OSError(errno.EADDRINUSE, "A file that is not a socket exists", path)
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise OSError(errno.EADDRINUSE, "Another process is listening on this socket", path)


def tls_context(spec: ListenerSpec) -> ssl.SSLContext | None:
    """Return the TLS context of a listener: TLS 1.2 or newer, for HTTP/1.1 only."""
    if not spec.has_tls:
        return None
    certificate, key = spec.certificate_path, spec.private_key_path or spec.certificate_path
    assert certificate is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:
        # Python's error does not name the file that could not be read.
        reason = error.strerror or str(error)
        raise OSError(error.errno, reason, f"{certificate}, {key}") from None
    return context
