"""Where a process listens, and what it offers there."""

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
    At,
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
_ALL_MAY = 0o777
_TYPES = ("http", "metrics", "manhole")


@attrs.frozen(kw_only=True)
class Resource:
    """A set of paths that a listener serves."""

    names: tuple[str, ...] = setting(
        one_or_more(STRING), (), f"What is served: {', '.join(RESOURCES)}."
    )
    compress: bool = setting(
        BOOLEAN, False, "Compress answers when the client can read them.", is_effective=False
    )


@attrs.frozen(kw_only=True)
class _Written:
    """A listener as the file has it."""

    port: int | None = setting(optional(PORT), None, "TCP port; exclusive with `path`.")
    path: Path | None = setting(optional(PATH), None, "Unix socket; exclusive with `port`.")
    mode: int | str = setting(
        Kind("file mode", lambda value, _at: value), 0o666, "Permissions of the Unix socket."
    )
    bind_addresses: tuple[str, ...] = setting(
        one_or_more(STRING), (), "Addresses to listen on; all when missing."
    )
    bind_address: tuple[str, ...] = setting(one_or_more(STRING), (), "The same, for one address.")
    type: str = setting(STRING, "http", "`http`, or `metrics` for a port with metrics alone.")
    tls: bool = setting(BOOLEAN, False, "Serve TLS with `tls_certificate_path`.")
    x_forwarded: bool = setting(
        BOOLEAN, False, "Take the client's address from X-Forwarded-For: only behind a proxy."
    )
    tag: str | None = setting(
        optional(STRING), None, "Name of the listener in the request log.", is_effective=False
    )
    request_id_header: str | None = setting(
        optional(STRING), None, "Header of the proxy that names the request.", is_effective=False
    )
    resources: tuple[Resource, ...] = setting(list_of(block(Resource)), (), "What is served here.")
    additional_resources: object = setting(OBJECT, {}, "Third-party resources; not supported.")


@attrs.frozen(kw_only=True)
class Listener:
    """One bound port or socket.

    `bind_addresses` is empty for a Unix socket. `is_open` tells that no address was asked for.
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
        """The names of all resources offered here."""
        return frozenset(name for resource in self.resources for name in resource.names)

    @property
    def label(self) -> str:
        """The address as a person would write it."""
        return str(self.path) if self.path else f"port {self.port}"

    def is_private(self) -> bool:
        """Tell whether only this machine can reach it."""
        local = {"localhost", "::1"}
        return self.path is not None or all(
            address in local or address.startswith("127.") for address in self.bind_addresses
        )


DEFAULT_LISTENERS = (Listener(port=8008, resources=(Resource(names=("client", "federation")),)),)
_WRITTEN = block(_Written)


def _mode(value: int | str, at: At) -> int:
    # YAML reads 0660 as octal and 660 as decimal, and who may not read and write is not meant; so
    # a number beyond 0o777 is one whose digits are octal.
    if type(value) is int and 0 <= value <= _ALL_MAY:
        return value
    try:
        mode = int(str(value).removeprefix("0o"), 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= _ALL_MAY or isinstance(value, bool):
        at.refuse(f"{value!r} is not a file mode", 'write octal digits such as "660"')
    return mode


def _check_type(written: _Written, at: At) -> None:
    if written.type == "replication":
        at.child("type").refuse(
            "listeners of type replication no longer exist",
            "use `type: http` with `resources: [{names: [replication]}]`, and Redis",
        )
    if written.type not in _TYPES:
        at.child("type").refuse(
            f"{written.type!r} is not a type of listener", f"write one of {', '.join(_TYPES)}"
        )
    if written.type == "manhole":
        at.note("not yet effective: this server has no manhole")


def _check_resources(written: _Written, at: At) -> None:
    for resource in written.resources:
        for name in resource.names:
            if name not in RESOURCES:
                at.child("resources").refuse(
                    f"{name!r} is not a resource", f"write some of {', '.join(RESOURCES)}"
                )
    if written.type == "http" and not written.resources:
        at.warn("has no resources, so nothing but /health is served there")
    if written.additional_resources:
        at.child("additional_resources").note("not yet effective")


def _read_listener(value: Any, at: At) -> Listener:
    if not isinstance(value, dict):
        at.refuse("expected a map", "each listener starts with `- port: …`")
    written = _WRITTEN.read(value, at)
    if (written.port is None) == (written.path is None):
        at.refuse("a listener has either a port or a path", "give exactly one of the two")
    _check_type(written, at)
    _check_resources(written, at)
    asked = written.bind_addresses or written.bind_address
    resources = written.resources
    if written.type == "metrics" and not resources:
        resources = (Resource(names=("metrics",)),)
    return Listener(
        port=written.port,
        path=written.path,
        mode=_mode(written.mode, at.child("mode")),
        bind_addresses=()
        if written.path
        else tuple(one or "0.0.0.0" for one in asked) or EVERYWHERE,
        type=written.type,
        tls=written.tls,
        x_forwarded=written.x_forwarded,
        tag=written.tag,
        request_id_header=written.request_id_header,
        resources=resources,
        is_open=written.path is None and not asked,
    )


LISTENERS: Kind[tuple[Listener, ...]] = list_of(
    Kind("listener", _read_listener, {"type": "object"})
)
