"""What every endpoint gets for free: authentication, limits, errors, CORS, admission, metrics."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import attrs
import immutables
import orjson
import pytest
import trio

from hs.apis.web.app import STATE_KEY
from hs.apis.web.auth import (
    ADMIN,
    FEDERATION,
    NONE,
    OPTIONAL,
    USER,
    USER_OR_GUEST,
    SignedRequest,
)
from hs.apis.web.limits import Admission, GateSize, Work
from hs.apis.web.render import Empty, Response, html_response, json_response, redirect, wire
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
from hs.lib.metrics import Metrics
from tests.support.web import Tokens, WebClient, client_for


@attrs.frozen
class Asking:
    """Who asks."""

    requester: Requester | None


@attrs.frozen
class Failing:
    """How to fail."""

    how: str = path()


@attrs.frozen
class Signed:
    """Another server's request."""

    server: ServerName = origin()
    content: dict[str, Any] = whole_body(factory=dict)


@attrs.frozen
class Slow:
    """How long to take."""

    seconds: int = query(default=10)


@attrs.frozen
class Told:
    """An answer with odd names, nested values and absent ones."""

    user_id: str
    nothing: str | None = None
    odd: int | None = wire("org.example.odd", default=None)
    inner: Any = None


async def fail_in_a_nursery(error: Exception) -> None:
    async def fail() -> None:
        raise error

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)


@attrs.frozen
class ManyApi:
    """Endpoints of every sort."""

    done: list[str] = attrs.field(factory=list)

    @route("GET", "/user", auth=USER)
    async def user(self, request: Asking) -> Told:
        assert request.requester is not None
        return Told(request.requester.user_id)

    @route("GET", "/guest", auth=USER_OR_GUEST)
    async def guest(self, request: Asking) -> Empty:
        return Empty()

    @route("GET", "/admin", auth=ADMIN)
    async def admin(self, request: Asking) -> Empty:
        return Empty()

    @route("POST", "/logout", auth=USER, locked_may=True)
    async def logout(self, request: Asking) -> None:
        return None

    @route("GET", "/optional", auth=OPTIONAL)
    async def optional(self, request: Asking) -> dict[str, bool]:
        return {"known": request.requester is not None}

    @route("PUT", "/_matrix/federation/v1/send", auth=FEDERATION)
    async def send(self, request: Signed) -> dict[str, Any]:
        return {"from": request.server, **request.content}

    @route("GET", "/limited", auth=NONE, rate="messages")
    async def limited(self) -> Empty:
        return Empty()

    @route("GET", "/heavy", auth=NONE, work=Work.HEAVY)
    async def heavy(self, request: Slow) -> Empty:
        await trio.sleep(request.seconds)
        return Empty()

    @route("GET", "/told", auth=NONE)
    async def told(self) -> Told:
        inner = {
            "map": immutables.Map(a=1),
            "none": None,
            "fragment": orjson.Fragment(b'{"x": 1}'),
            "told": [Told("b")],
            "set": frozenset({"y", "x"}),
        }
        return Told("a", odd=5, inner=inner)

    @route("GET", "/page", auth=NONE)
    async def page(self) -> Response:
        return html_response("<p>hello")

    @route("GET", "/away", auth=NONE)
    async def away(self) -> Response:
        return redirect("https://example.org/")

    @route("GET", "/teapot", auth=NONE)
    async def teapot(self) -> Response:
        return json_response({"short": True}, 418)

    @route("GET", "/fail/{how}", auth=NONE)
    async def fail(self, request: Failing) -> None:
        match request.how:
            case "forbidden":
                raise Forbidden("No", reason="x")
            case "limited":
                raise LimitExceeded("Slowly", retry_after_ms=1500)
            case "away":
                raise Unavailable("database at 10.0.0.1")
            case "remote":
                raise RemoteFault("example.org", "it hung up")
            case "nursery":
                await fail_in_a_nursery(NotFound("Gone"))
            case "nursery bug":
                await fail_in_a_nursery(ValueError("secret detail"))
            case _:
                raise ValueError("secret detail")

    @route("GET", "/wait", auth=NONE, waits=True)
    async def wait(self, request: Slow) -> Empty:
        with trio.CancelScope():
            try:
                await trio.sleep(request.seconds)
            finally:
                self.done.append("waited")
        return Empty()

    @route("GET", "/broken-stream", auth=NONE)
    async def broken_stream(self) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"x"
            await fail_in_a_nursery(ValueError("in the middle"))

        return Response(200, {}, parts())


