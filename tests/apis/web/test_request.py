"""Reading requests into typed values, and the errors for those that do not fit."""

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
    event_content,
    header,
    path,
    peer,
    query,
    raw_body,
    stream,
    token,
    whole_body,
)
from hs.apis.web.route import route
from hs.apis.web.value_conversion import refuse_deep
from hs.core.canonical_json import MAX_DEPTH, JsonObject, parse_json
from hs.core.errors import BadJson, InvalidParam
from hs.core.ids import EventID, UserID, parse_event_id
from hs.core.requester import Requester
from tests.support.web import Answer, Tokens, client_for


@attrs.frozen
class Filter:
    """A nested object."""

    limit: int
    types: list[str] = attrs.field(factory=list)


@attrs.frozen
class Everything:
    """One field of each kind."""

    requester: Requester | None
    user_id: UserID = path()
    event_id: EventID | None = query(default=None, parse=parse_event_id)
    limit: int = query(default=10)
    full: bool = query(name="full_state", default=False)
    direction: Literal["b", "f"] = query(name="dir", default="b")
    via: list[str] = query(factory=list)
    etag: str | None = header("if-match", default=None)
    client_ip: str = peer()
    access_token: str | None = token()
    name: str = body()
    ts: int = body(default=0)
    flag: bool | None = body(default=None)
    filter: Filter | None = body(default=None)
    members: dict[str, list[str]] = body(factory=dict)
    mode: Literal["x", "y"] = body(name="org.example.mode", default="x")
    anything: Any = body(default=None)


@attrs.frozen
class Content:
    """The content of an event."""

    content: JsonObject = event_content()


@attrs.frozen
class Whole:
    """A typed body."""

    filter: Filter = whole_body()


@attrs.frozen
class Optional:
    """A body that may be absent."""

    reason: str | None = body(default=None)


@attrs.frozen
class Raw:
    """Bytes."""

    content: bytes = raw_body()


@attrs.frozen
class Upload:
    """A body read by the handler."""

    parts: AsyncIterator[bytes] = stream()


@attrs.frozen
class KindsApi:
    """Endpoints that tell what they were asked."""

    @route("POST", "/all/{user_id}", auth=OPTIONAL)
    async def everything(self, request: Everything) -> dict[str, Any]:
        return attrs.asdict(request)

    @route("PUT", "/content", auth=NONE)
    async def content(self, request: Content) -> dict[str, Any]:
        return request.content

    @route("PUT", "/whole", auth=NONE)
    async def whole(self, request: Whole) -> Filter:
        return request.filter

    @route("POST", "/optional", auth=NONE)
    async def optional(self, request: Optional) -> dict[str, Any]:
        return {"reason": request.reason}

    @route("PUT", "/raw", auth=NONE)
    async def raw(self, request: Raw) -> bytes:
        return request.content

    @route("PUT", "/upload", auth=NONE, max_body_bytes=3)
    async def upload(self, request: Upload) -> list[int]:
        return [len(part) async for part in request.parts]


PLAIN = "/all/@a:b"


async def post(path_of: str = PLAIN, json: Any = None, **more: Any) -> Answer:
    tokens = Tokens()
    tokens.user("alice")
    json = {"name": "n"} if json is None else json
    return await client_for(KindsApi(), tokens=tokens).post(path_of, json, **more)


