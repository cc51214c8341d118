"""The router: finding endpoints by method and raw path."""

from typing import Any

import attrs
import pytest

from hs.apis.web.auth import NONE
from hs.apis.web.request import path
from hs.apis.web.route import collect, resources_of, route
from hs.apis.web.router import Router, WrongMethod
from hs.core.errors import InvalidParam
from tests.support.web import client_for


@attrs.frozen
class StateRequest:
    """A state entry of a room."""

    room_id: str = path()
    event_type: str = path()
    state_key: str = path(default="")


@attrs.frozen
class RoomRequest:
    """A room."""

    room_id: str = path()


ROOM = "/_matrix/client/v3/rooms/{room_id}"


@attrs.frozen
class RoomsApi:
    """Endpoints whose paths overlap."""

    @route("GET", f"{ROOM}/state", auth=NONE)
    async def state(self, request: RoomRequest) -> list[str]:
        return ["state", request.room_id]

    @route("GET", f"{ROOM}/state/{{event_type}}/{{state_key}}", auth=NONE)
    @route(
        "PUT",
        f"{ROOM}/state/{{event_type}}/{{state_key}}",
        auth=NONE,
        extra_paths=[f"{ROOM}/state/{{event_type}}"],
    )
    async def state_entry(self, request: StateRequest) -> list[str]:
        return ["state entry", request.room_id, request.event_type, request.state_key]

    @route("PUT", f"{ROOM}/state/m.literal/x", auth=NONE)
    async def literal(self) -> list[str]:
        return ["literal"]

    @route("GET", "/_matrix/client/v3/pushrules/", auth=NONE)
    async def rules(self) -> list[str]:
        return ["rules"]


async def request_json(method: str, raw_path: str) -> Any:
    return (await client_for(RoomsApi()).request(method, f"/_matrix/client/v3{raw_path}")).json


@pytest.mark.parametrize(
    ("method", "raw_path", "result"),
    [
        ("GET", "/rooms/!a:b/state", ["state", "!a:b"]),
        ("GET", "/rooms/!a:b/state/", ["state", "!a:b"]),
        ("GET", "/rooms/%21a%3Ab/state", ["state", "!a:b"]),
        ("PUT", "/rooms/!a/state/m.name", ["state entry", "!a", "m.name", ""]),
        ("PUT", "/rooms/!a/state/m.name/", ["state entry", "!a", "m.name", ""]),
        ("GET", "/rooms/!a/state/m.name/", ["state entry", "!a", "m.name", ""]),
        ("PUT", "/rooms/!a/state/m.name/a%2Fb%2f%25", ["state entry", "!a", "m.name", "a/b/%"]),
        ("PUT", "/rooms/!a/state/m.name/%F0%9F%90%88", ["state entry", "!a", "m.name", "🐈"]),
        ("PUT", "/rooms/!a/state/m.literal/x", ["literal"]),
        ("PUT", "/rooms/!a/state/m.literal/y", ["state entry", "!a", "m.literal", "y"]),
        ("GET", "/rooms/!a/state/m.literal/x", ["state entry", "!a", "m.literal", "x"]),
        ("GET", "/pushrules/", ["rules"]),
        ("GET", "/pushr%75les/", ["rules"]),
    ],
)
async def test_path_is_routed_to_its_endpoint(
    method: str, raw_path: str, result: list[str]
) -> None:
    assert await request_json(method, raw_path) == result


async def test_v3_paths_are_served_as_r0_too() -> None:
    response = await client_for(RoomsApi()).get("/_matrix/client/r0/rooms/!a/state")

    assert response.json == ["state", "!a"]


@pytest.mark.parametrize(
    "raw_path",
    ["", "/", "/rooms", "/rooms//state", "/rooms/!a", "/rooms/a/b/state", "/rooms/%2F..%2F"],
)
def test_unknown_path_has_no_endpoint(raw_path: str) -> None:
    assert Router(collect(RoomsApi())).find("GET", f"/_matrix/client/v3{raw_path}") is None


def test_wrong_method_names_the_allowed_methods() -> None:
    with pytest.raises(WrongMethod) as caught:
        Router(collect(RoomsApi())).find("DELETE", "/_matrix/client/v3/rooms/!a/state/x/y")

    assert caught.value.allowed == ["GET", "PUT"]


@pytest.mark.parametrize("raw_path", ["/rooms/%FF/state", "/rooms/%00/state"])
def test_path_that_is_not_text_is_rejected(raw_path: str) -> None:
    with pytest.raises(InvalidParam):
        Router(collect(RoomsApi())).find("GET", f"/_matrix/client/v3{raw_path}")


def test_two_endpoints_with_one_path_are_rejected() -> None:
    with pytest.raises(ValueError, match="both"):
        Router([*collect(RoomsApi()), *collect(RoomsApi())])


def test_path_without_a_required_parameter_is_rejected() -> None:
    @attrs.frozen
    class IncompleteApi:
        @route("GET", "/_matrix/client/v3/rooms", auth=NONE)
        async def rooms(self, request: RoomRequest) -> None:
            """Never called."""

    with pytest.raises(TypeError, match="room_id"):
        collect(IncompleteApi())


@pytest.mark.parametrize(
    ("path_pattern", "resources"),
    [
        ("/_matrix/client/v3/sync", {"client"}),
        ("/_matrix/client/v1/media/config", {"client", "media"}),
        ("/_matrix/media/v3/upload", {"client", "federation", "media"}),
        ("/_matrix/federation/v1/send/x", {"federation"}),
        ("/_matrix/key/v2/server", {"keys", "federation"}),
        ("/_synapse/admin/v1/users", {"client"}),
        ("/_synapse/replication/x", {"replication"}),
        ("/_synapse/metrics", {"metrics"}),
        ("/health", {"health"}),
    ],
)
def test_paths_belong_to_listener_resources(path_pattern: str, resources: set[str]) -> None:
    assert resources_of(path_pattern) == resources


def test_path_with_too_many_segments_is_not_even_decoded() -> None:
    router = Router(collect(RoomsApi()))

    assert router.find("GET", "/%FF" * 1000) is None
    with pytest.raises(InvalidParam):
        router.find("GET", "/%FF")