@attrs.define
class Names:
    """An OriginAuthenticator that believes what the header says."""

    seen: list[SignedRequest] = attrs.field(factory=list)

    async def origin_of(self, request: SignedRequest) -> ServerName:
        await trio.lowlevel.checkpoint()
        self.seen.append(request)
        if not request.authorization:
            raise Unauthorized("Missing signature")
        return ServerName(request.authorization[0])


@attrs.define
class OncePerClass:
    """RateLimits that allow one request for each class."""

    seen: set[str] = attrs.field(factory=set)

    def check(self, rate: str, requester: Requester | None, client_ip: str) -> None:
        if rate in self.seen:
            raise LimitExceeded("Too many", retry_after_ms=100)
        self.seen.add(rate)


@attrs.define
class Addresses:
    """RateLimits that note the addresses and allow everything."""

    seen: list[str]

    def check(self, rate: str, requester: Requester | None, client_ip: str) -> None:
        self.seen.append(client_ip)


@pytest.fixture
def client() -> WebClient:
    tokens = Tokens()
    tokens.user("alice")
    tokens.user("root", is_admin=True)
    tokens.user("guest", is_guest=True)
    tokens.user("locked", locked=True)
    tokens.user("bridge", appservice_id="irc", device_id=None)
    return client_for(ManyApi(), tokens=tokens, origins=Names(), rates=OncePerClass())


@pytest.mark.parametrize(
    ("path_of", "token", "status", "errcode"),
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
async def test_endpoints_know_who_asks(
    client: WebClient, path_of: str, token: str | None, status: int, errcode: str | None
) -> None:
    answer = await client.get(path_of, token=token)

    assert (answer.status, answer.errcode) == (status, errcode)


async def test_a_locked_user_may_log_out(client: WebClient) -> None:
    assert (await client.post("/logout", token="locked")).json == {}


async def test_application_services_speak_for_their_users(client: WebClient) -> None:
    answer = await client.get("/user?user_id=@other:test", token="bridge")

    assert answer.json == {"user_id": "@other:test"}


async def test_users_do_not_speak_for_others(client: WebClient) -> None:
    answer = await client.get("/user?user_id=@other:test", token="alice")

    assert answer.json == {"user_id": "@alice:test"}


async def test_the_origin_signs_method_target_and_content() -> None:
    names = Names()
    client = client_for(ManyApi(), origins=names)

    answer = await client.put(
        "/_matrix/federation/v1/send?a=%20b", {"x": 1}, headers={"Authorization": "example.org"}
    )

    assert answer.json == {"from": "example.org", "x": 1}
    assert names.seen == [
        SignedRequest("PUT", "/_matrix/federation/v1/send?a=%20b", ("example.org",), {"x": 1})
    ]
    assert "access-control-allow-origin" not in answer.headers


async def test_without_federation_no_server_is_let_in() -> None:
    answer = await client_for(ManyApi()).put("/_matrix/federation/v1/send", {})

    assert (answer.status, answer.errcode) == (401, "M_UNAUTHORIZED")


async def test_rate_limits_say_when_to_come_back(client: WebClient) -> None:
    assert (await client.get("/limited")).status == 200

    answer = await client.get("/limited")

    assert answer.status == 429
    assert answer.json["retry_after_ms"] == 100
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("how", "status", "body"),
    [
        ("forbidden", 403, {"errcode": "M_FORBIDDEN", "error": "No", "reason": "x"}),
        (
            "limited",
            429,
            {"errcode": "M_LIMIT_EXCEEDED", "error": "Slowly", "retry_after_ms": 1500},
        ),
        ("away", 503, {"errcode": "M_UNKNOWN", "error": "Not possible just now; try again"}),
        ("remote", 502, {"errcode": "M_UNKNOWN", "error": "The server example.org failed"}),
        ("nursery", 404, {"errcode": "M_NOT_FOUND", "error": "Gone"}),
        ("nursery bug", 500, {"errcode": "M_UNKNOWN", "error": "Internal server error"}),
        ("bug", 500, {"errcode": "M_UNKNOWN", "error": "Internal server error"}),
    ],
)
async def test_errors_are_told_and_bugs_are_not(
    client: WebClient, how: str, status: int, body: dict[str, Any]
) -> None:
    answer = await client.get(f"/fail/{how.replace(' ', '%20')}")

    assert (answer.status, answer.json) == (status, body)


async def test_bugs_are_logged_with_their_traceback(
    client: WebClient, caplog: pytest.LogCaptureFixture
) -> None:
    await client.get("/fail/bug")

    [record] = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert "secret detail" in str(record.exc_info[1])


async def test_answers_are_rendered_as_json(client: WebClient) -> None:
    answer = await client.get("/told")

    assert answer.headers["content-type"] == "application/json"
    assert answer.json == {
        "user_id": "a",
        "org.example.odd": 5,
        "inner": {
            "map": {"a": 1},
            "none": None,
            "fragment": {"x": 1},
            "told": [{"user_id": "b"}],
            "set": ["x", "y"],
        },
    }


