"""Hostile requests to all declared endpoints get well-formed responses, never an internal error.

HS_FUZZ_SECONDS is the duration of the long test; HS_FUZZ_SEED repeats a run.
"""

import http.client
import logging
import os
import random
import socket
import time
from collections.abc import Iterator
from typing import Any

import attrs
import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from hs.apis.web.auth import Auth
from hs.apis.web.route import Endpoint
from hs.cli.inspect_plan import declared_endpoints
from tests.support.inputs.hostile import HostileRequest, KnownIdentifiers, hostile_requests
from tests.support.media import picture
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.processes import Cluster, running_cluster
from tests.support.servers.redis import RedisServer

pytestmark = pytest.mark.process

SHORT_S = 8.0
LONG_S = float(os.environ.get("HS_FUZZ_SECONDS", "600"))
RESPONSE_LIMIT_S = 60.0
POLL_LIMIT_S = 0.3
ENOUGH = 400
# Endpoints that users open in a browser report errors in HTML.
PAGES = ("/submit_token", "/consent", "/web", "/unsubscribe")
REQUESTS = 8  # to one endpoint before the next endpoint
CLIENT = "/_matrix/client/v3"
MEDIA = "/_matrix/media/v3"
# A request may name a remote server that does not exist; then a gateway error is correct.
GATEWAY_ERRORS = {502, 504}


