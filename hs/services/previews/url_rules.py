"""Which links are not fetched, whatever they lead to."""

from collections.abc import Sequence
from urllib.parse import urlparse

from hs.settings.previews import UrlRule


def is_refused(rules: Sequence[UrlRule], url: str) -> bool:
    """Tell whether all patterns of a rule match the URL; a part it does not have never matches."""
    return any(_matches(rule, url) for rule in rules)


def _matches(rule: UrlRule, url: str) -> bool:
    parts = urlparse(url)
    values = {name: getattr(parts, name) for name in ("scheme", "netloc", "path", "params")}
    values |= {name: getattr(parts, name) for name in ("query", "fragment", "username", "password")}
    values |= {"host": parts.hostname, "hostname": parts.hostname}
    values["port"] = None if parts.port is None else str(parts.port)
    for name, pattern in rule.patterns.items():
        value = values[name]
        if value is None or not pattern.match(value):
            return False
    return True
