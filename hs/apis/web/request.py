"""Request classes: attrs classes whose fields say where in a request their values come from.

`parser_of` compiles such a class once into a function from a `Call` to an instance, so an
endpoint never touches headers, queries or JSON itself.
"""

import enum
import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any, NewType, TypeVar, get_type_hints

import attrs

from hs.apis.web.http_request import Call, token_of
from hs.apis.web.value_conversion import (
    allows_none,
    bare,
    json_converter,
    refuse_deep,
    refuse_nul,
    text_converter,
)
from hs.core.canonical_json import JsonObject, check_canonical, parse_json
from hs.core.errors import BadJson, InvalidParam, MissingParam
from hs.core.ids import (
    RoomAlias,
    RoomID,
    UserID,
    parse_room_alias,
    parse_room_id,
    parse_user_id,
)
from hs.core.requester import Requester

T = TypeVar("T", bound=attrs.AttrsInstance)


class Kind(enum.Enum):
    """Where a field's value comes from."""

    PATH = "path"
    QUERY = "query"
    WHOLE_QUERY = "whole query"
    HEADER = "header"
    BODY = "body"
    WHOLE_BODY = "whole body"
    EVENT_CONTENT = "event content"
    RAW_BODY = "raw body"
    STREAM = "stream"
    PEER = "peer"
    REQUESTER = "requester"
    ORIGIN = "origin"
    TOKEN = "token"


class BodyUse(enum.Enum):
    """How much of its body a request class wants before the handler runs."""

    NOTHING = "nothing"
    BYTES = "bytes"
    JSON = "json"
    STREAM = "stream"


@attrs.frozen
class Source:
    """What a field declared: where from, under which name, read how."""

    kind: Kind
    name: str | None
    parse: Callable[[str], Any] | None


def _field(
    kind: Kind,
    default: Any = attrs.NOTHING,
    factory: Callable[[], Any] | None = None,
    name: str | None = None,
    parse: Callable[[str], Any] | None = None,
) -> Any:
    if factory is not None:
        default = attrs.Factory(factory)
    return attrs.field(
        default=default, kw_only=True, metadata={"source": Source(kind, name, parse)}
    )


def path(
    *,
    default: Any = attrs.NOTHING,
    name: str | None = None,
    parse: Callable[[str], Any] | None = None,
) -> Any:
    """Take the value from a `{parameter}` of the path, percent-decoded."""
    return _field(Kind.PATH, default, None, name, parse)


def query(
    *,
    default: Any = attrs.NOTHING,
    factory: Callable[[], Any] | None = None,
    name: str | None = None,
    parse: Callable[[str], Any] | None = None,
) -> Any:
    """Take the value from the query; a field of type list takes every occurrence."""
    return _field(Kind.QUERY, default, factory, name, parse)


def whole_query() -> Any:
    """Take the whole query: every name with its values."""
    return _field(Kind.WHOLE_QUERY)


def header(name: str, *, default: Any = attrs.NOTHING) -> Any:
    """Take the value from a header."""
    return _field(Kind.HEADER, default, None, name.lower())


def body(
    *,
    default: Any = attrs.NOTHING,
    factory: Callable[[], Any] | None = None,
    name: str | None = None,
    parse: Callable[[str], Any] | None = None,
) -> Any:
    """Take the value from a key of the JSON object in the body."""
    return _field(Kind.BODY, default, factory, name, parse)


def whole_body(*, default: Any = attrs.NOTHING, factory: Callable[[], Any] | None = None) -> Any:
    """Take the whole JSON body, converted to the type of the field."""
    return _field(Kind.WHOLE_BODY, default, factory)


def event_content() -> Any:
    """Take the whole JSON body as the content of an event: an object of canonical JSON."""
    return _field(Kind.EVENT_CONTENT)


def raw_body() -> Any:
    """Take the body as bytes."""
    return _field(Kind.RAW_BODY)


def stream() -> Any:
    """Take the body as an async iterator of bytes, unread; the reader bounds what it takes."""
    return _field(Kind.STREAM)


def peer() -> Any:
    """Take the client's IP address."""
    return _field(Kind.PEER)


