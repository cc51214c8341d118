"""From a method and a raw path to an endpoint: a trie of path segments.

Segments are split before they are percent-decoded, so `%2F` stays inside its parameter. Literal
segments win over parameters, with backtracking. A trailing slash makes no difference, unless only
an endpoint with a parameter there is declared: then that parameter is empty.
"""

from collections.abc import Iterable

from hs.apis.web.http_request import decode_text
from hs.apis.web.route import Endpoint

Found = tuple[Endpoint, dict[str, str]]

_ANY = None


class WrongMethod(Exception):
    """The path exists, with other methods."""

    def __init__(self, allowed: Iterable[str]) -> None:
        super().__init__()
        self.allowed = sorted(allowed)


class _Node:
    __slots__ = ("children", "endpoints")

    def __init__(self) -> None:
        self.children: dict[str | None, _Node] = {}
        self.endpoints: dict[str, tuple[Endpoint, tuple[str, ...]]] = {}


class Router:
    """The endpoints of one set of resources."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self._root = _Node()
        self._fixed: dict[tuple[str, str], Found] = {}
        for endpoint in endpoints:
            for path in endpoint.paths:
                self._add(endpoint, path)

    def _add(self, endpoint: Endpoint, path: str) -> None:
        node = self._root
        names: list[str] = []
        for segment in path[1:].split("/"):
            is_parameter = segment.startswith("{")
            if is_parameter:
                names.append(segment[1:-1])
            node = node.children.setdefault(_ANY if is_parameter else segment, _Node())
        if endpoint.method in node.endpoints:
            other = node.endpoints[endpoint.method][0]
            raise ValueError(f"{endpoint.method} {path}: both {endpoint.name} and {other.name}")
        node.endpoints[endpoint.method] = (endpoint, tuple(names))
        if not names:
            self._fixed[endpoint.method, path] = (endpoint, {})

    def find(self, method: str, raw_path: str) -> Found | None:
        """Give the endpoint and its path parameters; None for an unknown path.

        Raises: WrongMethod, InvalidParam for a path that is not UTF-8.
        """
        fixed = self._fixed.get((method, raw_path))
        if fixed is not None:
            return fixed[0], {}
        segments = raw_path[1:].split("/")
        if "%" in raw_path:
            segments = [decode_text(segment) for segment in segments]
        if method == "HEAD":
            method = "GET"
        others: set[str] = set()
        found = _walk(self._root, segments, 0, [], method, others)
        if found is None and segments[-1] == "":
            found = _walk(self._root, segments[:-1], 0, [], method, others) or _walk(
                self._root, segments, 0, [], method, others, empty_last=True
            )
        if found is None and others:
            raise WrongMethod(others)
        return found


def _walk(
    node: _Node,
    segments: list[str],
    index: int,
    values: list[str],
    method: str,
    others: set[str],
    empty_last: bool = False,
) -> Found | None:
    if index == len(segments):
        hit = node.endpoints.get(method)
        if hit is None:
            others.update(node.endpoints)
            return None
        endpoint, names = hit
        return endpoint, dict(zip(names, values, strict=True))
    segment = segments[index]
    literal = node.children.get(segment)
    if literal is not None:
        found = _walk(literal, segments, index + 1, values, method, others, empty_last)
        if found is not None:
            return found
    parameter = node.children.get(_ANY)
    if parameter is None or not (segment or (empty_last and index + 1 == len(segments))):
        return None
    return _walk(parameter, segments, index + 1, [*values, segment], method, others, empty_last)
