"""From what an endpoint returns to the bytes of a response."""

from collections.abc import AsyncIterable, Mapping
from typing import Any

import attrs
import orjson

from hs.core.errors import MatrixError

Headers = list[tuple[bytes, bytes]]


@attrs.frozen
class Response:
    """A response spelled out: status, headers, and a body as bytes or as a stream of bytes."""

    status: int = 200
    headers: Mapping[str, str] = attrs.field(factory=dict)
    body: bytes | AsyncIterable[bytes] = b""


@attrs.frozen
class Empty:
    """The answer `{}`."""


def wire(name: str, default: Any = attrs.NOTHING) -> Any:
    """Give a field of an answer a name that is no Python identifier."""
    return attrs.field(default=default, kw_only=True, metadata={"wire": name})


def render(value: Any) -> bytes:
    """Write an answer as JSON: attrs values as objects without their None fields."""
    if type(value) is bytes:
        return value
    if value is None:
        return b"{}"
    return orjson.dumps(value, default=_plain)


def json_response(value: Any, status: int = 200) -> Response:
    """Answer JSON with a status other than 200."""
    return Response(status, {"content-type": "application/json"}, render(value))


def html_response(text: str, status: int = 200) -> Response:
    """Answer a page, with the headers that keep it from running what it should not."""
    headers = {
        "content-type": "text/html; charset=utf-8",
        "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; "
        "frame-ancestors 'none'",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
    }
    return Response(status, headers, text.encode())


def redirect(url: str, status: int = 302) -> Response:
    """Send the client elsewhere."""
    return Response(status, {"location": url, "content-type": "text/plain"}, b"")


def error_response(error: MatrixError) -> Response:
    """Write an error the way clients and servers expect it.

    Spec: client-server API, Standard error response; Rate limiting.
    """
    headers = {"content-type": "application/json"}
    retry_after_ms = error.extra.get("retry_after_ms")
    if error.status == 429 and isinstance(retry_after_ms, int):
        headers["retry-after"] = str(max(1, -(-retry_after_ms // 1000)))
    return Response(error.status, headers, render(error.body()))


def _plain(value: Any) -> Any:
    names = _wire_names(type(value))
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
    raise TypeError(f"{type(value).__name__} does not render as JSON")


def _wire_names(kind: type) -> tuple[tuple[str, str], ...] | None:
    if kind not in _NAMES:
        _NAMES[kind] = _declared_names(kind) if attrs.has(kind) else None
    return _NAMES[kind]


def _declared_names(kind: type[attrs.AttrsInstance]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (field.name, field.metadata.get("wire", field.name)) for field in attrs.fields(kind)
    )


# One entry for each class that is ever rendered.
_NAMES: dict[type, tuple[tuple[str, str], ...] | None] = {}
