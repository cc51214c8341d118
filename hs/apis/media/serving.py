"""Answers that are files: ranges, conditional requests, and headers that keep browsers safe.

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
INLINE: Final = frozenset(
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
SAFETY: Final = {
    "content-security-policy": "sandbox; default-src 'none'; script-src 'none'; "
    "plugin-types application/pdf; style-src 'unsafe-inline'; object-src 'self';",
    "cross-origin-resource-policy": "cross-origin",
    "x-content-type-options": "nosniff",
    "x-robots-tag": "noindex, nofollow, noarchive, noimageindex",
    "referrer-policy": "no-referrer",
}
PUBLIC: Final = "public, max-age=86400, immutable"
PRIVATE: Final = "private, max-age=86400, immutable"
_RANGE: Final = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)
_PLAIN_NAME: Final = re.compile(r"[\x20\x21\x23-\x5b\x5d-\x7e]*", re.ASCII)
_DIGITS: Final = 18

Read = Callable[[int, int], AsyncIterator[bytes]]


@attrs.frozen
class Conditions:
    """What a request says on which part is wanted, and whether at all."""

    range: str | None = None
    if_range: str | None = None
    if_none_match: str | None = None


@attrs.frozen
class ServedFile:
    """A file to answer with; `read(start, length)` gives a part of it, `tag` never changes."""

    content_type: str
    size_bytes: int
    name: str | None
    tag: str
    read: Read
    is_public: bool = False


def serve(file: ServedFile, conditions: Conditions) -> Response:
    """Answer with a file, a part of it, or the word that the client has it already."""
    tag = f'"{file.tag}"'
    headers = {
        **SAFETY,
        "etag": tag,
        "cache-control": PUBLIC if file.is_public else PRIVATE,
        "accept-ranges": "bytes",
    }
    if conditions.if_none_match is not None and _matches(conditions.if_none_match, tag):
        return Response(304, headers)
    headers["content-disposition"] = disposition(file.content_type, file.name)
    size = file.size_bytes
    start, length, status = 0, size, 200
    if conditions.range is not None and conditions.if_range in (None, tag):
        part = _part(conditions.range, size)
        if part is not None:
            start, length = part
            if length <= 0:
                return _no_such_part(size)
            headers["content-range"] = f"bytes {start}-{start + length - 1}/{size}"
            status = 206
    headers["content-type"] = file.content_type
    headers["content-length"] = str(length)
    return Response(status, headers, file.read(start, length) if length else b"")


def _no_such_part(size: int) -> Response:
    refusal = error_response(MatrixError("M_INVALID_PARAM", 416, "There is no such part"))
    headers = {**SAFETY, **refusal.headers, "content-range": f"bytes */{size}"}
    return Response(416, headers, refusal.body)


def disposition(content_type: str, name: str | None) -> str:
    """Say whether a browser may show the content, and under what name it is saved.

    Spec: RFC 6266; RFC 8187 for names that are not ASCII.
    """
    essence = content_type.partition(";")[0].strip().lower()
    kind = "inline" if essence in INLINE else "attachment"
    if name is None:
        return kind
    if _PLAIN_NAME.fullmatch(name):
        return f'{kind}; filename="{name}"'
    return f"{kind}; filename*=utf-8''{quote(name, safe='')}"


def _matches(wanted: str, tag: str) -> bool:
    known = (one.strip().removeprefix("W/") for one in wanted.split(","))
    return wanted.strip() == "*" or tag in known


def _part(wanted: str, size: int) -> tuple[int, int] | None:
    """Read a range: start and length, of which 0 is none; None where the whole is to be given.

    Several ranges at once are not served; the whole is as good an answer.
    """
    match = _RANGE.fullmatch(wanted.replace(" ", ""))
    if match is None or max(map(len, match.groups())) > _DIGITS or match[0] == "bytes=-":
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
