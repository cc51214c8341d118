"""Rendering: from the result of a handler to the body and headers of a response."""

from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from typing import Any

import attrs
import orjson

from hs.apis.web.transport import Transport
from hs.core.errors import MatrixError

Headers = list[tuple[bytes, bytes]]


@attrs.frozen(eq=False)
class Upgrade:
    """The switch of a connection to another protocol, which `run` speaks until it returns."""

    protocol: str
    run: Callable[[Transport], Awaitable[None]]


@attrs.frozen
class Response:
    """A response with its status and headers; the body is bytes or a stream of bytes.

    With an `Upgrade`, the response is 101 whatever the status and headers.
    """

    status: int = 200
    headers: Mapping[str, str] = attrs.field(factory=dict)
    body: bytes | AsyncIterable[bytes] | Upgrade = b""


@attrs.frozen
class Empty:
    """The response `{}`."""


def json_name(name: str, default: Any = attrs.NOTHING) -> Any:
    """Declare a field of a response class whose JSON key is not a Python identifier."""
    return attrs.field(default=default, kw_only=True, metadata={"json_name": name})


def render(value: Any) -> bytes:
    """Render a value as JSON: attrs instances as objects, without their None fields."""
    if type(value) is bytes:
        return value
    if value is None:
        return b"{}"
    return orjson.dumps(value, default=_to_json)


def json_response(value: Any, status: int = 200) -> Response:
    """Return a JSON response with any status."""
    return Response(status, {"content-type": "application/json"}, render(value))


def html_response(text: str, status: int = 200) -> Response:
    """Return a page, with headers that forbid scripts, framing and external resources."""
    headers = {
        "content-type": "text/html; charset=utf-8",
        "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; "
        "frame-ancestors 'none'",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
    }
    return Response(status, headers, text.encode())


def redirect(url: str, status: int = 302) -> Response:
    """Return a redirect to the URL."""
    return Response(status, {"location": url, "content-type": "text/plain"}, b"")


def error_response(error: MatrixError) -> Response:
    """Return the response for an error, with Retry-After in whole seconds if it has one.

    Spec: client-server API, Standard error response; Rate limiting.
    """
    headers = {"content-type": "application/json"}
    retry_after_ms = error.extra.get("retry_after_ms")
    if error.status in (429, 503) and isinstance(retry_after_ms, int):
        headers["retry-after"] = str(max(1, -(-retry_after_ms // 1000)))
    return Response(error.status, headers, render(error.body()))


def _to_json(value: Any) -> Any:
    """Convert what orjson cannot render."""
    names = _json_names(type(value))
    if names is not None:
        return {
            name: member
            for attribute, name in names
            if (member := getattr(value, attribute)) is not None
        }
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} cannot be rendered as JSON")


def _json_names(kind: type) -> tuple[tuple[str, str], ...] | None:
    """Return the attributes of an attrs class with their JSON keys; None for other classes."""
    if kind not in _JSON_NAMES:
        _JSON_NAMES[kind] = _declared_names(kind) if attrs.has(kind) else None
    return _JSON_NAMES[kind]


def _declared_names(kind: type[attrs.AttrsInstance]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (field.name, field.metadata.get("json_name", field.name)) for field in attrs.fields(kind)
    )


# One entry for each class that was ever rendered; never invalidated, as classes do not change.
_JSON_NAMES: dict[type, tuple[tuple[str, str], ...] | None] = {}