def origin() -> Any:
    """Take the name of the server that signed the request."""
    return _field(Kind.ORIGIN)


def token() -> Any:
    """Take the access token itself; for logout and the like."""
    return _field(Kind.TOKEN)


Step = Callable[[Call, dict[str, Any]], None]

_PARSERS: dict[Any, Callable[[str], Any]] = {
    UserID: parse_user_id,
    RoomID: parse_room_id,
    RoomAlias: parse_room_alias,
}
_BODY_KINDS = {Kind.BODY, Kind.WHOLE_BODY, Kind.EVENT_CONTENT}


@attrs.frozen
class RequestParser:
    """The compiled form of a request class."""

    request_class: type
    steps: tuple[Step, ...]
    body_use: BodyUse
    body_may_be_empty: bool
    path_names: frozenset[str]

    def parse(self, call: Call) -> Any:
        """Build the request from what arrived.

        Raises: MatrixError saying what is missing or wrong.
        """
        if self.body_use is BodyUse.JSON:
            call.json = self._decode(call.body)
        values: dict[str, Any] = {}
        for step in self.steps:
            step(call, values)
        return self.request_class(**values)

    def _decode(self, raw: bytes) -> Any:
        if not raw and self.body_may_be_empty:
            return {}
        value = parse_json(raw)
        refuse_deep(raw, value)
        return value


def parser_of(request_class: type) -> RequestParser:
    """Compile a request class."""
    hints = get_type_hints(request_class)
    steps: list[Step] = []
    kinds: set[Kind] = set()
    path_names: set[str] = set()
    may_be_empty = True
    for field in attrs.fields(request_class):
        source: Source = field.metadata.get("source") or _undeclared(request_class, field.name)
        required = field.default is attrs.NOTHING
        kinds.add(source.kind)
        if source.kind is Kind.PATH and required:
            path_names.add(source.name or field.name)
        if source.kind in _BODY_KINDS and required:
            may_be_empty = False
        steps.append(_step(field.name, hints[field.name], source, required))
    return RequestParser(
        request_class, tuple(steps), _body_use(kinds), may_be_empty, frozenset(path_names)
    )


def _undeclared(request_class: type, name: str) -> Source:
    if name == "requester":
        return Source(Kind.REQUESTER, None, None)
    raise TypeError(f"{request_class.__name__}.{name} does not say where it comes from")


def _body_use(kinds: set[Kind]) -> BodyUse:
    if kinds & _BODY_KINDS:
        return BodyUse.JSON
    if Kind.STREAM in kinds:
        return BodyUse.STREAM
    return BodyUse.BYTES if Kind.RAW_BODY in kinds else BodyUse.NOTHING


def _step(attribute: str, wanted: Any, source: Source, required: bool) -> Step:
    name = source.name or attribute
    parse = source.parse or _PARSERS.get(_new_type(wanted))
    match source.kind:
        case Kind.PATH:
            return _path_step(attribute, name, parse or text_converter(name, wanted), required)
        case Kind.QUERY if getattr(bare(wanted), "__origin__", None) in (list, tuple):
            return _query_list_step(attribute, name)
        case Kind.QUERY:
            return _query_step(attribute, name, parse or text_converter(name, wanted), required)
        case Kind.HEADER:
            return _header_step(attribute, name, text_converter(name, wanted), required)
        case Kind.BODY:
            return _body_step(attribute, name, wanted, parse, required)
        case Kind.WHOLE_BODY:
            return _whole_body_step(attribute, wanted)
        case Kind.EVENT_CONTENT:
            return _event_content_step(attribute)
        case Kind.REQUESTER if allows_none(wanted):
            return _copy_step(attribute, lambda call: call.requester)
        case Kind.REQUESTER:
            return _copy_step(attribute, _known_requester)
        case _:
            return _copy_step(attribute, _COPIED[source.kind])


def _new_type(wanted: Any) -> Any:
    """Find the NewType in `X` or `X | None`."""
    for part in getattr(wanted, "__args__", (wanted,)):
        if isinstance(part, NewType):
            return part
    return None


def _known_requester(call: Call) -> Requester:
    assert call.requester is not None, "the endpoint's auth= admits requests without a user"
    return call.requester


