"""Request classes: conversion of requests to typed values, and errors for invalid ones."""

from collections.abc import AsyncIterator
from typing import Any, Literal

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hs.apis.web.auth import NONE, OPTIONAL
from hs.apis.web.http_request import parse_query
from hs.apis.web.request import (
    body,
    body_stream,
    event_content,
    header,
    path,
    query,
    raw_body,
    remote_address,
    token,
    whole_body,
)
from hs.apis.web.route import route
from hs.apis.web.value_conversion import reject_many_values, reject_nul
from hs.core.canonical_json import MAX_DEPTH, JsonObject, parse_shallow_json
from hs.core.errors import BadJson, InvalidParam
from hs.core.ids import EventID, UserID, parse_event_id
from hs.core.requester import Requester
from tests.support.web import Tokens, WebResponse, client_for


@attrs.frozen
class Filter:
    """A nested object."""

    limit: int
    types: list[str] = attrs.field(factory=list)


@attrs.frozen
class AllKindsRequest:
    """One field of each kind."""

    requester: Requester | None
    user_id: UserID = path()
    event_id: EventID | None = query(default=None, parse=parse_event_id)
    limit: int = query(default=10)
    full: bool = query(name="full_state", default=False)
    direction: Literal["b", "f"] = query(name="dir", default="b")
    via: list[str] = query(factory=list)
    etag: str | None = header("if-match", default=None)
    client_ip: str = remote_address()
    access_token: str | None = token()
    name: str = body()
    ts: int = body(default=0)
    flag: bool | None = body(default=None)
    filter: Filter | None = body(default=None)
    members: dict[str, list[str]] = body(factory=dict)
    mode: Literal["x", "y"] = body(name="org.example.mode", default="x")
    anything: Any = body(default=None)


@attrs.frozen
class EventContentRequest:
    """The content of an event."""

    content: JsonObject = event_content()


@attrs.frozen
class WholeBodyRequest:
    """A typed body."""

    filter: Filter = whole_body()


@attrs.frozen
class OptionalBodyRequest:
    """A body that may be absent."""

    reason: str | None = body(default=None)


@attrs.frozen
class RawBodyRequest:
    """A body as bytes."""

    content: bytes = raw_body()


@attrs.frozen
class StreamRequest:
    """A body that the handler reads."""

    parts: AsyncIterator[bytes] = body_stream()


@attrs.frozen
class KindsApi:
    """Endpoints that return what they received."""

    @route("POST", "/all/{user_id}", auth=OPTIONAL)
    async def everything(self, request: AllKindsRequest) -> dict[str, Any]:
        return attrs.asdict(request)

    @route("PUT", "/content", auth=NONE, max_body_bytes=1 << 20)
    async def content(self, request: EventContentRequest) -> dict[str, Any]:
        return request.content

    @route("PUT", "/whole", auth=NONE)
    async def whole(self, request: WholeBodyRequest) -> Filter:
        return request.filter

    @route("POST", "/optional", auth=NONE)
    async def optional(self, request: OptionalBodyRequest) -> dict[str, Any]:
        return {"reason": request.reason}

    @route("PUT", "/raw", auth=NONE)
    async def raw(self, request: RawBodyRequest) -> bytes:
        return request.content

    @route("PUT", "/upload", auth=NONE, max_body_bytes=3)
    async def upload(self, request: StreamRequest) -> list[int]:
        return [len(part) async for part in request.parts]


TARGET = "/all/@a:b"


async def post(target: str = TARGET, json: Any = None, **more: Any) -> WebResponse:
    tokens = Tokens()
    tokens.user("alice")
    json = {"name": "n"} if json is None else json
    return await client_for(KindsApi(), tokens=tokens).post(target, json, **more)


async def test_every_kind_of_field_is_read() -> None:
    response = await post(
        "/all/%40a%3Ab?event_id=%24e&limit=-5&full_state=true&dir=f&via=a+b&via=%26",
        {
            "name": "ñ",
            "ts": 2**53 - 1,
            "flag": True,
            "filter": {"limit": 3, "more": 1},
            "members": {"a": ["b"]},
            "org.example.mode": "y",
            "anything": [1.5, None],
        },
        headers={"If-Match": "abc"},
        token="alice",
    )

    result = response.json
    assert result.pop("requester")["user_id"] == "@alice:test"
    assert result == {
        "user_id": "@a:b",
        "event_id": "$e",
        "limit": -5,
        "full": True,
        "direction": "f",
        "via": ["a b", "&"],
        "etag": "abc",
        "client_ip": "192.0.2.1",
        "access_token": "alice",
        "name": "ñ",
        "ts": 2**53 - 1,
        "flag": True,
        "filter": {"limit": 3, "types": []},
        "members": {"a": ["b"]},
        "mode": "y",
        "anything": [1.5, None],
    }