@attrs.define
class Fuzzed:
    """A server, the user who sends the requests, and the faults of the responses."""

    cluster: Cluster
    connection: socket.socket | None = None
    token: str = ""
    users: int = 0
    known: KnownIdentifiers = KnownIdentifiers(
        user_ids=(),
        room_ids=(),
        event_ids=(),
        aliases=(),
        device_ids=(),
        tokens=(),
        media_ids=(),
    )
    requests_sent: int = 0
    statuses: dict[int, int] = attrs.Factory(dict)
    faults: dict[str, str] = attrs.Factory(dict)

    def request(
        self, method: str, target: str, body: bytes, headers: dict[str, str], limit_s: float
    ) -> tuple[int, str, bytes]:
        """Send a request unchanged; return status, content type and body.

        Raises: OSError, http.client.HTTPException.
        """
        if self.connection is None:
            # A worker calls other processes for data that it does not own.
            name = "sync1" if self.cluster.layout == "T2" else "main"
            port = self.cluster.processes[name].port
            self.connection = socket.create_connection(("127.0.0.1", port), RESPONSE_LIMIT_S)
        self.connection.settimeout(limit_s)
        head = [f"{method} {target} HTTP/1.1", "host: hs.test", f"content-length: {len(body)}"]
        head += [f"{name}: {value}" for name, value in headers.items() if value]
        try:
            self.connection.sendall("\r\n".join([*head, "", ""]).encode("ascii") + body)
            response = http.client.HTTPResponse(self.connection, method=method)
            response.begin()
            content = response.read()
        except (OSError, http.client.HTTPException):
            self.close()
            raise
        if response.will_close:
            self.close()
        return response.status, response.headers.get("content-type", ""), content

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        if self.connection is not None:
            self.connection.close()
        self.connection = None

    def call(self, method: str, target: str, content: Any = None) -> Any:
        """Send a valid request as the current user; return the decoded response."""
        body = b"" if content is None else orjson.dumps(content)
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        status, _, response = self.request(method, target, body, headers, RESPONSE_LIMIT_S)
        assert status == 200, (method, target, status, response)
        return orjson.loads(response)

    def use_new_user(self) -> None:
        """Register a new user with a new room; hostile requests may have disabled the last one."""
        if self.requests_sent:
            self.read_everything()
        self.users += 1
        number = self.users
        other_user_id, _ = self.register(f"other{number}")
        other_token = self.token
        user_id, device_id = self.register(f"fuzz{number}")
        alias = f"fuzz{number}"
        room = {"preset": "public_chat", "room_alias_name": alias, "name": "Fuzz"}
        room_id = self.call("POST", f"{CLIENT}/createRoom", room)["room_id"]
        self.token, own_token = other_token, self.token
        self.call("POST", f"{CLIENT}/rooms/{room_id}/join", {})
        self.token = own_token
        path = f"{CLIENT}/rooms/{room_id}/send/m.room.message"
        message = {"msgtype": "m.text", "body": "b"}
        events = [self.call("PUT", f"{path}/{n}", message)["event_id"] for n in range(3)]
        page = self.call("GET", f"{CLIENT}/rooms/{room_id}/messages?dir=b&limit=2")
        self.known = KnownIdentifiers(
            user_ids=(user_id, user_id, other_user_id, "@nobody:hs.test", "@who:remote.invalid"),
            room_ids=(room_id, room_id, room_id, "!nothing:hs.test"),
            event_ids=(*events, "$nothing"),
            aliases=(f"#{alias}:hs.test", "#nothing:hs.test", "#x:remote.invalid"),
            device_ids=(device_id, "NOTHING"),
            tokens=(page["start"], page["end"]),
            media_ids=(
                *self.upload(picture(90, 60)),
                *self.upload(b"text"),
                self.reserve_media_id(),
            ),
        )

    def register(self, name: str) -> tuple[str, str]:
        """Register a user and use its token; return the user ID and device ID."""
        self.token = ""
        account = {"username": name, "password": "p", "auth": {"type": "m.login.dummy"}}
        registered = self.call("POST", f"{CLIENT}/register", account)
        self.token = registered["access_token"]
        return registered["user_id"], registered["device_id"]

    def upload(self, content: bytes) -> tuple[str]:
        """Upload a file; return its media ID, as a tuple of one."""
        headers = {"authorization": f"Bearer {self.token}", "content-type": "image/png"}
        answer = self.request("POST", f"{MEDIA}/upload", content, headers, RESPONSE_LIMIT_S)
        assert answer[0] == 200, answer
        return (orjson.loads(answer[2])["content_uri"].rpartition("/")[2],)

    def reserve_media_id(self) -> str:
        """Create a media URI without content; return its media ID."""
        created = self.call("POST", "/_matrix/media/v1/create")
        media_id: str = created["content_uri"].rpartition("/")[2]
        return media_id

    def log_in_again(self) -> None:
        """Log in again after a request has invalidated the token."""
        self.token = ""
        user = {"type": "m.id.user", "user": self.known.user_ids[0]}
        login = {"type": "m.login.password", "identifier": user, "password": "p"}
        self.token = self.call("POST", f"{CLIENT}/login", login)["access_token"]

    def read_everything(self) -> None:
        """Read the room and all content that the server has accepted."""
        room = f"{CLIENT}/rooms/{self.known.room_ids[0]}"
        for target in (
            f"{room}/messages?dir=b&limit=1000",
            f"{room}/state",
            f"{room}/members",
            f"{room}/joined_members",
            f"{room}/context/{self.known.event_ids[0]}",
            f"/_matrix/client/v1/rooms/{self.known.room_ids[0]}/hierarchy",
            f"/_matrix/client/v1/rooms/{self.known.room_ids[0]}/threads",
            f"/_matrix/client/v1/rooms/{self.known.room_ids[0]}/relations/{self.known.event_ids[0]}",
            f"{CLIENT}/publicRooms",
            f"{CLIENT}/sync?timeout=0&full_state=true",
            f"{CLIENT}/pushrules/",
        ):
            headers = {"authorization": f"Bearer {self.token}"}
            try:
                status, _, answer = self.request("GET", target, b"", headers, RESPONSE_LIMIT_S)
            except (OSError, http.client.HTTPException) as error:
                self.faults.setdefault(f"reading everything, {target[:60]}", repr(error))
                continue
            if status >= 500:
                self.faults.setdefault(
                    f"reading everything, {target[-40:]}", f"{status} {answer!r}"
                )

    def send_and_check(self, request: HostileRequest) -> None:
        """Send a hostile request and record the faults of the response."""
        endpoint = request.endpoint
        self.requests_sent += 1
        headers = dict(request.headers)
        if request.is_ours:
            headers["authorization"] = f"Bearer {self.token}"
        # With an empty event ID, a request for an event becomes the deprecated long poll.
        may_wait = endpoint.cancel_on_disconnect or "/events/?" in request.target
        limit_s = POLL_LIMIT_S if may_wait else RESPONSE_LIMIT_S
        key = f"{endpoint.method} {endpoint.pattern}"
        try:
            status, content_type, body = self.request(
                endpoint.method, request.target, request.body, headers, limit_s
            )
        except (OSError, http.client.HTTPException) as error:
            if not (may_wait and isinstance(error, TimeoutError)):
                self.faults.setdefault(f"{key}: no answer", f"{request}\n    {error!r}")
            return
        self.statuses[status] = self.statuses.get(status, 0) + 1
        is_page = content_type.startswith("text/html") and endpoint.pattern.endswith(PAGES)
        # A file has the content type that its uploader declared.
        is_file = "/download/" in endpoint.pattern and status < 300
        is_fine = is_file or (is_page and status < 500)
        fault = None if is_fine else fault_of(status, content_type, body)
        if fault is not None:
            self.faults.setdefault(f"{key}: {fault}", f"{request}\n    {body[:300]!r}")
        if status == 401 and request.is_ours and b"M_UNKNOWN_TOKEN" in body:
            self.log_in_again()


