"""The types a setting may have: how each is read from YAML and how it is described."""

import ipaddress
import re
from collections.abc import Callable, Mapping
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
_ENDLESS = 1e300  # beyond it nothing can be counted with; .inf and .nan are not below it
_SIZE_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


class Unfit(Exception):
    """A value does not fit its key."""

    def __init__(self, at: "At", message: str, remedy: str) -> None:
        super().__init__(message)
        self.at = at
        self.message = message
        self.remedy = remedy


@attrs.frozen
class At:
    """Where in the configuration a value stands; collects notices on the way."""

    path: tuple[str, ...]
    folder: Path
    notices: list[Notice]
    origin: Origin = Origin()

    @property
    def key(self) -> str:
        return ".".join(self.path)

    def child(self, name: str) -> "At":
        return attrs.evolve(self, path=(*self.path, name))

    def warn(self, message: str, *, is_unknown_key: bool = False) -> None:
        self.notices.append(
            Notice(key=self.key, message=message, origin=self.origin, is_unknown_key=is_unknown_key)
        )

    def note(self, message: str) -> None:
        self.notices.append(
            Notice(key=self.key, message=message, origin=self.origin, is_warning=False)
        )

    def refuse(self, message: str, remedy: str) -> NoReturn:
        raise Unfit(self, message, remedy)


@attrs.frozen
class Kind(Generic[T]):
    """A type of setting. `read` raises Unfit."""

    label: str
    read: Callable[[Any, At], T]
    schema: Schema = attrs.field(factory=dict)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _read_boolean(value: Any, at: At) -> bool:
    if isinstance(value, bool):
        return value
    at.refuse(f"expected true or false, found {_shown(value)}", "write true or false, unquoted")


def _read_string(value: Any, at: At) -> str:
    if isinstance(value, str):
        return value
    at.refuse(f"expected a string, found {_shown(value)}", "put the value in quotes")


def _read_number(value: Any, at: At) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _ENDLESS:
        return float(value)
    at.refuse(f"expected a number, found {_shown(value)}", "write a plain number, unquoted")


def _read_factor(value: Any, at: At) -> float:
    if (number := _read_number(value, at)) < 0:
        at.refuse(f"{value} is too small", "the least allowed is 0")
    return number


def integer(least: int | None = None, most: int | None = None) -> Kind[int]:
    """A whole number within bounds."""

    def read(value: Any, at: At) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            at.refuse(f"expected a whole number, found {_shown(value)}", "write it unquoted")
        if least is not None and value < least:
            at.refuse(f"{value} is too small", f"the least allowed is {least}")
        if most is not None and value > most:
            at.refuse(f"{value} is too large", f"the most allowed is {most}")
        return value

    bounds = {"minimum": least, "maximum": most}
    limits = {name: bound for name, bound in bounds.items() if bound is not None}
    return Kind("integer", read, {"type": "integer", **limits})


def _read_duration(value: Any, at: At) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        number = float(match[1]) if "." in match[1] else int(match[1])
        return round(number * _DURATION_UNITS[match[2]])
    at.refuse(
        f"expected a duration, found {_shown(value)}",
        'write milliseconds, or a number and a unit such as "30s", "5m", "2h", "7d", "4w", "1y"',
    )


def _read_size(value: Any, at: At) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and (match := _SIZE.fullmatch(value)):
        return int(match[1]) * _SIZE_UNITS[match[2].upper()]
    at.refuse(
        f"expected a size, found {_shown(value)}",
        'write a number, or a number and a unit such as "512K", "50M", "1G"',
    )


def _read_path(value: Any, at: At) -> Path:
    text = _read_string(value, at)
    if "\0" in text:
        at.refuse("a path holds no NUL", "correct it")
    try:
        return at.folder / Path(text).expanduser()
    except RuntimeError as error:
        at.refuse(f"{_shown(text)} leads nowhere: {error}", "write the whole path")


def _read_server_name(value: Any, at: At) -> ServerName:
    try:
        return parse_server_name(_read_string(value, at))
    except InvalidParam:
        at.refuse(
            f"{_shown(value)} is not a server name",
            "write a host name, an IPv4 address or an [IPv6] address, with :port if it is not 8448",
        )


def _read_mapping(value: Any, at: At) -> Mapping[str, Any]:
    if value is None:
        return MappingProxyType({})
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return MappingProxyType(value)
    at.refuse(f"expected a map of names to values, found {_shown(value)}", "indent `name: value`")


