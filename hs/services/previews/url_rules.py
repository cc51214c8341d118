"""Which links are not fetched, whatever they lead to."""

from collections.abc import Iterator, Sequence
from urllib.parse import ParseResult, urlparse

from hs.settings.sections.previews import UrlRule

_PORTS = {"http": 80, "https": 443}


def is_refused(rules: Sequence[UrlRule], url: str) -> bool:
    """Tell whether all patterns of a rule match the URL; a part it does not have never matches.

    Raises: ValueError, if it is no URL.
    """
    return any(_matches(rule, parts) for parts in _spellings(url) for rule in rules)


def _spellings(url: str) -> Iterator[ParseResult]:
    """Give the parts of a URL as they are written, and with the host as rules would name it."""
    parts = urlparse(url)
    yield parts
    host = (parts.hostname or "").rstrip(".")
    host = f"[{host}]" if ":" in host else host
    usual_port = parts.port in (None, _PORTS.get(parts.scheme))
    yield parts._replace(netloc=host if usual_port else f"{host}:{parts.port}")


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