async def test_every_kind_of_field_finds_its_value() -> None:
    answer = await post(
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

    told = answer.json
    assert told.pop("requester")["user_id"] == "@alice:test"
    assert told == {
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


async def test_what_is_absent_or_null_takes_its_default() -> None:
    answer = await post(json={"name": "n", "ts": None, "flag": None, "members": None})

    told = answer.json
    assert (told["ts"], told["flag"], told["members"], told["limit"]) == (0, None, {}, 10)
    assert told["requester"] is None


@pytest.mark.parametrize(
    ("path_of", "json", "errcode"),
    [
        (PLAIN, {}, "M_MISSING_PARAM"),
        (PLAIN, {"name": None}, "M_MISSING_PARAM"),
        (PLAIN, {"name": 5}, "M_BAD_JSON"),
        (PLAIN, {"name": "a\0b"}, "M_BAD_JSON"),
        (PLAIN, {"name": "n", "ts": "5"}, "M_BAD_JSON"),
        (PLAIN, {"name": "n", "ts": True}, "M_BAD_JSON"),
        (PLAIN, {"name": "n", "ts": 1.5}, "M_BAD_JSON"),
        (PLAIN, {"name": "n", "ts": 2**53}, "M_BAD_JSON"),
        (PLAIN, {"name": "n", "flag": 1}, "M_BAD_JSON"),
        (PLAIN, {"name": "n", "filter": {}}, "M_BAD_JSON"),
        (PLAIN, {"name": "n", "filter": {"limit": "3"}}, "M_BAD_JSON"),
        (PLAIN, {"name": "n", "members": {"a": "b"}}, "M_BAD_JSON"),
        (PLAIN, {"name": "n", "members": {"a": ["\0"]}}, "M_BAD_JSON"),
        (PLAIN, {"name": "n", "org.example.mode": "z"}, "M_BAD_JSON"),
        (PLAIN, ["name"], "M_BAD_JSON"),
        (PLAIN, "name", "M_BAD_JSON"),
        ("/all/nobody", {"name": "n"}, "M_INVALID_PARAM"),
        (PLAIN + "?limit=x", {"name": "n"}, "M_INVALID_PARAM"),
        (PLAIN + "?limit=1_0", {"name": "n"}, "M_INVALID_PARAM"),
        (PLAIN + "?limit=%D9%A3", {"name": "n"}, "M_INVALID_PARAM"),
        (PLAIN + "?limit=99999999999999999999", {"name": "n"}, "M_INVALID_PARAM"),
        (PLAIN + "?limit=9007199254740992", {"name": "n"}, "M_INVALID_PARAM"),
        (PLAIN + "?full_state=yes", {"name": "n"}, "M_INVALID_PARAM"),
        (PLAIN + "?dir=x", {"name": "n"}, "M_INVALID_PARAM"),
        (PLAIN + "?event_id=x", {"name": "n"}, "M_INVALID_PARAM"),
        (PLAIN + "?via=%00", {"name": "n"}, "M_INVALID_PARAM"),
        (PLAIN + "?via=%ff", {"name": "n"}, "M_INVALID_PARAM"),
        (PLAIN + "?" + "a&" * 1000, {"name": "n"}, "M_INVALID_PARAM"),
    ],
)
async def test_what_does_not_fit_is_told(path_of: str, json: Any, errcode: str) -> None:
    answer = await post(path_of, json)

    assert (answer.status, answer.errcode) == (400, errcode)


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
async def test_event_contents_are_canonical_objects(raw: bytes, errcode: str) -> None:
    answer = await client_for(KindsApi()).put("/content", body=raw)

    assert (answer.status, answer.errcode) == (400, errcode)


async def test_of_duplicate_keys_the_last_wins() -> None:
    answer = await client_for(KindsApi()).put("/content", body=b'{"a":1,"a":2}')

    assert answer.json == {"a": 2}


async def test_broad_bodies_are_not_deep_ones() -> None:
    answer = await client_for(KindsApi()).put("/content", {"a": [[]] * 1000})

    assert answer.status == 200


@pytest.mark.parametrize("opening", [b'{"a":', b"["])
def test_bodies_may_nest_so_deep(opening: bytes) -> None:
    closing = b"}" if opening.startswith(b"{") else b"]"

    def check(depth: int) -> None:
        raw = b'[{"much":[[],[]]},%b1%b]' % (opening * (depth - 1), closing * (depth - 1))
        refuse_deep(raw, parse_json(raw))

    check(MAX_DEPTH)
    with pytest.raises(BadJson, match="deeper than 200"):
        check(MAX_DEPTH + 1)


async def test_a_typed_body_is_checked_whole() -> None:
    client = client_for(KindsApi())

    assert (await client.put("/whole", {"limit": 3})).json == {"limit": 3, "types": []}
    assert (await client.put("/whole", {"limit": None})).errcode == "M_BAD_JSON"
    assert (await client.put("/whole", {"limit": 3, "types": ["\0"]})).errcode == "M_BAD_JSON"


async def test_an_absent_body_is_an_empty_object_where_nothing_is_needed() -> None:
    client = client_for(KindsApi())

    assert (await client.post("/optional")).json == {"reason": None}
    assert (await client.post("/optional", {"reason": "r"})).json == {"reason": "r"}


async def test_bytes_and_streams_are_given_as_they_are() -> None:
    client = client_for(KindsApi())

    assert (await client.put("/raw", body=b'{"x":1}')).body == b'{"x":1}'
    assert (await client.put("/upload", body=b"longer than bounds")).json == [18]


async def test_a_body_beyond_the_bound_is_too_large() -> None:
    answer = await client_for(KindsApi()).put("/raw", body=b"x" * ((1 << 20) + 1))

    assert (answer.status, answer.errcode) == (413, "M_TOO_LARGE")


@given(value=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
async def test_any_text_survives_the_query(value: str) -> None:
    answer = await client_for(KindsApi()).post(PLAIN, {"name": "n"}, query={"via": [value]})

    assert answer.json["via"] == [value]


def test_a_query_is_percent_encoded() -> None:
    with pytest.raises(InvalidParam):
        parse_query(b"via=\xff")


def test_a_field_must_say_where_it_comes_from() -> None:
    @attrs.frozen
    class Mute:
        room_id: str

    @attrs.frozen
    class MuteApi:
        @route("GET", "/mute", auth=NONE)
        async def mute(self, request: Mute) -> None:
            """Never called."""

    # The class is local, so its annotation is looked up where the module's names are.
    globals()["Mute"] = Mute
    with pytest.raises(TypeError, match="room_id"):
        client_for(MuteApi())