def fault_of(status: int, content_type: str, body: bytes) -> str | None:
    """Return what is wrong with a response, or None."""
    if status >= 500 and status not in GATEWAY_ERRORS:
        return f"status {status}"
    if not content_type.startswith("application/json"):
        return f"error as {content_type}" if status >= 400 else None
    try:
        decoded = orjson.loads(body)
    except orjson.JSONDecodeError:
        return "no JSON"
    if status < 400:
        return None
    if status == 401 and isinstance(decoded, dict) and "flows" in decoded:
        return None  # user-interactive authentication
    is_error = isinstance(decoded, dict) and isinstance(decoded.get("errcode"), str)
    return None if is_error and isinstance(decoded.get("error"), str) else "no errcode"


@pytest.fixture(params=["T0", pytest.param("T2", marks=[pytest.mark.postgres, pytest.mark.redis])])
def fuzzed(request: pytest.FixtureRequest) -> Iterator[Fuzzed]:
    """A server of one process or of several, and a logged-in user with a room."""
    postgres: PostgresServer | None = None
    redis: RedisServer | None = None
    if request.param == "T2":
        postgres = request.getfixturevalue("postgres_server")
        redis = request.getfixturevalue("redis_server")
    with running_cluster(request.param, postgres, redis, url_preview_enabled=True) as cluster:
        fuzzed = Fuzzed(cluster)
        fuzzed.use_new_user()
        yield fuzzed
        fuzzed.close()


def send_hostile_requests(fuzzed: Fuzzed, endpoint: Endpoint, number: int) -> None:
    """Send a few hostile requests to one endpoint."""

    @seed(number)
    @settings(
        max_examples=REQUESTS,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(hostile_requests(endpoint, fuzzed.known))
    def send(request: HostileRequest) -> None:
        fuzzed.send_and_check(request)

    send()


def attack(fuzzed: Fuzzed, seconds: float) -> None:
    """Send hostile requests for a while, then fail with all faults."""
    endpoints = [
        endpoint
        for endpoint in declared_endpoints()
        if endpoint.auth is not Auth.FEDERATION and endpoint.resources & {"client", "media"}
    ]
    seed_number = int(os.environ.get("HS_FUZZ_SEED", random.randrange(10**6)))
    deadline = time.monotonic() + seconds
    rounds = 0
    rng = random.Random(seed_number)
    # A slow machine needs longer to send enough requests.
    while time.monotonic() < deadline or fuzzed.requests_sent < ENOUGH:
        rng.shuffle(endpoints)
        for endpoint in endpoints:
            rounds += 1
            if time.monotonic() < deadline or fuzzed.requests_sent < ENOUGH:
                send_hostile_requests(fuzzed, endpoint, seed_number + rounds)
        fuzzed.use_new_user()

    logs = fuzzed.cluster.logs() if fuzzed.faults else ""
    lines = [f"{key}\n    {sample}" for key, sample in sorted(fuzzed.faults.items())]
    summary = f"seed {seed_number}: {fuzzed.requests_sent} requests, answers {fuzzed.statuses}"
    logging.getLogger(__name__).info(summary)
    assert not fuzzed.faults, "\n".join([summary, *lines, logs])
    # Otherwise most requests were rejected early, and little was tested.
    assert fuzzed.statuses.get(200, 0) > fuzzed.requests_sent // 10, summary
    status, _, _ = fuzzed.request("GET", "/health/ready", b"", {}, RESPONSE_LIMIT_S)
    assert status == 200


def test_hostile_requests_get_valid_responses(fuzzed: Fuzzed) -> None:
    attack(fuzzed, SHORT_S)


@pytest.mark.long
def test_hostile_requests_get_valid_responses_in_long_run(fuzzed: Fuzzed) -> None:
    attack(fuzzed, LONG_S)
