"""Request classes: attrs classes whose fields declare where in a request their values come from.

`compile_parser` compiles such a class once, when endpoints are collected, into a RequestParser.
So a handler never touches headers, queries or JSON itself.

Rules:

- Each field has exactly one source. A field without one is a TypeError at startup, except
  `requester`, which comes from authentication; its type is `Requester | None` where that is
  optional.
- A value is converted to the type of its field before the handler sees it: text errors are
  M_INVALID_PARAM, JSON errors M_BAD_JSON, a missing value M_MISSING_PARAM (a missing header
  M_INVALID_PARAM). Fields of type UserID, RoomID and RoomAlias hold valid identifiers.
- In a JSON body, null counts as absent: the field gets its default, or None if its type allows
  that. Unknown keys are ignored, as the specification requires.
- An empty body counts as `{}` if no field of the body is required.
- JSON nested deeper than MAX_DEPTH is rejected before any field is read, since later code is
  recursive. Values must not contain NUL, which PostgreSQL cannot store; only whole bodies without
  a declared structure may, and are checked where they are stored.
- Event content must be canonical JSON.
- `body_stream()` leaves the body unread. The handler must limit its size, since the endpoint's
  `max_body_bytes` does not apply.
"""

import enum
import inspect
from collections.abc import AsyncIterator, Callable
from functools import cache
from typing import Any, NewType, TypeVar, get_type_hints

import attrs
import orjson

from hs.apis.web.http_request import HttpRequest, access_token_of
from hs.apis.web.value_conversion import (
    allows_none,
    json_converter,
    reject_many_values,
    reject_nul,
    text_converter,
    unwrapped_type,
)
from hs.core.canonical_json import JsonObject, check_canonical, parse_shallow_json
from hs.core.errors import BadJson, InvalidParam, MissingParam, TooLarge
from hs.core.events.format import MAX_EVENT_BYTES
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


class FieldKind(enum.Enum):
    """The part of a request from which a field takes its value."""

    PATH = "path"
    QUERY = "query"
    WHOLE_QUERY = "whole query"
    HEADER = "header"
    BODY = "body"
    WHOLE_BODY = "whole body"
    EVENT_CONTENT = "event content"
    RAW_BODY = "raw body"
    BODY_STREAM = "body stream"
    REMOTE_ADDRESS = "remote address"
    REQUESTER = "requester"
    ORIGIN = "origin"
    TOKEN = "token"


class BodyUse(enum.Enum):
    """How the body of a request is read before the handler runs."""

    NOTHING = "nothing"
    BYTES = "bytes"
    JSON = "json"
    STREAM = "stream"


@attrs.frozen
class FieldSource:
    """The declaration of a field: its source, its name there, and how to parse its text."""

    kind: FieldKind
    name: str | None
    parse: Callable[[str], Any] | None


def _field(
    kind: FieldKind,
    default: Any = attrs.NOTHING,
    factory: Callable[[], Any] | None = None,
    name: str | None = None,
    parse: Callable[[str], Any] | None = None,
) -> Any:
    if factory is not None:
        default = attrs.Factory(factory)
    return attrs.field(
        default=default, kw_only=True, metadata={"source": FieldSource(kind, name, parse)}
    )


def path(
    *,
    default: Any = attrs.NOTHING,
    name: str | None = None,
    parse: Callable[[str], Any] | None = None,
) -> Any:
    """Declare a field that is a `{parameter}` of the path, percent-decoded."""
    return _field(FieldKind.PATH, default, None, name, parse)


def query(
    *,
    default: Any = attrs.NOTHING,
    factory: Callable[[], Any] | None = None,
    name: str | None = None,
    parse: Callable[[str], Any] | None = None,
) -> Any:
    """Declare a field that is a query parameter; of a list type, all parameters of that name."""
    return _field(FieldKind.QUERY, default, factory, name, parse)


def whole_query() -> Any:
    """Declare a field with all query parameters: lists of values by name."""
    return _field(FieldKind.WHOLE_QUERY)


def header(name: str, *, default: Any = attrs.NOTHING) -> Any:
    """Declare a field that is a header."""
    return _field(FieldKind.HEADER, default, None, name.lower())


def body(
    *,
    default: Any = attrs.NOTHING,
    factory: Callable[[], Any] | None = None,
    name: str | None = None,
    parse: Callable[[str], Any] | None = None,
) -> Any:
    """Declare a field that is a key of the JSON object in the body."""
    return _field(FieldKind.BODY, default, factory, name, parse)


def whole_body(*, default: Any = attrs.NOTHING, factory: Callable[[], Any] | None = None) -> Any:
    """Declare a field that is the whole JSON body."""
    return _field(FieldKind.WHOLE_BODY, default, factory)


def event_content() -> Any:
    """Declare a field that is the whole JSON body, an object of canonical JSON."""
    return _field(FieldKind.EVENT_CONTENT)