def _read_anything(value: Any, _at: At) -> Any:
    return value


def _read_networks(value: Any, at: At) -> tuple[str, ...]:
    for network in (texts := list_of(STRING).read(value, at)):
        try:
            ipaddress.ip_network(network, strict=False)
        except ValueError:
            at.refuse(f"{network!r} is not an address range", 'write it like "10.0.0.0/8"')
    return texts


def optional(kind: Kind[T]) -> Kind[T | None]:
    """A value that may be null, meaning none."""

    def read(value: Any, at: At) -> T | None:
        return None if value is None else kind.read(value, at)

    return Kind(f"{kind.label} or null", read, {"anyOf": [kind.schema, {"type": "null"}]})


def endless(kind: Kind[int]) -> Kind[int | None]:
    """A duration that may be null or "infinity", meaning without end."""

    def read(value: Any, at: At) -> int | None:
        return None if value in (None, "infinity") else kind.read(value, at)

    never: Schema = {"enum": [None, "infinity"]}
    return Kind(f'{kind.label} or "infinity"', read, {"anyOf": [kind.schema, never]})


def list_of(kind: Kind[T]) -> Kind[tuple[T, ...]]:
    """A list; null is the empty one."""

    def read(value: Any, at: At) -> tuple[T, ...]:
        if value is None:
            return ()
        if not isinstance(value, list):
            at.refuse(f"expected a list, found {_shown(value)}", "start each entry with `- `")
        return tuple(kind.read(one, at.child(str(n))) for n, one in enumerate(value))

    return Kind(f"list of {kind.label}", read, {"type": "array", "items": kind.schema})


def one_or_more(kind: Kind[T]) -> Kind[tuple[T, ...]]:
    """A list that may be written as its single entry."""
    many = list_of(kind)

    def read(value: Any, at: At) -> tuple[T, ...]:
        return many.read(value if isinstance(value, list) or value is None else [value], at)

    return Kind(f"{kind.label} or {many.label}", read, {"anyOf": [kind.schema, many.schema]})


def map_of(kind: Kind[T]) -> Kind[Mapping[str, T]]:
    """A map of names to values of one kind; null is the empty one."""

    def read(value: Any, at: At) -> Mapping[str, T]:
        named = _read_mapping(value, at)
        return MappingProxyType(
            {name: kind.read(one, at.child(name)) for name, one in named.items()}
        )

    schema = {"type": "object", "additionalProperties": kind.schema}
    return Kind(f"map of {kind.label}", read, schema)


def choice(*allowed: str) -> Kind[str]:
    """One of a few words."""

    def read(value: Any, at: At) -> str:
        # YAML 1.1 reads an unquoted `off` as false and `on` as true.
        word = {False: "off", True: "on"}[value] if isinstance(value, bool) else value
        if word not in allowed:
            at.refuse(f"{_shown(value)} is not one of them", f"write one of {', '.join(allowed)}")
        return str(word)

    return Kind(f"one of {', '.join(allowed)}", read, {"enum": list(allowed)})


def either(first: Kind[T], second: Kind[K]) -> Kind[T | K]:
    """A value of one of two kinds; told apart by trying."""

    def read(value: Any, at: At) -> T | K:
        try:
            return first.read(value, at)
        except Unfit:
            return second.read(value, at)

    return Kind(f"{first.label} or {second.label}", read, {"anyOf": [first.schema, second.schema]})


BOOLEAN = Kind("boolean", _read_boolean, {"type": "boolean"})
STRING = Kind("string", _read_string, {"type": "string"})
NUMBER = Kind("number", _read_number, {"type": "number"})
FACTOR = Kind("number", _read_factor, {"type": "number", "minimum": 0})
INTEGER = integer()
COUNT = integer(least=0)
PORT = integer(least=0, most=65535)
DURATION = Kind("duration", _read_duration, {"type": ["integer", "string"]})
SIZE = Kind("size", _read_size, {"type": ["integer", "string"]})
PATH = Kind("path", _read_path, {"type": "string"})
SERVER_NAME = Kind("server name", _read_server_name, {"type": "string"})
OBJECT = Kind("object", _read_mapping, {"type": ["object", "null"]})
ANYTHING = Kind("any", _read_anything, {})
NETWORKS = Kind(
    "list of address range", _read_networks, {"type": "array", "items": {"type": "string"}}
)
STRINGS = list_of(STRING)
