"""The types of settings: how each is read from YAML, and described to people and in schemas."""

import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, NoReturn, TypeVar

import attrs

from hs.core.errors import InvalidParam
from hs.core.ids import ServerName, parse_server_name
from hs.settings.errors import Notice, Origin

T = TypeVar("T")
K = TypeVar("K")

Schema = dict[str, Any]

_DURATION = re.compile(r"\s*(\d{1,20}|\d{1,20}\.\d{1,9}(?=\s*[smhdwy]\b))\s*(ms|[smhdwy]?)\s*")
_DURATION_UNITS = {
    "": 1,
    "ms": 1,
    "s": 1_000,
    "m": 60_000,
    "h": 3_600_000,
    "d": 86_400_000,
    "w": 7 * 86_400_000,
    "y": 365 * 86_400_000,
}
_SIZE = re.compile(r"\s*(\d{1,20})\s*([KMGT]?)(i?B)?\s*", re.IGNORECASE)
_MAX_NUMBER = 1e300  # excludes .inf and .nan, with which nothing can be calculated
_SIZE_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


class InvalidSetting(Exception):
    """A value is not valid for its key; carries the message and the remedy."""

    def __init__(self, at: "ConfigLocation", message: str, remedy: str) -> None:
        super().__init__(message)
        self.at = at
        self.message = message
        self.remedy = remedy


@attrs.frozen
class ConfigLocation:
    """A place in the configuration: the path of a key, and its file and line; collects notices."""

    path: tuple[str, ...]
    folder: Path
    notices: list[Notice]
    origin: Origin = Origin()

    @property
    def key(self) -> str:
        return ".".join(self.path)

    def child(self, name: str) -> "ConfigLocation":
        return attrs.evolve(self, path=(*self.path, name))

    def warn(self, message: str, *, is_unknown_key: bool = False) -> None:
        self.notices.append(
            Notice(key=self.key, message=message, origin=self.origin, is_unknown_key=is_unknown_key)
        )

    def note(self, message: str) -> None:
        self.notices.append(
            Notice(key=self.key, message=message, origin=self.origin, is_warning=False)
        )

    def create_secret(self, path: Path) -> None:
        """Let `hs serve` create the file of a secret."""
        message = f"{path} does not exist; `hs serve` creates it with a random secret"
        self.notices.append(
            Notice(
                key=self.key, message=message, origin=self.origin, is_warning=False, new_secret=path
            )
        )

    def reject(self, message: str, remedy: str) -> NoReturn:
        raise InvalidSetting(self, message, remedy)


@attrs.frozen
class Kind(Generic[T]):
    """A type of setting; `read` converts a YAML value or raises InvalidSetting.

    With `is_blank_null`, "" is the same as null if the setting is optional.
    """

    label: str
    read: Callable[[Any, ConfigLocation], T]
    schema: Schema = attrs.field(factory=dict)
    is_blank_null: bool = False


