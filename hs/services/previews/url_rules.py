"""The configured rules that block URLs from being previewed."""

from collections.abc import Iterator, Sequence
from urllib.parse import ParseResult, urlparse

from hs.settings.sections.previews import UrlRule

_PORTS = {"http": 80, "https": 443}


def is_blocked(rules: Sequence[UrlRule], url: str) -> bool:
    """Return whether all patterns of any rule match a URL; a missing part never matches.

    Raises: ValueError if the URL is invalid.
    """
    return any(_matches(rule, parts) for parts in _spellings(url) for rule in rules)


def _spellings(url: str) -> Iterator[ParseResult]:
    """Yield the parts of a URL as written, and with the host and port normalized."""
    parts = urlparse(url)
    yield parts
    host = (parts.hostname or "").rstrip(".")
    host = f"[{host}]" if ":" in host else host
    is_default_port = parts.port in (None, _PORTS.get(parts.scheme))
    yield parts._replace(netloc=host if is_default_port else f"{host}:{parts.port}")


def _matches(rule: UrlRule, parts: ParseResult) -> bool:
    values = {name: getattr(parts, name) for name in ("scheme", "netloc", "path", "params")}
    values |= {name: getattr(parts, name) for name in ("query", "fragment", "username", "password")}
    values |= {"host": parts.hostname, "hostname": parts.hostname}
    values["port"] = None if parts.port is None else str(parts.port)
    for name, pattern in rule.patterns.items():
        value = values[name]
        if value is None or not pattern.match(value):
            return False
    return True