async def test_other_responses_are_spelled_out(client: WebClient) -> None:
    page, away, teapot = [await client.get(one) for one in ("/page", "/away", "/teapot")]

    assert (page.status, page.body) == (200, b"<p>hello")
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert (away.status, away.headers["location"]) == (302, "https://example.org/")
    assert (teapot.status, teapot.json) == (418, {"short": True})


@pytest.mark.parametrize("path_of", ["/user", "/_matrix/client/v3/unknown", "/fail/bug"])
async def test_browsers_may_ask(client: WebClient, path_of: str) -> None:
    preflight = await client.ask("OPTIONS", path_of)
    answer = await client.get(path_of)

    assert (preflight.status, preflight.body) == (204, b"")
    for headers in (preflight.headers, answer.headers):
        assert headers["access-control-allow-origin"] == "*"
        assert "PUT" in headers["access-control-allow-methods"]
        assert "Authorization" in headers["access-control-allow-headers"]


@pytest.mark.parametrize("path_of", ["/_matrix/unknown", "/unknown", "/_synapse/x", "/", "//"])
async def test_unknown_paths_are_unrecognized(client: WebClient, path_of: str) -> None:
    answer = await client.get(path_of)

    assert (answer.status, answer.errcode) == (404, "M_UNRECOGNIZED")


async def test_other_methods_are_unrecognized(client: WebClient) -> None:
    answer = await client.post("/user", {})

    assert (answer.status, answer.errcode) == (405, "M_UNRECOGNIZED")
    assert answer.headers["allow"] == "GET"


async def test_quart_answers_what_no_endpoint_declares(client: WebClient) -> None:
    async def console() -> str:
        return "console"

    async def broken() -> str:
        raise Forbidden("Not yours")

    client.app.add_url_rule("/console", view_func=console)
    client.app.add_url_rule("/broken", view_func=broken)

    assert (await client.get("/console")).body == b"console"
    assert (await client.get("/broken")).errcode == "M_FORBIDDEN"
    assert (await client.post("/console")).errcode == "M_UNRECOGNIZED"


async def test_a_listener_serves_only_its_resources(client: WebClient) -> None:
    client.state = {STATE_KEY: client.app.view(["federation"])}

    assert (await client.get("/optional")).status == 404
    assert (await client.put("/_matrix/federation/v1/send", {})).status == 401


async def test_the_client_behind_a_proxy_is_seen() -> None:
    seen: list[str] = []
    client = client_for(ManyApi(), rates=Addresses(seen))
    forwarded = {"X-Forwarded-For": "1.1.1.1, 8.8.8.8, 10.0.0.1"}

    await client.get("/limited", headers=forwarded)
    client.state = {STATE_KEY: client.app.view(["client"], x_forwarded=True)}
    await client.get("/limited", headers=forwarded)

    assert seen == ["192.0.2.1", "8.8.8.8"]


async def test_hanging_up_cancels_a_handler_that_waits(
    autojump_clock: trio.testing.MockClock,
) -> None:
    api = ManyApi()
    client = client_for(api)
    hang_up = trio.Event()

    async def leave() -> None:
        await trio.sleep(1)
        hang_up.set()

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave)
        with pytest.raises(ConnectionError):
            await client.get("/wait?seconds=3600", hang_up=hang_up)

    assert api.done == ["waited"]
    assert trio.current_time() - began < 2


async def test_heavy_work_takes_turns_and_then_is_refused(
    autojump_clock: trio.testing.MockClock,
) -> None:
    admission = Admission({Work.HEAVY: GateSize(running=1, waiting=1)})
    client = client_for(ManyApi(), admission=admission)
    statuses: list[tuple[float, int]] = []

    async def ask() -> None:
        answer = await client.get("/heavy?seconds=10")
        statuses.append((trio.current_time() - began, answer.status))

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask)

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

    counted = metrics.render().decode()
    name = "synapse_http_server_response_count_total"
    assert f'{name}{{code="200",method="GET",servlet="ManyApi.user"}} 1.0' in counted
    assert f'{name}{{code="403",method="GET",servlet="ManyApi.fail"}} 1.0' in counted
    lines = [record.getMessage() for record in caplog.records if record.name == "hs.access"]
    assert lines[0].startswith("192.0.2.1 @alice:test GET /user 200 25B ")
    assert lines[1].startswith("192.0.2.1 - GET /fail/{how} 403 ")
    assert lines[2].startswith("192.0.2.1 - GET /favicon.ico 404 ")
