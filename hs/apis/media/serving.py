"""Responses that are files: ranges, conditional requests, and security headers.

Spec: client-server API, Content repository; RFC 9110, 13.1 and 14.
"""

import re
from collections.abc import AsyncIterator, Callable
from typing import Final
from urllib.parse import quote

import attrs

from hs.apis.web.render import Response, error_response
from hs.core.errors import MatrixError

# Spec: client-server API, Serving inline content.
INLINE_TYPES: Final = frozenset(
    (
        "text/css",
        "text/plain",
        "text/csv",
        "application/json",
        "application/ld+json",
        "image/jpeg",
        "image/gif",
        "image/png",
        "image/apng",
        "image/webp",
        "image/avif",
        "video/mp4",
        "video/webm",
        "video/ogg",
        "video/quicktime",
        "audio/mp4",
        "audio/webm",
        "audio/aac",
        "audio/mpeg",
        "audio/ogg",
        "audio/wave",
        "audio/wav",
        "audio/x-wav",
        "audio/x-pn-wav",
        "audio/flac",
        "audio/x-flac",
    )
)
SECURITY_HEADERS: Final = {
    "content-security-policy": "sandbox; default-src 'none'; script-src 'none'; "
    "plugin-types application/pdf; style-src 'unsafe-inline'; object-src 'self';",
    "cross-origin-resource-policy": "cross-origin",
    "x-content-type-options": "nosniff",
    "x-robots-tag": "noindex, nofollow, noarchive, noimageindex",
    "referrer-policy": "no-referrer",
}
PUBLIC_CACHE: Final = "public, max-age=86400, immutable"
PRIVATE_CACHE: Final = "private, max-age=86400, immutable"
_RANGE: Final = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)
_QUOTABLE_NAME: Final = re.compile(r"[\x20\x21\x23-\x5b\x5d-\x7e]*", re.ASCII)
_MAX_DIGITS: Final = 18

Read = Callable[[int, int], AsyncIterator[bytes]]


@attrs.frozen
class RangeConditions:
    """The headers of a request for ranges and revalidation."""

    range: str | None = None
    if_range: str | None = None
    if_none_match: str | None = None


@attrs.frozen
class ServedFile:
    """A file to serve; `read(start, length)` yields a part of it.

    `tag` identifies the content, which never changes.
    """

    content_type: str
    size_bytes: int
    name: str | None
    tag: str
    read: Read
    is_public: bool = False


def serve(file: ServedFile, conditions: RangeConditions) -> Response:
    """Return the file, the requested part of it, 304 if it is unmodified, or 416."""
    tag = f'"{file.tag}"'
    headers = {
        **SECURITY_HEADERS,
        "etag": tag,
        "cache-control": PUBLIC_CACHE if file.is_public else PRIVATE_CACHE,
        "accept-ranges": "bytes",
    }
    if conditions.if_none_match is not None and _matches(conditions.if_none_match, tag):
        return Response(304, headers)
    headers["content-disposition"] = disposition(file.content_type, file.name)
    size = file.size_bytes
    start, length, status = 0, size, 200
    if conditions.range is not None and conditions.if_range in (None, tag):
        part = _parse_range(conditions.range, size)
        if part is not None:
            start, length = part
            if length <= 0:
                return _range_not_satisfiable(size)
            headers["content-range"] = f"bytes {start}-{start + length - 1}/{size}"
            status = 206
    headers["content-type"] = file.content_type
    headers["content-length"] = str(length)
    return Response(status, headers, file.read(start, length) if length else b"")


def _range_not_satisfiable(size: int) -> Response:
    error = error_response(MatrixError("M_INVALID_PARAM", 416, "The range is beyond the end"))
    headers = {**SECURITY_HEADERS, **error.headers, "content-range": f"bytes */{size}"}
    return Response(416, headers, error.body)


def disposition(content_type: str, name: str | None) -> str:
    """Return the Content-Disposition: inline only for safe types, with the file name.

    Spec: RFC 6266; RFC 8187 for names that are not ASCII.
    """
    essence = content_type.partition(";")[0].strip().lower()
    kind = "inline" if essence in INLINE_TYPES else "attachment"
    if name is None:
        return kind
    if _QUOTABLE_NAME.fullmatch(name):
        return f'{kind}; filename="{name}"'
    return f"{kind}; filename*=utf-8''{quote(name, safe='')}"


def _matches(if_none_match: str, tag: str) -> bool:
    tags = (listed.strip().removeprefix("W/") for listed in if_none_match.split(","))
    return if_none_match.strip() == "*" or tag in tags


def _parse_range(range_header: str, size: int) -> tuple[int, int] | None:
    """Return start and length of a range; length 0 if it is beyond the end of the file.

    Return None to serve the whole file: if the header is invalid, or has several ranges, which
    are not supported.
    """
    match = _RANGE.fullmatch(range_header.replace(" ", ""))
    if match is None or max(map(len, match.groups())) > _MAX_DIGITS or match[0] == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        length = min(int(last), size)
        return size - length, length
    start = int(first)
    if last and int(last) < start:
        return None
    end = min(int(last), size - 1) if last else size - 1
    return start, max(0, end - start + 1)
