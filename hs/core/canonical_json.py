"""Canonical JSON, and bounded parsing of JSON from clients and servers.

Rules:

- Canonical JSON is checked before it is written. orjson sorts keys by code point and writes the
  shortest form, but it also writes floats, which the specification forbids.
- Events of room versions 1 to 5 may contain floats and integers out of range. They are written by
  the `canonicaljson` library, because the hashes that other servers compute are over its output.
- Nesting is bounded by MAX_DEPTH before anything recurses, so that input from outside cannot
  exhaust the stack. dicts and lists, which is what the parser returns, are checked level by level
  without recursion.

Spec: appendices, Canonical JSON.
"""

import json
from collections.abc import Mapping
from typing import Any

import canonicaljson
import orjson

from hs.core.errors import BadJson, NotJson

JsonObject = dict[str, Any]

MAX_INTEGER = 2**53 - 1
MAX_DEPTH = 200
# orjson writes values up to this depth, and reads them up to a depth of 1024.
WRITABLE_DEPTH = 254

_OPTIONS = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER


def canonical_json(value: object) -> bytes:
    """Check a value and encode it as canonical JSON.

    Raises: BadJson.
    """
    check_canonical(value)
    return encode_checked(value)


def encode_checked(value: object) -> bytes:
    """Encode a value, already checked to contain no floats, as canonical JSON.

    Raises: BadJson, if an integer is out of range or a string contains a lone surrogate.
    """
    try:
        return orjson.dumps(value, option=_OPTIONS)
    except orjson.JSONEncodeError as fault:
        raise BadJson(f"Not canonical JSON: {fault}") from fault


def encode_lenient(value: object) -> bytes:
    """Encode a value that may contain floats and large integers, as events of old rooms may.

    Raises: BadJson, if the value cannot be written as JSON or is nested too deeply.
    """
    if _is_canonical(value):
        return encode_checked(value)
    _check_depth(value, MAX_DEPTH)
    return _encode_unchecked(value)


def encode_deep(value: object) -> bytes:
    """Encode a value like `encode_lenient`, nested as deeply as the encoder can follow.

    Raises: BadJson, if the value cannot be written as JSON.
    """
    return encode_checked(value) if _is_canonical(value) else _encode_unchecked(value)


def _encode_unchecked(value: object) -> bytes:
    try:
        return canonicaljson.encode_canonical_json(value)
    except (TypeError, ValueError, RecursionError) as fault:
        raise BadJson(f"Not valid JSON: {fault}") from fault


def shrink_to_fit(encoded: bytes) -> bytes:
    """Return a copy of encoded bytes without the spare capacity behind them.

    orjson allocates at least 4 KiB; most messages are far shorter, so bytes kept in a cache are
    copied to their exact size first.
    """
    return bytes(memoryview(encoded))


def check_canonical(value: object, depth: int = MAX_DEPTH) -> None:
    """Check that a value can be written as canonical JSON.

    `depth` is the number of levels of nesting that are still allowed.

    Raises: BadJson, for floats, integers out of range, types unknown to JSON and values nested too
        deeply.
    """
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return
    if kind is int:
        if not -MAX_INTEGER <= value <= MAX_INTEGER:  # type: ignore[operator]  # it is an int
            raise BadJson("Integers must be between -(2**53)+1 and (2**53)-1")
    elif isinstance(value, dict | Mapping):
        _check_members(value.values(), depth)
    elif kind is list or kind is tuple:
        _check_members(value, depth)
    elif kind is float:
        raise BadJson("Floats are not allowed in canonical JSON")
    else:
        raise BadJson(f"A value of type {kind.__name__} cannot be written as JSON")


def _check_members(members: Any, depth: int) -> None:
    # Level by level rather than by recursion: most members then cost no function call.
    level = [members]
    while level:
        if depth == 0:
            raise BadJson("The JSON is nested too deeply")
        depth -= 1
        next_level = []
        for parent in level:
            for member in parent.values() if type(parent) is dict else parent:
                kind = type(member)
                if kind is dict or kind is list:
                    next_level.append(member)
                elif kind is not str:
                    check_canonical(member, depth)
        level = next_level


def _is_canonical(value: object) -> bool:
    try:
        check_canonical(value)
    except BadJson:
        return False
    return True


def _check_depth(value: object, depth: int) -> None:
    if depth < 0:
        raise BadJson("The JSON is nested too deeply")
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for member in value:
            _check_depth(member, depth - 1)


def parse_json(raw: bytes) -> Any:
    """Parse JSON that must be UTF-8, without NaN or lone surrogates, and of bounded nesting.

    If a key occurs twice, the last value counts. Integers beyond 64 bits become floats, which
    `check_canonical` then rejects.

    Raises: NotJson.
    """
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as fault:
        raise NotJson(f"Not valid JSON: {fault}") from fault


def count_values(raw: bytes) -> int:
    """Return at least the number of values in JSON: what occurs in strings counts as well."""
    return raw.count(b",") + raw.count(b"{") + raw.count(b"[")


def memory_of(encoded: bytes) -> int:
    """Return about how many bytes the value of a JSON text takes when it is parsed."""
    return len(encoded) + 60 * count_values(encoded)


def parse_shallow_json(raw: bytes) -> Any:
    """Parse JSON that later code may follow by recursion. Raises: NotJson, BadJson."""
    value = parse_json(raw)
    check_nesting(raw, value)
    return value


def check_nesting(raw: bytes, value: object) -> None:
    """Check that parsed JSON is nested at most MAX_DEPTH levels. Raises: BadJson."""
    # Each level takes two brackets.
    if len(raw) <= 2 * MAX_DEPTH:
        return
    # orjson refuses to write more than WRITABLE_DEPTH levels, and visits them faster than we can.
    for _ in range(WRITABLE_DEPTH - MAX_DEPTH):
        value = [value]
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError:
        raise BadJson(f"The JSON is nested deeper than {MAX_DEPTH} levels") from None


def parse_json_object(raw: bytes) -> JsonObject:
    """Parse a JSON object.

    Raises: NotJson, or BadJson if the JSON is not an object.
    """
    value = parse_json(raw)
    if not isinstance(value, dict):
        raise BadJson("The JSON value must be an object")
    return value


def check_unique_keys(raw: bytes) -> None:
    """Check that no object in the JSON contains a key twice.

    This parser is slow; use it only where another reader might choose the other value.

    Raises: NotJson, BadJson.
    """
    try:
        json.loads(raw, object_pairs_hook=_object_without_duplicates)
    except (ValueError, RecursionError) as fault:
        raise NotJson(f"Not valid JSON: {fault}") from fault


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> JsonObject:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise BadJson("A JSON object contains the same key twice")
    return members
