"""Settings of listeners: addresses, and the resources served there."""

from pathlib import Path
from typing import Any

import attrs

from hs.settings.fields import block, setting
from hs.settings.kinds import (
    BOOLEAN,
    OBJECT,
    PATH,
    PORT,
    STRING,
    ConfigLocation,
    Kind,
    list_of,
    one_or_more,
    optional,
)

EVERYWHERE = ("::", "0.0.0.0")
LOOPBACK = ("::1", "127.0.0.1")
RESOURCES = (
    "client",
    "federation",
    "media",
    "replication",
    "metrics",
    "health",
    "keys",
    "openid",
    "static",
    "consent",
    "webclient",
)
_MAX_MODE = 0o777
_TYPES = ("http", "metrics", "manhole")


@attrs.frozen(kw_only=True)
class Resource:
    """A named set of paths that a listener serves."""

    names: tuple[str, ...] = setting(
        one_or_more(STRING), (), f"Resources to serve: {', '.join(RESOURCES)}."
    )
    compress: bool = setting(
        BOOLEAN, False, "Compress responses if the client accepts it.", is_effective=False
    )


@attrs.frozen(kw_only=True)
class _ListenerBlock:
    """A listener as written in the configuration."""

    port: int | None = setting(optional(PORT), None, "TCP port; mutually exclusive with `path`.")
    path: Path | None = setting(
        optional(PATH), None, "Path of a Unix socket; mutually exclusive with `port`."
    )
    mode: int | str = setting(
        Kind("file mode", lambda value, _at: value), 0o666, "Permissions of the Unix socket."
    )
    bind_addresses: tuple[str, ...] = setting(
        one_or_more(STRING), (), "IP addresses to listen on; all if missing."
    )
    bind_address: tuple[str, ...] = setting(
        one_or_more(STRING), (), "A single address, instead of `bind_addresses`."
    )
    type: str = setting(
        STRING, "http", "`http`, or `metrics` for a listener that serves metrics only."
    )
    tls: bool = setting(BOOLEAN, False, "Serve TLS with the certificate in `tls_certificate_path`.")
    x_forwarded: bool = setting(
        BOOLEAN,
        False,
        "Take the client's IP address from the X-Forwarded-For of `trusted_proxies`; only behind a "
        "reverse proxy.",
    )
    tag: str | None = setting(
        optional(STRING), None, "Name of the listener in the request log.", is_effective=False
    )
    request_id_header: str | None = setting(
        optional(STRING),
        None,
        "Request header in which the reverse proxy passes a request ID.",
        is_effective=False,
    )
    resources: tuple[Resource, ...] = setting(
        list_of(block(Resource)), (), "Resources served by this listener."
    )
    additional_resources: object = setting(
        OBJECT, {}, "Resources of third-party modules; not supported."
    )


@attrs.frozen(kw_only=True)
class Listener:
    """A TCP port or Unix socket on which the process listens.

    `bind_addresses` is empty for a Unix socket. `is_open` says that no address was configured.
    """

    port: int | None = None
    path: Path | None = None
    mode: int = 0o666
    bind_addresses: tuple[str, ...] = LOOPBACK
    type: str = "http"
    tls: bool = False
    x_forwarded: bool = False
    tag: str | None = None
    request_id_header: str | None = None
    resources: tuple[Resource, ...] = ()
    is_open: bool = False

    @property
    def names(self) -> frozenset[str]:
        """Names of all resources served here."""
        return frozenset(name for resource in self.resources for name in resource.names)

    @property
    def label(self) -> str:
        """Port or path, for people."""
        return str(self.path) if self.path else f"port {self.port}"

    def is_private(self) -> bool:
        """Return whether only this machine can reach the listener."""
        local = {"localhost", "::1"}
        return self.path is not None or all(
            address in local or address.startswith("127.") for address in self.bind_addresses
        )


DEFAULT_LISTENERS = (Listener(port=8008, resources=(Resource(names=("client", "federation")),)),)
_LISTENER_BLOCK = block(_ListenerBlock)


def _mode(value: int | str, at: ConfigLocation) -> int:
    # YAML reads 0660 as octal and 660 as decimal. A decimal number beyond 0o777 is taken to be
    # written in octal digits; smaller ones are real modes.
    if type(value) is int and 0 <= value <= _MAX_MODE:
        return value
    try:
        mode = int(str(value).removeprefix("0o"), 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= _MAX_MODE or isinstance(value, bool):
        at.reject(f"{value!r} is not a file mode", 'write octal digits such as "660"')
    return mode


def _check_type(listener: _ListenerBlock, at: ConfigLocation) -> None:
    if listener.type == "replication":
        at.child("type").reject(
            "the type `replication` is no longer supported",
            "use `type: http` with `resources: [{names: [replication]}]`, and Redis",
        )
    if listener.type not in _TYPES:
        at.child("type").reject(
            f"{listener.type!r} is not a type of listener", f"write one of {', '.join(_TYPES)}"
        )
    if listener.type == "manhole":
        at.note("is not opened: this server has no manhole, an interactive Python shell")


def _check_resources(listener: _ListenerBlock, at: ConfigLocation) -> None:
    for resource in listener.resources:
        for name in resource.names:
            if name not in RESOURCES:
                at.child("resources").reject(
                    f"{name!r} is not a resource", f"use {', '.join(RESOURCES)}"
                )
    if listener.type == "http" and not listener.resources:
        at.warn("has no resources, so it serves nothing but /health")
    if listener.additional_resources:
        at.child("additional_resources").note(
            "has no effect: third-party resources are not supported"
        )


def _read_listener(value: Any, at: ConfigLocation) -> Listener:
    if not isinstance(value, dict):
        at.reject("expected a map", "begin each listener with `- port: …`")
    listener = _LISTENER_BLOCK.read(value, at)
    if (listener.port is None) == (listener.path is None):
        at.reject("a listener needs either a port or a path", "set exactly one of them")
    _check_type(listener, at)
    _check_resources(listener, at)
    addresses = listener.bind_addresses or listener.bind_address
    resources = listener.resources
    if listener.type == "metrics" and not resources:
        resources = (Resource(names=("metrics",)),)
    return Listener(
        port=listener.port,
        path=listener.path,
        mode=_mode(listener.mode, at.child("mode")),
        bind_addresses=()
        if listener.path
        else tuple(address or "0.0.0.0" for address in addresses) or EVERYWHERE,
        type=listener.type,
        tls=listener.tls,
        x_forwarded=listener.x_forwarded,
        tag=listener.tag,
        request_id_header=listener.request_id_header,
        resources=resources,
        is_open=listener.path is None and not addresses,
    )


LISTENERS: Kind[tuple[Listener, ...]] = list_of(
    Kind("listener", _read_listener, {"type": "object"})
)
