"""How long a server that limits requests asks others to wait.

Spec: client-server API, Rate limiting; RFC 9110, section 10.2.3.
"""

import re
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from hs.core.canonical_json import parse_json
from hs.core.errors import MatrixError
from hs.services.federation_client.peer_transport import PeerResponse

LIMITED: Final = 429
LONGEST_S: Final = 3600.0
"""No server can stop this one for longer."""

MAX_BODY_BYTES: Final = 65_536
_SECONDS: Final = re.compile(r"\d{1,9}", re.ASCII)


def retry_after_s(response: PeerResponse) -> float | None:
    """Return for how long a server that responded 429 wants no requests; None if it does not say.

    A response without a body, which is still to be received, counts by its headers only.
    """
    if response.status != LIMITED:
        return None
    wait_s = _in_headers(response)
    if wait_s is None:
        wait_s = _in_body(response.body)
    return None if wait_s is None else min(max(wait_s, 0.0), LONGEST_S)


def _in_headers(response: PeerResponse) -> float | None:
    value = response.headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(value):
        return float(value)
    until, now = _date(value), _date(response.headers.get("date", ""))
    return None if until is None or now is None else (until - now).total_seconds()


def _date(text: str) -> datetime | None:
    with suppress(ValueError, OverflowError, IndexError):
        date = parsedate_to_datetime(text)
        return date if date.tzinfo is not None else date.replace(tzinfo=UTC)
    return None


def _in_body(body: bytes) -> float | None:
    content = None
    if len(body) <= MAX_BODY_BYTES:
        with suppress(MatrixError):
            content = parse_json(body)
    wait_ms = content.get("retry_after_ms") if isinstance(content, dict) else None
    if isinstance(wait_ms, bool) or not isinstance(wait_ms, int):
        return None
    return wait_ms / 1000