async def test_absent_or_null_fields_take_their_default() -> None:
    response = await post(json={"name": "n", "ts": None, "flag": None, "members": None})

    result = response.json
    assert (result["ts"], result["flag"], result["members"], result["limit"]) == (0, None, {}, 10)
    assert result["requester"] is None


@pytest.mark.parametrize(
    ("target", "json", "errcode"),
    [
        (TARGET, {}, "M_MISSING_PARAM"),
        (TARGET, {"name": None}, "M_MISSING_PARAM"),
        (TARGET, {"name": 5}, "M_BAD_JSON"),
        (TARGET, {"name": "a\0b"}, "M_BAD_JSON"),
        (TARGET, {"name": "n", "ts": "5"}, "M_BAD_JSON"),
        (TARGET, {"name": "n", "ts": True}, "M_BAD_JSON"),
        (TARGET, {"name": "n", "ts": 1.5}, "M_BAD_JSON"),
        (TARGET, {"name": "n", "ts": 2**53}, "M_BAD_JSON"),
        (TARGET, {"name": "n", "flag": 1}, "M_BAD_JSON"),
        (TARGET, {"name": "n", "filter": {}}, "M_BAD_JSON"),
        (TARGET, {"name": "n", "filter": {"limit": "3"}}, "M_BAD_JSON"),
        (TARGET, {"name": "n", "members": {"a": "b"}}, "M_BAD_JSON"),
        (TARGET, {"name": "n", "members": {"a": ["\0"]}}, "M_BAD_JSON"),
        (TARGET, {"name": "n", "org.example.mode": "z"}, "M_BAD_JSON"),
        (TARGET, ["name"], "M_BAD_JSON"),
        (TARGET, "name", "M_BAD_JSON"),
        ("/all/nobody", {"name": "n"}, "M_INVALID_PARAM"),
        (TARGET + "?limit=x", {"name": "n"}, "M_INVALID_PARAM"),
        (TARGET + "?limit=1_0", {"name": "n"}, "M_INVALID_PARAM"),
        (TARGET + "?limit=%D9%A3", {"name": "n"}, "M_INVALID_PARAM"),
        (TARGET + "?limit=99999999999999999999", {"name": "n"}, "M_INVALID_PARAM"),
        (TARGET + "?limit=9007199254740992", {"name": "n"}, "M_INVALID_PARAM"),
        (TARGET + "?full_state=yes", {"name": "n"}, "M_INVALID_PARAM"),
        (TARGET + "?dir=x", {"name": "n"}, "M_INVALID_PARAM"),
        (TARGET + "?event_id=x", {"name": "n"}, "M_INVALID_PARAM"),
        (TARGET + "?via=%00", {"name": "n"}, "M_INVALID_PARAM"),
        (TARGET + "?via=%ff", {"name": "n"}, "M_INVALID_PARAM"),
        (TARGET + "?" + "a&" * 1000, {"name": "n"}, "M_INVALID_PARAM"),
    ],
)
async def test_invalid_value_is_rejected(target: str, json: Any, errcode: str) -> None:
    response = await post(target, json)

    assert (response.status, response.errcode) == (400, errcode)


@pytest.mark.parametrize(
    ("raw", "errcode"),
    [
        (b"", "M_NOT_JSON"),
        (b"{", "M_NOT_JSON"),
        (b"\xff", "M_NOT_JSON"),
        (b'{"a":NaN}', "M_NOT_JSON"),
        (b'{"a":"\\ud800"}', "M_NOT_JSON"),
        (b"[" * 100_000, "M_NOT_JSON"),
        (b'{"a":' * 300 + b"1" + b"}" * 300, "M_BAD_JSON"),
        (b"[]", "M_BAD_JSON"),
        (b'{"a":1.0}', "M_BAD_JSON"),
        (b'{"a":[{"b":9007199254740992}]}', "M_BAD_JSON"),
        (b'{"a":123456789012345678901234567890}', "M_BAD_JSON"),
    ],
)
async def test_event_content_must_be_a_canonical_object(raw: bytes, errcode: str) -> None:
    response = await client_for(KindsApi()).put("/content", body=raw)

    assert (response.status, response.errcode) == (400, errcode)


