"""Behaviour of all endpoints: authentication, limits, errors, CORS, admission, metrics."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import attrs
import immutables
import orjson
import pytest
import trio

from hs.apis.web.auth import (
    ADMIN,
    FEDERATION,
    NONE,
    OPTIONAL,
    USER,
    USER_OR_GUEST,
)
from hs.apis.web.limits import Admission, GateSize, WorkClass
from hs.apis.web.listener_view import STATE_KEY
from hs.apis.web.render import Empty, Response, html_response, json_name, json_response, redirect
from hs.apis.web.request import origin, path, query, whole_body
from hs.apis.web.route import route
from hs.core.errors import (
    Forbidden,
    LimitExceeded,
    NotFound,
    RemoteFault,
    Unauthorized,
    Unavailable,
)
from hs.core.ids import ServerName
from hs.core.requester import Requester
from hs.core.signing.requests import SignedRequest
from hs.lib.metrics import Metrics
from tests.support.web import Tokens, WebClient, client_for


@attrs.frozen
class RequesterRequest:
    """The requester."""

    requester: Requester | None


@attrs.frozen
class FailRequest:
    """The way to fail."""

    failure: str = path()


@attrs.frozen
class FederationRequest:
    """A signed request of another server."""

    server: ServerName = origin()
    content: dict[str, Any] = whole_body(factory=dict)


@attrs.frozen
class SlowRequest:
    """The time that the handler takes."""

    seconds: int = query(default=10)


@attrs.frozen
class Rendered:
    """A response with a JSON key that is no identifier, nested values and None."""

    user_id: str
    nothing: str | None = None
    odd: int | None = json_name("org.example.odd", default=None)
    inner: Any = None


async def fail_in_a_nursery(error: Exception) -> None:
    async def fail() -> None:
        raise error

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)


@attrs.frozen
class ManyApi:
    """Endpoints of all kinds."""

    finished: list[str] = attrs.field(factory=list)

    @route("GET", "/user", auth=USER)
    async def user(self, request: RequesterRequest) -> Rendered:
        assert request.requester is not None
        return Rendered(request.requester.user_id)

    @route("GET", "/guest", auth=USER_OR_GUEST)
    async def guest(self, request: RequesterRequest) -> Empty:
        return Empty()

    @route("GET", "/admin", auth=ADMIN)
    async def admin(self, request: RequesterRequest) -> Empty:
        return Empty()

    @route("POST", "/logout", auth=USER, allow_locked=True)
    async def logout(self, request: RequesterRequest) -> None:
        return None

    @route("GET", "/optional", auth=OPTIONAL)
    async def optional(self, request: RequesterRequest) -> dict[str, bool]:
        return {"known": request.requester is not None}

    @route("PUT", "/_matrix/federation/v1/send", auth=FEDERATION)
    async def send(self, request: FederationRequest) -> dict[str, Any]:
        return {"from": request.server, **request.content}

    @route("GET", "/limited", auth=NONE, rate="messages")
    async def limited(self) -> Empty:
        return Empty()

    @route("GET", "/heavy", auth=NONE, work=WorkClass.HEAVY)
    async def heavy(self, request: SlowRequest) -> Empty:
        await trio.sleep(request.seconds)
        return Empty()

    @route("GET", "/rendered", auth=NONE)
    async def rendered(self) -> Rendered:
        inner = {
            "map": immutables.Map(a=1),
            "none": None,
            "fragment": orjson.Fragment(b'{"x": 1}'),
            "nested": [Rendered("b")],
            "set": frozenset({"y", "x"}),
        }
        return Rendered("a", odd=5, inner=inner)

    @route("GET", "/page", auth=NONE)
    async def page(self) -> Response:
        return html_response("<p>hello")

    @route("GET", "/redirect", auth=NONE)
    async def redirected(self) -> Response:
        return redirect("https://example.org/")

    @route("GET", "/teapot", auth=NONE)
    async def teapot(self) -> Response:
        return json_response({"short": True}, 418)

    @route("GET", "/fail/{failure}", auth=NONE)
    async def fail(self, request: FailRequest) -> None:
        match request.failure:
            case "forbidden":
                raise Forbidden("No", reason="x")
            case "limited":
                raise LimitExceeded("Slowly", retry_after_ms=1500)
            case "unavailable":
                raise Unavailable("database at 10.0.0.1")
            case "remote":
                raise RemoteFault("example.org", "connection closed")
            case "nursery":
                await fail_in_a_nursery(NotFound("Gone"))
            case "nursery bug":
                await fail_in_a_nursery(ValueError("secret detail"))
            case _:
                raise ValueError("secret detail")

    @route("GET", "/wait", auth=NONE, cancel_on_disconnect=True)
    async def wait(self, request: SlowRequest) -> Empty:
        with trio.CancelScope():
            try:
                await trio.sleep(request.seconds)
            finally:
                self.finished.append("wait")
        return Empty()

    @route("GET", "/broken-stream", auth=NONE)
    async def broken_stream(self) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"x"
            await fail_in_a_nursery(ValueError("in the middle"))

        return Response(200, {}, parts())


@attrs.define
class UncheckedOrigins:
    """An OriginAuthenticator that trusts the header."""

    seen: list[SignedRequest] = attrs.field(factory=list)

    async def origin_of(self, request: SignedRequest) -> ServerName:
        await trio.lowlevel.checkpoint()
        self.seen.append(request)
        if not request.authorization:
            raise Unauthorized("Missing signature")
        return ServerName(request.authorization[0])


@attrs.define
class OneRequestPerClass:
    """RateLimits that allow one request per rate class."""

    seen: set[str] = attrs.field(factory=set)

    def check(self, rate: str, requester: Requester | None, client_ip: str) -> None:
        if rate in self.seen:
            raise LimitExceeded("Too many", retry_after_ms=100)
        self.seen.add(rate)


@pytest.fixture
def client() -> WebClient:
    tokens = Tokens()
    tokens.user("alice")
    tokens.user("root", is_admin=True)
    tokens.user("guest", is_guest=True)
    tokens.user("locked", locked=True)
    tokens.user("bridge", appservice_id="irc", device_id=None)
    return client_for(
        ManyApi(), tokens=tokens, origins=UncheckedOrigins(), rates=OneRequestPerClass()
    )


@pytest.mark.parametrize(
    ("target", "token", "status", "errcode"),
    [
        ("/user", None, 401, "M_MISSING_TOKEN"),
        ("/user", "nobody", 401, "M_UNKNOWN_TOKEN"),
        ("/user", "alice", 200, None),
        ("/user", "guest", 403, "M_GUEST_ACCESS_FORBIDDEN"),
        ("/guest", "guest", 200, None),
        ("/user", "locked", 401, "M_USER_LOCKED"),
        ("/admin", "alice", 403, "M_FORBIDDEN"),
        ("/admin", "root", 200, None),
        ("/optional", None, 200, None),
        ("/optional", "nobody", 401, "M_UNKNOWN_TOKEN"),
        ("/user?access_token=alice", None, 200, None),
        ("/user?access_token=", None, 401, "M_MISSING_TOKEN"),
        ("/user?user_id=@other:test", "bridge", 200, None),
        ("/user?user_id=@other:elsewhere", "bridge", 403, "M_FORBIDDEN"),
    ],
)
async def test_requester_is_authenticated_as_the_endpoint_requires(
    client: WebClient, target: str, token: str | None, status: int, errcode: str | None
) -> None:
    response = await client.get(target, token=token)

    assert (response.status, response.errcode) == (status, errcode)


async def test_locked_user_may_log_out(client: WebClient) -> None:
    assert (await client.post("/logout", token="locked")).json == {}


async def test_application_service_acts_as_its_user(client: WebClient) -> None:
    response = await client.get("/user?user_id=@other:test", token="bridge")

    assert response.json == {"user_id": "@other:test"}


async def test_user_cannot_act_as_another_user(client: WebClient) -> None:
    response = await client.get("/user?user_id=@other:test", token="alice")

    assert response.json == {"user_id": "@alice:test"}


async def test_signature_covers_method_uri_and_content() -> None:
    origins = UncheckedOrigins()
    client = client_for(ManyApi(), origins=origins)

    response = await client.put(
        "/_matrix/federation/v1/send?a=%20b", {"x": 1}, headers={"Authorization": "example.org"}
    )

    assert response.json == {"from": "example.org", "x": 1}
    assert origins.seen == [
        SignedRequest("PUT", "/_matrix/federation/v1/send?a=%20b", ("example.org",), b'{"x":1}')
    ]
    assert "access-control-allow-origin" not in response.headers


async def test_federation_request_is_rejected_if_federation_is_disabled() -> None:
    response = await client_for(ManyApi()).put("/_matrix/federation/v1/send", {})

    assert (response.status, response.errcode) == (401, "M_UNAUTHORIZED")


async def test_rate_limited_response_says_when_to_retry(client: WebClient) -> None:
    assert (await client.get("/limited")).status == 200

    response = await client.get("/limited")

    assert response.status == 429
    assert response.json["retry_after_ms"] == 100
    assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("failure", "status", "body"),
    [
        ("forbidden", 403, {"errcode": "M_FORBIDDEN", "error": "No", "reason": "x"}),
        (
            "limited",
            429,
            {"errcode": "M_LIMIT_EXCEEDED", "error": "Slowly", "retry_after_ms": 1500},
        ),
        (
            "unavailable",
            503,
            {"errcode": "M_UNKNOWN", "error": "The server is temporarily unavailable; try again"},
        ),
        ("remote", 502, {"errcode": "M_UNKNOWN", "error": "The request to example.org failed"}),
        ("nursery", 404, {"errcode": "M_NOT_FOUND", "error": "Gone"}),
        ("nursery bug", 500, {"errcode": "M_UNKNOWN", "error": "Internal server error"}),
        ("bug", 500, {"errcode": "M_UNKNOWN", "error": "Internal server error"}),
    ],
)
async def test_errors_are_rendered_without_internal_details(
    client: WebClient, failure: str, status: int, body: dict[str, Any]
) -> None:
    response = await client.get(f"/fail/{failure.replace(' ', '%20')}")

    assert (response.status, response.json) == (status, body)


async def test_internal_errors_are_logged_with_a_traceback(
    client: WebClient, caplog: pytest.LogCaptureFixture
) -> None:
    await client.get("/fail/bug")

    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert "secret detail" in str(record.exc_info[1])


async def test_results_are_rendered_as_json(client: WebClient) -> None:
    response = await client.get("/rendered")

    assert response.headers["content-type"] == "application/json"
    assert response.json == {
        "user_id": "a",
        "org.example.odd": 5,
        "inner": {
            "map": {"a": 1},
            "none": None,
            "fragment": {"x": 1},
            "nested": [{"user_id": "b"}],
            "set": ["x", "y"],
        },
    }


async def test_explicit_responses_are_sent_unchanged(client: WebClient) -> None:
    page, redirected, teapot = [
        await client.get(target) for target in ("/page", "/redirect", "/teapot")
    ]

    assert (page.status, page.body) == (200, b"<p>hello")
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert (redirected.status, redirected.headers["location"]) == (302, "https://example.org/")
    assert (teapot.status, teapot.json) == (418, {"short": True})


@pytest.mark.parametrize("target", ["/user", "/_matrix/client/v3/unknown", "/fail/bug"])
async def test_cors_headers_are_sent_with_all_responses(client: WebClient, target: str) -> None:
    preflight = await client.request("OPTIONS", target)
    response = await client.get(target)

    assert (preflight.status, preflight.body) == (204, b"")
    for headers in (preflight.headers, response.headers):
        assert headers["access-control-allow-origin"] == "*"
        assert "PUT" in headers["access-control-allow-methods"]
        assert "Authorization" in headers["access-control-allow-headers"]


@pytest.mark.parametrize("target", ["/_matrix/unknown", "/unknown", "/_synapse/x", "/", "//"])
async def test_unknown_path_is_unrecognized(client: WebClient, target: str) -> None:
    response = await client.get(target)

    assert (response.status, response.errcode) == (404, "M_UNRECOGNIZED")


async def test_wrong_method_is_unrecognized(client: WebClient) -> None:
    response = await client.post("/user", {})

    assert (response.status, response.errcode) == (405, "M_UNRECOGNIZED")
    assert response.headers["allow"] == "GET"


async def test_quart_serves_paths_without_an_endpoint(client: WebClient) -> None:
    async def console() -> str:
        return "console"

    async def broken() -> str:
        raise Forbidden("Not yours")

    client.app.add_url_rule("/console", view_func=console)
    client.app.add_url_rule("/broken", view_func=broken)

    assert (await client.get("/console")).body == b"console"
    assert (await client.get("/broken")).errcode == "M_FORBIDDEN"
    assert (await client.post("/console")).errcode == "M_UNRECOGNIZED"


async def test_listener_serves_only_its_resources(client: WebClient) -> None:
    client.state = {STATE_KEY: client.app.view_for(["federation"])}

    assert (await client.get("/optional")).status == 404
    assert (await client.put("/_matrix/federation/v1/send", {})).status == 401


async def test_disconnect_cancels_a_waiting_handler(
    autojump_clock: trio.testing.MockClock,
) -> None:
    api = ManyApi()
    client = client_for(api)
    disconnected = trio.Event()

    async def disconnect() -> None:
        await trio.sleep(1)
        disconnected.set()

    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(disconnect)
        with pytest.raises(ConnectionError):
            await client.get("/wait?seconds=3600", disconnect=disconnected)

    assert api.finished == ["wait"]
    assert trio.current_time() - started < 2


async def test_admission_queues_then_rejects_heavy_work(
    autojump_clock: trio.testing.MockClock,
) -> None:
    admission = Admission({WorkClass.HEAVY: GateSize(running=1, waiting=1)})
    client = client_for(ManyApi(), admission=admission)
    statuses: list[tuple[float, int]] = []

    async def request() -> None:
        response = await client.get("/heavy?seconds=10")
        statuses.append((trio.current_time() - started, response.status))

    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(request)

    assert sorted((round(at), status) for at, status in statuses) == [
        (0, 429),
        (10, 200),
        (20, 200),
    ]
    assert (await client.get("/optional")).status == 200


async def test_requests_are_counted_by_pattern_and_logged_without_secrets(
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics, tokens = Metrics(), Tokens()
    tokens.user("alice")
    client = client_for(ManyApi(), tokens=tokens, metrics=metrics)

    with caplog.at_level(logging.INFO, "hs.access"):
        await client.get("/user?access_token=alice")
        await client.get("/fail/forbidden")
        await client.get("/favicon.ico")
        await client.get("/x" * 10_000)

    counted = metrics.render().decode()
    name = "synapse_http_server_response_count_total"
    assert f'{name}{{code="200",method="GET",servlet="ManyApi.user"}} 1.0' in counted
    assert f'{name}{{code="403",method="GET",servlet="ManyApi.fail"}} 1.0' in counted
    lines = [record.getMessage() for record in caplog.records if record.name == "hs.access"]
    assert lines[0].startswith("192.0.2.1 @alice:test GET /user 200 25B ")
    assert lines[1].startswith("192.0.2.1 - GET /fail/{failure} 403 ")
    assert lines[2].startswith("192.0.2.1 - GET /favicon.ico 404 ")
    assert len(lines[3]) < 300
