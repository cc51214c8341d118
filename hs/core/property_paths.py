"""Dot-separated paths to a property of an event, as used in filters and push rules.

Spec: appendices, Dot-separated property paths.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, TypeAlias

PropertyPath: TypeAlias = tuple[str, ...]

# A dot, or a backslash that escapes a dot or a backslash; any other backslash is a literal.
_TOKEN = re.compile(r"\\([.\\])|(\.)")


class Absent:
    """The type of ABSENT."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = Absent()
"""Marks a property that does not exist, since None is a value."""


@lru_cache(maxsize=4096)
def parse_property_path(text: str) -> PropertyPath:
    """Split a path into property names."""
    names: list[str] = []
    name = ""
    last = 0
    for token in _TOKEN.finditer(text):
        name += text[last : token.start()]
        last = token.end()
        if token[2]:
            names.append(name)
            name = ""
        else:
            name += token[1]
    names.append(name + text[last:])
    return tuple(names)


def property_at(tree: Mapping[str, Any], path: PropertyPath) -> Any:
    """Return the property at a path, or ABSENT."""
    node: Any = tree
    for name in path:
        # The first check is much quicker, and almost always enough.
        if type(node) is not dict and not isinstance(node, Mapping):
            return ABSENT
        node = node.get(name, ABSENT)
        if node is ABSENT:
            return ABSENT
    return node