def _abbreviated(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def type_in_words(value: Any) -> str:
    """Return what a YAML value is, for errors that must not print a secret."""
    for types, words in _TYPES_IN_WORDS:
        if isinstance(value, types):
            return words
    return "null" if value is None else "a date"


_TYPES_IN_WORDS: tuple[tuple[type, str], ...] = (
    (bool, "true or false"),
    (int, "an integer"),
    (float, "a number"),
    (str, "a string"),
    (list, "a list"),
    (dict, "a map"),
    (bytes, "binary"),
)


def _read_boolean(value: Any, at: ConfigLocation) -> bool:
    if isinstance(value, bool):
        return value
    at.reject(
        f"expected true or false, found {_abbreviated(value)}", "write true or false without quotes"
    )


def _read_string(value: Any, at: ConfigLocation) -> str:
    if isinstance(value, str):
        return value
    at.reject(f"expected a string, found {_abbreviated(value)}", "put the value in quotes")


def _read_secret(value: Any, at: ConfigLocation) -> str:
    if isinstance(value, str):
        return value
    at.reject(f"expected a string, found {type_in_words(value)}", "put the value in quotes")


def _read_number(value: Any, at: ConfigLocation) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MAX_NUMBER:
        return float(value)
    at.reject(f"expected a number, found {_abbreviated(value)}", "write a number without quotes")


def _read_factor(value: Any, at: ConfigLocation) -> float:
    if (number := _read_number(value, at)) < 0:
        at.reject(f"{value} is too small", "the minimum is 0")
    return number


def integer(minimum: int | None = None, maximum: int | None = None) -> Kind[int]:
    """Return the kind of an integer within bounds."""

    def read(value: Any, at: ConfigLocation) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            at.reject(
                f"expected an integer, found {_abbreviated(value)}",
                "write an integer without quotes",
            )
        if minimum is not None and value < minimum:
            at.reject(f"{value} is too small", f"the minimum is {minimum}")
        if maximum is not None and value > maximum:
            at.reject(f"{value} is too large", f"the maximum is {maximum}")
        return value

    bounds = {"minimum": minimum, "maximum": maximum}
    limits = {name: bound for name, bound in bounds.items() if bound is not None}
    return Kind("integer", read, {"type": "integer", **limits})


def _read_duration(value: Any, at: ConfigLocation) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        number = float(match[1]) if "." in match[1] else int(match[1])
        return round(number * _DURATION_UNITS[match[2]])
    at.reject(
        f"expected a duration, found {_abbreviated(value)}",
        'write milliseconds, or a number with a unit such as "30s", "5m", "2h", "7d", "4w", "1y"',
    )


def _read_size(value: Any, at: ConfigLocation) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and (match := _SIZE.fullmatch(value)):
        return int(match[1]) * _SIZE_UNITS[match[2].upper()]
    at.reject(
        f"expected a size, found {_abbreviated(value)}",
        'write a number, or a number with a unit, such as "512K", "50M" or "1G"',
    )


def _read_path(value: Any, at: ConfigLocation) -> Path:
    text = _read_string(value, at)
    if "\0" in text:
        at.reject("a path must not contain NUL", "correct the path")
    try:
        return at.folder / Path(text).expanduser()
    except RuntimeError as error:
        at.reject(f"cannot expand {_abbreviated(text)}: {error}", "write an absolute path")


def _read_server_name(value: Any, at: ConfigLocation) -> ServerName:
    try:
        return parse_server_name(_read_string(value, at))
    except InvalidParam:
        at.reject(
            f"{_abbreviated(value)} is not a server name",
            "write a host name, an IPv4 address or an [IPv6] address, with :port unless it is 8448",
        )


def _read_mapping(value: Any, at: ConfigLocation) -> Mapping[str, Any]:
    if value is None:
        return MappingProxyType({})
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return MappingProxyType(value)
    if isinstance(value, dict):
        at.reject("the names in a map must be text", "put numbers and dates in quotes")
    # A map may contain secrets, and so may what was written instead.
    at.reject(f"expected a map, found {type_in_words(value)}", "write indented lines `name: value`")


def _read_json_object(value: Any, at: ConfigLocation) -> Mapping[str, Any]:
    try:
        text = json.dumps(dict(_read_mapping(value, at)), default=_to_json, allow_nan=False)
    except (TypeError, ValueError):
        at.reject("contains what cannot be written as JSON", "use text, numbers, lists and maps")
    return MappingProxyType(json.loads(text))


def _to_json(value: Any) -> str:
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError


def _read_anything(value: Any, _at: ConfigLocation) -> Any:
    return value


def _read_networks(value: Any, at: ConfigLocation) -> tuple[str, ...]:
    for network in (texts := list_of(STRING).read(value, at)):
        try:
            ipaddress.ip_network(network, strict=False)
        except ValueError:
            at.reject(f"{network!r} is not an IP network", 'write it like "10.0.0.0/8"')
    return texts


def optional(kind: Kind[T]) -> Kind[T | None]:
    """Return the kind of a value that may also be null."""

    def read(value: Any, at: ConfigLocation) -> T | None:
        if value is None or (kind.is_blank_null and value == ""):
            return None
        return kind.read(value, at)

    return Kind(f"{kind.label} or null", read, {"anyOf": [kind.schema, {"type": "null"}]})


def or_infinity(kind: Kind[int]) -> Kind[int | None]:
    """Return the kind of a duration that may be null or "infinity", both meaning no limit."""

    def read(value: Any, at: ConfigLocation) -> int | None:
        return None if value in (None, "infinity") else kind.read(value, at)

    never: Schema = {"enum": [None, "infinity"]}
    return Kind(f'{kind.label} or "infinity"', read, {"anyOf": [kind.schema, never]})


def list_of(kind: Kind[T]) -> Kind[tuple[T, ...]]:
    """Return the kind of a list; null means an empty list."""

    def read(value: Any, at: ConfigLocation) -> tuple[T, ...]:
        if value is None:
            return ()
        if not isinstance(value, list):
            at.reject(
                f"expected a list, found {type_in_words(value)}", "begin each entry with `- `"
            )
        return tuple(kind.read(entry, at.child(str(n))) for n, entry in enumerate(value))

    return Kind(f"list of {kind.label}", read, {"type": "array", "items": kind.schema})


def one_or_more(kind: Kind[T]) -> Kind[tuple[T, ...]]:
    """Return the kind of a list whose only entry may be written without the list."""
    entries = list_of(kind)

    def read(value: Any, at: ConfigLocation) -> tuple[T, ...]:
        return entries.read(value if isinstance(value, list) or value is None else [value], at)

    return Kind(f"{kind.label} or {entries.label}", read, {"anyOf": [kind.schema, entries.schema]})


def map_of(kind: Kind[T]) -> Kind[Mapping[str, T]]:
    """Return the kind of a map from names to values of one kind; null means an empty map."""

    def read(value: Any, at: ConfigLocation) -> Mapping[str, T]:
        value_map = _read_mapping(value, at)
        return MappingProxyType(
            {name: kind.read(entry, at.child(name)) for name, entry in value_map.items()}
        )

    schema = {"type": "object", "additionalProperties": kind.schema}
    return Kind(f"map of {kind.label}", read, schema)


def choice(*allowed: str) -> Kind[str]:
    """Return the kind of a word from a list."""

    def read(value: Any, at: ConfigLocation) -> str:
        # YAML 1.1 reads an unquoted `off` as false and `on` as true.
        word = {False: "off", True: "on"}[value] if isinstance(value, bool) else value
        if word not in allowed:
            at.reject(f"{_abbreviated(value)} is not allowed", f"write one of {', '.join(allowed)}")
        return str(word)

    return Kind(f"one of {', '.join(allowed)}", read, {"enum": list(allowed)})


def any_of(first: Kind[T], second: Kind[K]) -> Kind[T | K]:
    """Return the kind of a value of either kind; the first is tried first."""

    def read(value: Any, at: ConfigLocation) -> T | K:
        try:
            return first.read(value, at)
        except InvalidSetting:
            return second.read(value, at)

    return Kind(f"{first.label} or {second.label}", read, {"anyOf": [first.schema, second.schema]})


BOOLEAN = Kind("boolean", _read_boolean, {"type": "boolean"})
STRING = Kind("string", _read_string, {"type": "string"}, is_blank_null=True)
NUMBER = Kind("number", _read_number, {"type": "number"})
FACTOR = Kind("number", _read_factor, {"type": "number", "minimum": 0})
INTEGER = integer()
COUNT = integer(minimum=0)
PORT = integer(minimum=0, maximum=65535)
DURATION = Kind("duration", _read_duration, {"type": ["integer", "string"]})
SIZE = Kind("size", _read_size, {"type": ["integer", "string"]})
PATH = Kind("path", _read_path, {"type": "string"}, is_blank_null=True)
SECRET = Kind("string", _read_secret, {"type": "string"}, is_blank_null=True)
SERVER_NAME = Kind("server name", _read_server_name, {"type": "string"})
OBJECT = Kind("object", _read_mapping, {"type": ["object", "null"]})
JSON_OBJECT = Kind("object", _read_json_object, {"type": ["object", "null"]})
ANYTHING = Kind("any", _read_anything, {})
NETWORKS = Kind(
    "list of IP networks", _read_networks, {"type": "array", "items": {"type": "string"}}
)
STRINGS = list_of(STRING)