def raw_body() -> Any:
    """Declare a field that is the whole body as bytes."""
    return _field(FieldKind.RAW_BODY)


def body_stream() -> Any:
    """Declare a field that is the unread body, as an async iterator of bytes."""
    return _field(FieldKind.BODY_STREAM)


def remote_address() -> Any:
    """Declare a field that is the client's IP address."""
    return _field(FieldKind.REMOTE_ADDRESS)


def origin() -> Any:
    """Declare a field that is the name of the server that signed the request."""
    return _field(FieldKind.ORIGIN)


def token() -> Any:
    """Declare a field that is the access token, or None."""
    return _field(FieldKind.TOKEN)


# Reads one field from a request into the arguments of the request class.
FieldReader = Callable[[HttpRequest, dict[str, Any]], None]

_PARSERS: dict[Any, Callable[[str], Any]] = {
    UserID: parse_user_id,
    RoomID: parse_room_id,
    RoomAlias: parse_room_alias,
}
_BODY_KINDS = {FieldKind.BODY, FieldKind.WHOLE_BODY, FieldKind.EVENT_CONTENT}


@attrs.frozen
class RequestParser:
    """The compiled form of a request class; `path_names` are its required path parameters."""

    request_class: type
    readers: tuple[FieldReader, ...]
    body_use: BodyUse
    body_may_be_empty: bool
    path_names: frozenset[str]

    def parse(self, http_request: HttpRequest) -> Any:
        """Return an instance of the request class.

        Raises: MatrixError that names the field which is missing or invalid.
        """
        if self.body_use is BodyUse.JSON:
            http_request.json = self._decode(http_request.body)
        values: dict[str, Any] = {}
        for read in self.readers:
            read(http_request, values)
        return self.request_class(**values)

    def _decode(self, raw: bytes) -> Any:
        if not raw and self.body_may_be_empty:
            return {}
        reject_many_values(raw)
        return parse_shallow_json(raw)


@cache
def compile_parser(request_class: type) -> RequestParser:
    """Compile a request class. Raises: TypeError if a field does not declare its source."""
    hints = get_type_hints(request_class)
    readers: list[FieldReader] = []
    kinds: set[FieldKind] = set()
    path_names: set[str] = set()
    may_be_empty = True
    for field in attrs.fields(request_class):
        source: FieldSource = field.metadata.get("source") or _default_source(
            request_class, field.name
        )
        required = field.default is attrs.NOTHING
        kinds.add(source.kind)
        if source.kind is FieldKind.PATH and required:
            path_names.add(source.name or field.name)
        if source.kind in _BODY_KINDS and required:
            may_be_empty = False
        readers.append(_reader(field.name, hints[field.name], source, required))
    return RequestParser(
        request_class, tuple(readers), _body_use(kinds), may_be_empty, frozenset(path_names)
    )


def _default_source(request_class: type, name: str) -> FieldSource:
    if name == "requester":
        return FieldSource(FieldKind.REQUESTER, None, None)
    raise TypeError(f"{request_class.__name__}.{name} does not declare its source")


def _body_use(kinds: set[FieldKind]) -> BodyUse:
    if kinds & _BODY_KINDS:
        return BodyUse.JSON
    if FieldKind.BODY_STREAM in kinds:
        return BodyUse.STREAM
    return BodyUse.BYTES if FieldKind.RAW_BODY in kinds else BodyUse.NOTHING


def _reader(attribute: str, declared: Any, source: FieldSource, required: bool) -> FieldReader:
    name = source.name or attribute
    parse = source.parse or _PARSERS.get(_new_type(declared))
    match source.kind:
        case FieldKind.PATH:
            return _path_reader(attribute, name, parse or text_converter(name, declared), required)
        case FieldKind.QUERY if getattr(unwrapped_type(declared), "__origin__", None) in (
            list,
            tuple,
        ):
            return _query_list_reader(attribute, name)
        case FieldKind.QUERY:
            return _query_reader(attribute, name, parse or text_converter(name, declared), required)
        case FieldKind.HEADER:
            return _header_reader(attribute, name, text_converter(name, declared), required)
        case FieldKind.BODY:
            return _body_reader(attribute, name, declared, parse, required)
        case FieldKind.WHOLE_BODY:
            return _whole_body_reader(attribute, declared)
        case FieldKind.EVENT_CONTENT:
            return _event_content_reader(attribute)
        case FieldKind.REQUESTER if allows_none(declared):
            return _copying_reader(attribute, lambda http_request: http_request.requester)
        case FieldKind.REQUESTER:
            return _copying_reader(attribute, _required_requester)
        case _:
            return _copying_reader(attribute, _COPIED[source.kind])


def _new_type(declared: Any) -> Any:
    """Return the NewType in `X` or `X | None`; None if there is none."""
    for part in getattr(declared, "__args__", (declared,)):
        if isinstance(part, NewType):
            return part
    return None


