"""The router: finds the endpoint for a method and a raw path in a trie of path segments.

Rules:

- The path is split into segments before they are percent-decoded, so `%2F` stays inside its
  parameter and cannot reach another endpoint. A proxy in front must not decode paths either.
- A literal segment takes precedence over a parameter. If no endpoint is found below it, the search
  backtracks to the parameter. An empty segment never matches a parameter.
- A trailing slash in the request is ignored unless a declared path has it. If nothing matches
  without the slash either, it counts as an empty last parameter (the state key "").
- HEAD is routed as GET.
- If the path exists only with other methods, WrongMethod lists the methods of all endpoints that
  the search found, because literals and parameters can lead to different endpoints.
- Paths without parameters are looked up in a dictionary first. This is only a shortcut: the trie
  has the same endpoints.

The depth of the search is limited by the declared paths, not by the path of the request. A path
with more segments than any declared one is unknown; it is not even decoded.
"""

from collections.abc import Iterable

from hs.apis.web.http_request import percent_decode
from hs.apis.web.route import Endpoint

# The endpoint and its path parameters, decoded.
Match = tuple[Endpoint, dict[str, str]]


class WrongMethod(Exception):
    """The path exists, but only with other methods."""

    def __init__(self, allowed: Iterable[str]) -> None:
        super().__init__()
        self.allowed = sorted(allowed)


class _Node:
    __slots__ = ("endpoints", "literals", "parameter")

    def __init__(self) -> None:
        self.literals: dict[str, _Node] = {}
        self.parameter: _Node | None = None
        # By method: an endpoint, and the names of its parameters in the order of the path.
        self.endpoints: dict[str, tuple[Endpoint, tuple[str, ...]]] = {}


class Router:
    """The endpoints of one listener. Raises: ValueError if two have the same method and path."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self._root = _Node()
        self._without_parameters: dict[tuple[str, str], Match] = {}
        self._max_segments = 0
        for endpoint in endpoints:
            for path in endpoint.paths:
                self._add(endpoint, path)

    def _add(self, endpoint: Endpoint, path: str) -> None:
        node = self._root
        names: list[str] = []
        segments = path[1:].split("/")
        # One more for a trailing slash.
        self._max_segments = max(self._max_segments, len(segments) + 1)
        for segment in segments:
            if segment.startswith("{"):
                names.append(segment[1:-1])
                node.parameter = node.parameter or _Node()
                node = node.parameter
            else:
                node = node.literals.setdefault(segment, _Node())
        if endpoint.method in node.endpoints:
            rival = node.endpoints[endpoint.method][0]
            raise ValueError(
                f"{endpoint.method} {path} is declared by both {endpoint.name} and {rival.name}"
            )
        node.endpoints[endpoint.method] = (endpoint, tuple(names))
        if not names:
            self._without_parameters[endpoint.method, path] = (endpoint, {})

    def find(self, method: str, raw_path: str) -> Match | None:
        """Return the endpoint and its path parameters; None if the path is unknown.

        Raises: WrongMethod; InvalidParam if the path does not decode to UTF-8 or contains NUL.
        """
        shortcut = self._without_parameters.get((method, raw_path))
        if shortcut is not None:
            return shortcut[0], {}
        segments = raw_path[1:].split("/", self._max_segments)
        if len(segments) > self._max_segments:
            return None
        if "%" in raw_path:
            segments = [percent_decode(segment) for segment in segments]
        if method == "HEAD":
            method = "GET"
        other_methods: set[str] = set()
        match = _walk(self._root, segments, 0, [], method, other_methods)
        if match is None and segments[-1] == "":
            match = _walk(self._root, segments[:-1], 0, [], method, other_methods) or _walk(
                self._root, segments, 0, [], method, other_methods, allow_empty_last=True
            )
        if match is None and other_methods:
            raise WrongMethod(other_methods)
        return match


def _walk(
    node: _Node,
    segments: list[str],
    index: int,
    values: list[str],
    method: str,
    other_methods: set[str],
    allow_empty_last: bool = False,
) -> Match | None:
    """Search below a node; adds the methods of all endpoints with other methods that it meets.

    Recurses only where both a literal and a parameter match.
    """
    count = len(segments)
    while index < count:
        segment = segments[index]
        index += 1
        literal, parameter = node.literals.get(segment), node.parameter
        if not segment and not (allow_empty_last and index == count):
            parameter = None
        if parameter is None:
            if literal is None:
                return None
            node = literal
            continue
        if literal is not None:
            match = _walk(literal, segments, index, values, method, other_methods, allow_empty_last)
            if match is not None:
                return match
        node, values = parameter, [*values, segment]
    candidate = node.endpoints.get(method)
    if candidate is None:
        other_methods.update(node.endpoints)
        return None
    endpoint, names = candidate
    return endpoint, dict(zip(names, values, strict=True))
