"""Filters that templates of e-mails may use."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final


def format_ts(ts_ms: int, pattern: str) -> str:
    """Write a moment, given in milliseconds, by a pattern of strftime; in UTC."""
    return datetime.fromtimestamp(ts_ms / 1000, UTC).strftime(pattern)


FILTERS: Final[Mapping[str, Callable[..., Any]]] = MappingProxyType({"format_ts": format_ts})
