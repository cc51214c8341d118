"""Converting the text and JSON of a request to the types of its fields.

Text (path, query, headers) that does not fit is M_INVALID_PARAM; JSON that does not fit is
M_BAD_JSON. Integers are limited to what JSON can represent exactly. No text may contain NUL,
which PostgreSQL cannot store.
"""

import re
import types
from collections.abc import Callable
from typing import Any, Final, NewType, Union, get_args, get_origin

import msgspec
import orjson

from hs.core.canonical_json import MAX_INTEGER
from hs.core.errors import BadJson, InvalidParam, TooLarge

MAX_BRACKETS: Final = 200_000
# An escaped backslash may precede the letters "u0000".
_ESCAPED_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")

TextConverter = Callable[[str], Any]
JsonConverter = Callable[[Any], Any]


def unwrapped_type(declared: Any) -> Any:
    """Return the type below NewType, aliases and `| None`."""
    while True:
        if isinstance(declared, NewType):
            declared = declared.__supertype__
        elif get_origin(declared) in (Union, types.UnionType):
            members = [member for member in get_args(declared) if member is not type(None)]
            if len(members) != 1:
                return declared
            declared = members[0]
        else:
            return declared


def allows_none(declared: Any) -> bool:
    """Return whether `None` is a value of the type."""
    if declared is Any or declared is None:
        return True
    return get_origin(declared) in (Union, types.UnionType) and type(None) in get_args(declared)


def text_converter(name: str, declared: Any) -> TextConverter:
    """Return the function that converts text to the type; errors mention `name`."""
    plain = unwrapped_type(declared)
    if plain is str or plain is Any:
        return str
    if plain is int:
        return lambda text: _parse_int(name, text)
    if plain is bool:
        return lambda text: _parse_bool(name, text)
    return lambda text: _parse_text(name, text, plain)


def _parse_int(name: str, text: str) -> int:
    digits = text[1:] if text[:1] == "-" else text
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 16):
        raise InvalidParam(f"{name} must be an integer")
    value = int(text)
    if not -MAX_INTEGER <= value <= MAX_INTEGER:
        raise InvalidParam(f"{name} is out of range")
    return value


def _parse_bool(name: str, text: str) -> bool:
    if text in ("true", "1"):
        return True
    if text in ("false", "0"):
        return False
    raise InvalidParam(f"{name} must be true or false")


def _parse_text(name: str, text: str, plain: Any) -> Any:
    try:
        return msgspec.convert(text, plain, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidParam(f"{name}: {error}") from None


def json_converter(name: str, declared: Any) -> JsonConverter:
    """Return the function that converts a decoded JSON value to the type; errors mention `name`."""
    plain = unwrapped_type(declared)
    if plain is Any or plain is object:
        return _unchanged
    if get_origin(plain) is dict and get_args(plain) == (str, Any):
        plain = dict
    if plain in (str, bool, dict, list):
        return lambda value: _check_type(name, value, plain)
    if plain is int:
        return lambda value: _convert_int(name, value)
    return lambda value: _convert(name, value, plain)


def _unchanged(value: Any) -> Any:
    return value


def _check_type(name: str, value: Any, plain: type) -> Any:
    if type(value) is not plain:
        raise BadJson(f"{name} must be {_JSON_NAMES[plain]}")
    return value


def _convert_int(name: str, value: Any) -> int:
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or not -MAX_INTEGER <= value <= MAX_INTEGER:
        raise BadJson(f"{name} must be an integer between -2^53 and 2^53")
    return value


def _convert(name: str, value: Any, plain: Any) -> Any:
    try:
        return msgspec.convert(value, plain)
    except msgspec.ValidationError as error:
        raise BadJson(f"{name}: {error}") from None


_JSON_NAMES = {str: "a string", bool: "true or false", dict: "an object", list: "a list"}


def reject_nul(name: str, value: Any) -> None:
    """Raise BadJson if a string or key anywhere in a JSON value contains NUL."""
    if _ESCAPED_NUL.search(orjson.dumps(value)):
        raise BadJson(f"{name} must not contain NUL characters")


def reject_many_values(raw: bytes, most: int = MAX_BRACKETS) -> None:
    """Raise TooLarge if JSON has so many objects and lists that reading them would take long."""
    # Brackets in strings count as well.
    if len(raw) > most and raw.count(b"{") + raw.count(b"[") > most:
        raise TooLarge(f"The body must not contain more than {most} objects and lists")