def _stream_of(call: Call) -> AsyncIterator[bytes]:
    return call


_COPIED: dict[Kind, Callable[[Call], Any]] = {
    Kind.RAW_BODY: lambda call: call.body,
    Kind.STREAM: _stream_of,
    Kind.PEER: lambda call: call.client_ip,
    Kind.WHOLE_QUERY: lambda call: call.query,
    Kind.ORIGIN: lambda call: call.origin,
    Kind.TOKEN: token_of,
}


def _copy_step(attribute: str, take: Callable[[Call], Any]) -> Step:
    def step(call: Call, values: dict[str, Any]) -> None:
        values[attribute] = take(call)

    return step


def _path_step(attribute: str, name: str, convert: Callable[[str], Any], required: bool) -> Step:
    def step(call: Call, values: dict[str, Any]) -> None:
        text = call.params.get(name)
        if text is not None:
            values[attribute] = convert(text)
        elif required:
            raise MissingParam(f"Missing {name}")

    return step


def _query_step(attribute: str, name: str, convert: Callable[[str], Any], required: bool) -> Step:
    def step(call: Call, values: dict[str, Any]) -> None:
        text = call.query_value(name)
        if text is not None:
            values[attribute] = convert(text)
        elif required:
            raise MissingParam(f"Missing query parameter {name}")

    return step


def _query_list_step(attribute: str, name: str) -> Step:
    def step(call: Call, values: dict[str, Any]) -> None:
        if call.query_string and name in call.query:
            values[attribute] = call.query[name]

    return step


def _header_step(attribute: str, name: str, convert: Callable[[str], Any], required: bool) -> Step:
    wire_name = name.encode("ascii")

    def step(call: Call, values: dict[str, Any]) -> None:
        text = call.header(wire_name)
        if text is not None:
            values[attribute] = convert(text)
        elif required:
            raise InvalidParam(f"Missing header {name}")

    return step


def _body_step(
    attribute: str, name: str, wanted: Any, parse: Callable[[str], Any] | None, required: bool
) -> Step:
    convert = json_converter(name, wanted)
    nullable = allows_none(wanted)

    def step(call: Call, values: dict[str, Any]) -> None:
        document = call.json
        if type(document) is not dict:
            raise BadJson("The body must be a JSON object")
        value = document.get(name)
        if value is None:
            if required and not (nullable and name in document):
                raise MissingParam(f"Missing {name}")
            if name in document and nullable:
                values[attribute] = None
            return
        value = convert(value)
        if call.may_hold_nul:
            refuse_nul(name, document[name])
        values[attribute] = parse(value) if parse is not None else value

    return step


def _whole_body_step(attribute: str, wanted: Any) -> Step:
    convert = json_converter("The body", wanted)
    free = bare(wanted) is Any or getattr(bare(wanted), "__origin__", bare(wanted)) is dict

    def step(call: Call, values: dict[str, Any]) -> None:
        values[attribute] = convert(call.json)
        if not free and call.may_hold_nul:
            refuse_nul("The body", call.json)

    return step


def _event_content_step(attribute: str) -> Step:
    def step(call: Call, values: dict[str, Any]) -> None:
        if type(call.json) is not dict:
            raise BadJson("The content of an event must be a JSON object")
        check_canonical(call.json)
        values[attribute] = call.json

    return step


def read_body(body_class: type[T], content: JsonObject) -> T:
    """Read keys of a body as a class, for endpoints that learn from the request which class.

    Keys that the class does not name may hold anything.
    Raises: BadJson.
    """
    names = {field.name for field in attrs.fields(body_class)}
    known = {name: value for name, value in content.items() if name in names}
    refuse_nul("The body", known)
    read: T = json_converter("The body", body_class)(known)
    return read


def request_class_of(function: Callable[..., Any]) -> type | None:
    """Find the request class in the annotations of an endpoint's method."""
    parameters = list(inspect.signature(function).parameters)
    if len(parameters) == 1:
        return None
    if len(parameters) != 2:
        raise TypeError(f"{function.__qualname__} must take self and at most one request")
    wanted: type = get_type_hints(function)[parameters[1]]
    return wanted