async def test_too_large_event_content_is_rejected_before_it_is_walked() -> None:
    raw = b'{"a":[' + b"[]," * 30_000 + b"1.5]}"
    response = await client_for(KindsApi()).put("/content", body=raw)
    sparse = await client_for(KindsApi()).put("/content", body=b'{"a":' + b" " * 70_000 + b"1}")

    assert (response.status, response.errcode) == (413, "M_TOO_LARGE")
    assert sparse.json == {"a": 1}


async def test_last_duplicate_key_wins() -> None:
    response = await client_for(KindsApi()).put("/content", body=b'{"a":1,"a":2}')

    assert response.json == {"a": 2}


async def test_body_with_many_members_is_not_too_deep() -> None:
    response = await client_for(KindsApi()).put("/content", {"a": [[]] * 1000})

    assert response.status == 200


@pytest.mark.parametrize("opening", [b'{"a":', b"["])
def test_nesting_of_bodies_is_limited(opening: bytes) -> None:
    closing = b"}" if opening.startswith(b"{") else b"]"

    def check(depth: int) -> None:
        raw = b'[{"much":[[],[]]},%b1%b]' % (opening * (depth - 1), closing * (depth - 1))
        parse_shallow_json(raw)

    check(MAX_DEPTH)
    with pytest.raises(BadJson, match="deeper than 200"):
        check(MAX_DEPTH + 1)


JSON_TEXT = st.text(st.sampled_from('\0\\"u0a'), max_size=12)


@given(st.recursive(JSON_TEXT, lambda inner: st.lists(inner) | st.dictionaries(JSON_TEXT, inner)))
def test_only_values_with_nul_characters_are_rejected(value: Any) -> None:
    texts: list[str] = []
    pending = [value]
    while pending:
        member = pending.pop()
        if isinstance(member, str):
            texts.append(member)
        else:
            pending.extend(member)
            pending.extend(member.values() if isinstance(member, dict) else ())

    try:
        reject_nul("value", value)
    except BadJson:
        assert any("\0" in text for text in texts)
    else:
        assert not any("\0" in text for text in texts)


async def test_body_with_very_many_objects_is_rejected() -> None:
    def raw(count: int) -> bytes:
        return b'{"a":[' + b",".join([b"{}"] * (count - 2)) + b"]}"

    reject_many_values(raw(200_000))
    response = await client_for(KindsApi()).put("/content", body=raw(200_001))

    assert (response.status, response.errcode) == (413, "M_TOO_LARGE")
    assert "objects and lists" in response.json["error"]


async def test_typed_body_is_checked_completely() -> None:
    client = client_for(KindsApi())

    assert (await client.put("/whole", {"limit": 3})).json == {"limit": 3, "types": []}
    assert (await client.put("/whole", {"limit": None})).errcode == "M_BAD_JSON"
    assert (await client.put("/whole", {"limit": 3, "types": ["\0"]})).errcode == "M_BAD_JSON"


async def test_absent_body_is_an_empty_object_if_no_field_is_required() -> None:
    client = client_for(KindsApi())

    assert (await client.post("/optional")).json == {"reason": None}
    assert (await client.post("/optional", {"reason": "r"})).json == {"reason": "r"}


async def test_bytes_and_streams_are_passed_unchanged() -> None:
    client = client_for(KindsApi())

    assert (await client.put("/raw", body=b'{"x":1}')).body == b'{"x":1}'
    assert (await client.put("/upload", body=b"longer than limits")).json == [18]


async def test_oversized_body_is_rejected() -> None:
    response = await client_for(KindsApi()).put("/raw", body=b"x" * ((1 << 20) + 1))

    assert (response.status, response.errcode) == (413, "M_TOO_LARGE")


@given(value=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
async def test_any_text_is_preserved_in_the_query(value: str) -> None:
    response = await client_for(KindsApi()).post(TARGET, {"name": "n"}, query={"via": [value]})

    assert response.json["via"] == [value]


def test_query_that_is_not_percent_encoded_is_rejected() -> None:
    with pytest.raises(InvalidParam):
        parse_query(b"via=\xff")


def test_field_without_a_source_is_rejected() -> None:
    @attrs.frozen
    class SourcelessRequest:
        room_id: str

    @attrs.frozen
    class SourcelessApi:
        @route("GET", "/sourceless", auth=NONE)
        async def sourceless(self, request: SourcelessRequest) -> None:
            """Never called."""

    # Annotations of a local class are looked up in the globals of the module.
    globals()["SourcelessRequest"] = SourcelessRequest
    with pytest.raises(TypeError, match="room_id"):
        client_for(SourcelessApi())
