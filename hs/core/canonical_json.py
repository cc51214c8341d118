"""Canonical JSON, and JSON read with the bounds that Matrix sets.

orjson sorts keys by code point and writes the canonical form, but it is no validator: it writes
floats. So values are checked first. Rooms before version 6 may hold floats and large integers;
those few are written by the reference library, whose form other servers hash.

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
# orjson cannot write deeper values, nor read deeper ones than 1024.
WRITABLE_DEPTH = 254

_OPTIONS = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER


def canonical_json(value: object) -> bytes:
    """Check a value and write it as canonical JSON.

    Raises: BadJson.
    """
    check_canonical(value)
    return encode_checked(value)


def encode_checked(value: object) -> bytes:
    """Write a value as canonical JSON, trusting that it holds no floats.

    Raises: BadJson, for integers out of range and for lone surrogates.
    """
    try:
        return orjson.dumps(value, option=_OPTIONS)
    except orjson.JSONEncodeError as fault:
        raise BadJson(f"Not canonical JSON: {fault}") from fault


def encode_lenient(value: object) -> bytes:
    """Write a value that may break the bounds of canonical JSON, as rooms before version 6 may.

    Raises: BadJson, if it is no JSON at all.
    """
    if _is_canonical(value):
        return encode_checked(value)
    _check_depth(value, MAX_DEPTH)
    try:
        return canonicaljson.encode_canonical_json(value)
    except (TypeError, ValueError, RecursionError) as fault:
        raise BadJson(f"Not JSON: {fault}") from fault


def for_keeping(written: bytes) -> bytes:
    """Give the same bytes without what is free behind them, which they would keep for ever.

    orjson writes into 4 KiB at least, and a message is far shorter.
    """
    return bytes(memoryview(written))


def check_canonical(value: object, depth: int = MAX_DEPTH) -> None:
    """Refuse floats, integers out of range, foreign types and values nested too deeply.

    Raises: BadJson.
    """
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return
    if kind is int:
        if not -MAX_INTEGER <= value <= MAX_INTEGER:  # type: ignore[operator]  # it is an int
            raise BadJson("An integer is out of the range of canonical JSON")
    elif isinstance(value, dict | Mapping):
        _check_members(value.values(), depth)
    elif kind is list or kind is tuple:
        _check_members(value, depth)
    elif kind is float:
        raise BadJson("Canonical JSON has no floats")
    else:
        raise BadJson(f"Canonical JSON has no {kind.__name__}")


def _check_members(members: Any, depth: int) -> None:
    # Level by level, which calls nothing for most members.
    level = [members]
    while level:
        if depth == 0:
            raise BadJson("The JSON is nested too deeply")
        depth -= 1
        below = []
        for one in level:
            for member in one.values() if type(one) is dict else one:
                kind = type(member)
                if kind is dict or kind is list:
                    below.append(member)
                elif kind is not str:
                    check_canonical(member, depth)
        level = below


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
    """Read JSON, strict about its text: UTF-8, no NaN, no lone surrogates, bounded nesting.

    Of duplicate keys the last wins, and integers beyond 64 bits become floats, which the checks
    for canonical JSON then refuse.

    Raises: NotJson.
    """
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as fault:
        raise NotJson(f"Not JSON: {fault}") from fault


def parse_json_object(raw: bytes) -> JsonObject:
    """Read a JSON object.

    Raises: NotJson, or BadJson for another kind of value.
    """
    value = parse_json(raw)
    if not isinstance(value, dict):
        raise BadJson("A JSON object is needed")
    return value


def check_unique_keys(raw: bytes) -> None:
    """Refuse JSON in which an object has a key twice; slow, for where readers could differ.

    Raises: NotJson, BadJson.
    """
    try:
        json.loads(raw, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as fault:
        raise NotJson(f"Not JSON: {fault}") from fault


def _unique(pairs: list[tuple[str, Any]]) -> JsonObject:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise BadJson("An object has a key twice")
    return members
