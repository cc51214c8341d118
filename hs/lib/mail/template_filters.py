"""Filters for e-mail templates."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final


def format_ts(ts_ms: int, pattern: str) -> str:
    """Format a time, given in milliseconds since 1970, by a strftime pattern in UTC."""
    return datetime.fromtimestamp(ts_ms / 1000, UTC).strftime(pattern)


FILTERS: Final[Mapping[str, Callable[..., Any]]] = MappingProxyType({"format_ts": format_ts})