def _required_requester(http_request: HttpRequest) -> Requester:
    assert http_request.requester is not None, "the endpoint's auth= admits requests without a user"
    return http_request.requester


def _body_stream(http_request: HttpRequest) -> AsyncIterator[bytes]:
    return http_request


_COPIED: dict[FieldKind, Callable[[HttpRequest], Any]] = {
    FieldKind.RAW_BODY: lambda http_request: http_request.body,
    FieldKind.BODY_STREAM: _body_stream,
    FieldKind.REMOTE_ADDRESS: lambda http_request: http_request.client_ip,
    FieldKind.WHOLE_QUERY: lambda http_request: http_request.query,
    FieldKind.ORIGIN: lambda http_request: http_request.origin,
    FieldKind.TOKEN: access_token_of,
}


def _copying_reader(attribute: str, get: Callable[[HttpRequest], Any]) -> FieldReader:
    def read(http_request: HttpRequest, values: dict[str, Any]) -> None:
        values[attribute] = get(http_request)

    return read


def _path_reader(
    attribute: str, name: str, convert: Callable[[str], Any], required: bool
) -> FieldReader:
    def read(http_request: HttpRequest, values: dict[str, Any]) -> None:
        text = http_request.path_params.get(name)
        if text is not None:
            values[attribute] = convert(text)
        elif required:
            raise MissingParam(f"Missing path parameter {name}")

    return read


def _query_reader(
    attribute: str, name: str, convert: Callable[[str], Any], required: bool
) -> FieldReader:
    def read(http_request: HttpRequest, values: dict[str, Any]) -> None:
        text = http_request.query_value(name)
        if text is not None:
            values[attribute] = convert(text)
        elif required:
            raise MissingParam(f"Missing query parameter {name}")

    return read


def _query_list_reader(attribute: str, name: str) -> FieldReader:
    def read(http_request: HttpRequest, values: dict[str, Any]) -> None:
        if http_request.query_string and name in http_request.query:
            values[attribute] = http_request.query[name]

    return read


def _header_reader(
    attribute: str, name: str, convert: Callable[[str], Any], required: bool
) -> FieldReader:
    header_name = name.encode("ascii")

    def read(http_request: HttpRequest, values: dict[str, Any]) -> None:
        text = http_request.header(header_name)
        if text is not None:
            values[attribute] = convert(text)
        elif required:
            raise InvalidParam(f"Missing header {name}")

    return read


def _body_reader(
    attribute: str, name: str, declared: Any, parse: Callable[[str], Any] | None, required: bool
) -> FieldReader:
    convert = json_converter(name, declared)
    nullable = allows_none(declared)

    def read(http_request: HttpRequest, values: dict[str, Any]) -> None:
        document = http_request.json
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
        if http_request.may_contain_nul:
            reject_nul(name, document[name])
        values[attribute] = parse(value) if parse is not None else value

    return read


def _whole_body_reader(attribute: str, declared: Any) -> FieldReader:
    convert = json_converter("The body", declared)
    plain = unwrapped_type(declared)
    is_free_form = plain is Any or getattr(plain, "__origin__", plain) is dict

    def read(http_request: HttpRequest, values: dict[str, Any]) -> None:
        values[attribute] = convert(http_request.json)
        if not is_free_form and http_request.may_contain_nul:
            reject_nul("The body", http_request.json)

    return read


def _event_content_reader(attribute: str) -> FieldReader:
    def read(http_request: HttpRequest, values: dict[str, Any]) -> None:
        if type(http_request.json) is not dict:
            raise BadJson("The content of an event must be a JSON object")
        # Before the content is walked: a body may have a million members.
        if len(http_request.body) > MAX_EVENT_BYTES:
            _check_event_size(http_request.json)
        check_canonical(http_request.json)
        values[attribute] = http_request.json

    return read


def _check_event_size(content: JsonObject) -> None:
    """Raises: TooLarge if an event with this content is too large."""
    if len(orjson.dumps(content)) > MAX_EVENT_BYTES:
        raise TooLarge(f"The event must be at most {MAX_EVENT_BYTES} bytes long")


def parse_body_as(body_class: type[T], content: JsonObject) -> T:
    """Convert a body to a class that the handler chooses only after it has seen the request.

    Keys that are not fields of the class are ignored. Raises: BadJson.
    """
    names = {field.name for field in attrs.fields(body_class)}
    known = {name: value for name, value in content.items() if name in names}
    reject_nul("The body", known)
    converted: T = json_converter("The body", body_class)(known)
    return converted


@cache
def request_class_of(function: Callable[..., Any]) -> type | None:
    """Return the request class in the annotations of a handler; None if it takes no request.

    Raises: TypeError if it takes more.
    """
    parameters = list(inspect.signature(function).parameters)
    if len(parameters) == 1:
        return None
    if len(parameters) != 2:
        raise TypeError(f"{function.__qualname__} must take self and at most one request")
    request_class: type = get_type_hints(function)[parameters[1]]
    return request_class
