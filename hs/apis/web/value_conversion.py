"""Turning text and JSON of a request into the types its declaration names.

Text (path, query, headers) that does not fit is M_INVALID_PARAM; JSON that does not fit is
M_BAD_JSON. Integers are bounded by what JSON can carry exactly, and no text holds NUL, which
databases refuse.
"""

import types
from collections.abc import Callable
from typing import Any, NewType, Union, get_args, get_origin

import msgspec
import orjson

from hs.core.canonical_json import MAX_DEPTH, MAX_INTEGER, WRITABLE_DEPTH
from hs.core.errors import BadJson, InvalidParam

FromText = Callable[[str], Any]
FromJson = Callable[[Any], Any]


def bare(wanted: Any) -> Any:
    """Strip NewType, aliases and `| None` off a type."""
    while True:
        if isinstance(wanted, NewType):
            wanted = wanted.__supertype__
        elif get_origin(wanted) in (Union, types.UnionType):
            kept = [part for part in get_args(wanted) if part is not type(None)]
            if len(kept) != 1:
                return wanted
            wanted = kept[0]
        else:
            return wanted


def allows_none(wanted: Any) -> bool:
    """Tell whether `None` is a value of the type."""
    if wanted is Any or wanted is None:
        return True
    return get_origin(wanted) in (Union, types.UnionType) and type(None) in get_args(wanted)


def text_converter(name: str, wanted: Any) -> FromText:
    """Build the function that reads one piece of text as the wanted type."""
    plain = bare(wanted)
    if plain is str or plain is Any:
        return str
    if plain is int:
        return lambda text: _int_of(name, text)
    if plain is bool:
        return lambda text: _bool_of(name, text)
    return lambda text: _checked_text(name, text, plain)


def _int_of(name: str, text: str) -> int:
    digits = text[1:] if text[:1] == "-" else text
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 16):
        raise InvalidParam(f"{name} must be an integer")
    value = int(text)
    if not -MAX_INTEGER <= value <= MAX_INTEGER:
        raise InvalidParam(f"{name} is out of range")
    return value


def _bool_of(name: str, text: str) -> bool:
    if text in ("true", "1"):
        return True
    if text in ("false", "0"):
        return False
    raise InvalidParam(f"{name} must be true or false")


def _checked_text(name: str, text: str, wanted: Any) -> Any:
    try:
        return msgspec.convert(text, wanted, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidParam(f"{name}: {error}") from None


def json_converter(name: str, wanted: Any) -> FromJson:
    """Build the function that reads one decoded JSON value as the wanted type."""
    plain = bare(wanted)
    if plain is Any or plain is object:
        return _as_it_is
    if get_origin(plain) is dict and get_args(plain) == (str, Any):
        plain = dict
    if plain in (str, bool, dict, list):
        return lambda value: _exactly(name, value, plain)
    if plain is int:
        return lambda value: _bounded_int(name, value)
    return lambda value: _structured(name, value, plain)


def _as_it_is(value: Any) -> Any:
    return value


def _exactly(name: str, value: Any, wanted: type) -> Any:
    if type(value) is not wanted:
        raise BadJson(f"{name} must be {_JSON_NAMES[wanted]}")
    return value


def _bounded_int(name: str, value: Any) -> int:
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or not -MAX_INTEGER <= value <= MAX_INTEGER:
        raise BadJson(f"{name} must be an integer between -2^53 and 2^53")
    return value


def _structured(name: str, value: Any, wanted: Any) -> Any:
    try:
        return msgspec.convert(value, wanted)
    except msgspec.ValidationError as error:
        raise BadJson(f"{name}: {error}") from None


_JSON_NAMES = {str: "a string", bool: "true or false", dict: "an object", list: "a list"}


def refuse_nul(name: str, value: Any) -> None:
    """Refuse a JSON value that holds NUL in any of its strings or keys."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if type(one) is str:
            if "\0" in one:
                raise BadJson(f"{name} holds a NUL character")
        elif type(one) is dict:
            waiting.extend(one)
            waiting.extend(one.values())
        elif type(one) is list:
            waiting.extend(one)


def refuse_deep(raw: bytes, value: Any) -> None:
    """Refuse JSON that nests deeper than recursive code may follow."""
    # Each level takes two brackets.
    if len(raw) <= 2 * MAX_DEPTH:
        return
    # Writing it down is the quickest way through it, and refuses what lies too deep.
    for _ in range(WRITABLE_DEPTH - MAX_DEPTH):
        value = [value]
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError:
        raise BadJson(f"The JSON nests deeper than {MAX_DEPTH} levels") from None
