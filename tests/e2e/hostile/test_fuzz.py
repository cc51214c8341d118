"""Whatever a client sends to a declared endpoint, the answer is an answer and never a 5xx.

HS_FUZZ_SECONDS sets how long the long version runs.
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
from tests.support.hostile import HostileRequest, Known, hostile_requests
from tests.support.media import picture
from tests.support.postgres import PostgresServer
from tests.support.processes import Cluster, running_cluster
from tests.support.redis import RedisServer

pytestmark = pytest.mark.process

SHORT_S = 8.0
LONG_S = float(os.environ.get("HS_FUZZ_SECONDS", "600"))
ANSWER_S = 60.0
POLL_S = 0.3
ENOUGH = 400
# What people open in browsers tells them of mistakes in HTML.
PAGES = ("/submit_token", "/consent", "/web", "/unsubscribe")
REQUESTS = 8  # to one endpoint, before it is another one's turn
CLIENT = "/_matrix/client/v3"
MEDIA = "/_matrix/media/v3"
# A peer that does not exist may be named; then the gateway error is right.
MAY_FAIL = {502, 504}


@attrs.define
class Fuzzed:
    """A server, who asks it, and what was wrong with its answers."""

    cluster: Cluster
    connection: socket.socket | None = None
    token: str = ""
    users: int = 0
    known: Known = Known((), (), (), (), (), (), ())
    asked: int = 0
    statuses: dict[int, int] = attrs.Factory(dict)
    findings: dict[str, str] = attrs.Factory(dict)

    def ask(
        self, method: str, target: str, body: bytes, headers: dict[str, str], limit_s: float
    ) -> tuple[int, str, bytes]:
        """Send bytes as they are. Raises: OSError, http.client.HTTPException."""
        if self.connection is None:
            # A worker must ask others for what it does not own.
            name = "sync1" if self.cluster.layout == "T2" else "main"
            port = self.cluster.processes[name].port
            self.connection = socket.create_connection(("127.0.0.1", port), ANSWER_S)
        self.connection.settimeout(limit_s)
        head = [f"{method} {target} HTTP/1.1", "host: hs.test", f"content-length: {len(body)}"]
        head += [f"{name}: {value}" for name, value in headers.items() if value]
        try:
            self.connection.sendall("\r\n".join([*head, "", ""]).encode("ascii") + body)
            response = http.client.HTTPResponse(self.connection, method=method)
            response.begin()
            read = response.read()
        except (OSError, http.client.HTTPException):
            self.hang_up()
            raise
        if response.will_close:
            self.hang_up()
        return response.status, response.headers.get("content-type", ""), read

    def hang_up(self) -> None:
        """Close the connection; the next request opens another one."""
        if self.connection is not None:
            self.connection.close()
        self.connection = None

    def call(self, method: str, target: str, content: Any = None) -> Any:
        """Make a decent request as our user, and give the decoded answer."""
        body = b"" if content is None else orjson.dumps(content)
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        status, _, answer = self.ask(method, target, body, headers, ANSWER_S)
        assert status == 200, (method, target, status, answer)
        return orjson.loads(answer)

    def start_over(self) -> None:
        """Be a new user with a new room, as the last one may be lost to what was sent."""
        if self.asked:
            self.look_around()
        self.users += 1
        number = self.users
        other, _ = self.register(f"other{number}")
        other_token = self.token
        user_id, device_id = self.register(f"fuzz{number}")
        alias = f"fuzz{number}"
        room = {"preset": "public_chat", "room_alias_name": alias, "name": "Fuzz"}
        room_id = self.call("POST", f"{CLIENT}/createRoom", room)["room_id"]
        self.token, ours = other_token, self.token
        self.call("POST", f"{CLIENT}/rooms/{room_id}/join", {})
        self.token = ours
        path = f"{CLIENT}/rooms/{room_id}/send/m.room.message"
        text = {"msgtype": "m.text", "body": "b"}
        events = [self.call("PUT", f"{path}/{n}", text)["event_id"] for n in range(3)]
        page = self.call("GET", f"{CLIENT}/rooms/{room_id}/messages?dir=b&limit=2")
        self.known = Known(
            user_ids=(user_id, user_id, other, "@nobody:hs.test", "@who:remote.invalid"),
            room_ids=(room_id, room_id, room_id, "!nothing:hs.test"),
            event_ids=(*events, "$nothing"),
            aliases=(f"#{alias}:hs.test", "#nothing:hs.test", "#x:remote.invalid"),
            device_ids=(device_id, "NOTHING"),
            tokens=(page["start"], page["end"]),
            media_ids=(*self.upload(picture(90, 60)), *self.upload(b"text"), self.announce()),
        )

    def register(self, name: str) -> tuple[str, str]:
        """Be a new user; give its ID and that of its device."""
        self.token = ""
        account = {"username": name, "password": "p", "auth": {"type": "m.login.dummy"}}
        made = self.call("POST", f"{CLIENT}/register", account)
        self.token = made["access_token"]
        return made["user_id"], made["device_id"]

    def upload(self, content: bytes) -> tuple[str]:
        """Upload a file; give its media ID."""
        headers = {"authorization": f"Bearer {self.token}", "content-type": "image/png"}
        answer = self.ask("POST", f"{MEDIA}/upload", content, headers, ANSWER_S)
        assert answer[0] == 200, answer
        return (orjson.loads(answer[2])["content_uri"].rpartition("/")[2],)

    def announce(self) -> str:
        """Reserve an address; give its media ID."""
        made = self.call("POST", "/_matrix/media/v1/create")
        media_id: str = made["content_uri"].rpartition("/")[2]
        return media_id

    def log_in_again(self) -> None:
        """Get a new token after the last one was given away."""
        self.token = ""
        user = {"type": "m.id.user", "user": self.known.user_ids[0]}
        login = {"type": "m.login.password", "identifier": user, "password": "p"}
        self.token = self.call("POST", f"{CLIENT}/login", login)["access_token"]

    def look_around(self) -> None:
        """Read the room with everything in it that was accepted."""
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
                status, _, answer = self.ask("GET", target, b"", headers, ANSWER_S)
            except (OSError, http.client.HTTPException) as error:
                self.findings.setdefault(f"looking around, {target[:60]}", repr(error))
                continue
            if status >= 500:
                self.findings.setdefault(f"looking around, {target[-40:]}", f"{status} {answer!r}")

    def try_out(self, request: HostileRequest) -> None:
        """Send a request and judge the answer."""
        endpoint = request.endpoint
        self.asked += 1
        headers = dict(request.headers)
        if request.is_ours:
            headers["authorization"] = f"Bearer {self.token}"
        # An event ID that is empty makes a request for one event the long-poll of old.
        may_wait = endpoint.cancel_on_disconnect or "/events/?" in request.target
        limit_s = POLL_S if may_wait else ANSWER_S
        key = f"{endpoint.method} {endpoint.pattern}"
        try:
            status, kind, body = self.ask(
                endpoint.method, request.target, request.body, headers, limit_s
            )
        except (OSError, http.client.HTTPException) as error:
            if not (may_wait and isinstance(error, TimeoutError)):
                self.findings.setdefault(f"{key}: no answer", f"{request}\n    {error!r}")
            return
        self.statuses[status] = self.statuses.get(status, 0) + 1
        is_page = kind.startswith("text/html") and endpoint.pattern.endswith(PAGES)
        # Files are of the types that whoever uploaded them has said.
        is_file = "/download/" in endpoint.pattern and status < 300
        is_fine = is_file or (is_page and status < 500)
        fault = None if is_fine else fault_of(status, kind, body)
        if fault is not None:
            self.findings.setdefault(f"{key}: {fault}", f"{request}\n    {body[:300]!r}")
        if status == 401 and request.is_ours and b"M_UNKNOWN_TOKEN" in body:
            self.log_in_again()


def fault_of(status: int, kind: str, body: bytes) -> str | None:
    """Say what is wrong with an answer."""
    if status >= 500 and status not in MAY_FAIL:
        return f"status {status}"
    if not kind.startswith("application/json"):
        return f"error as {kind}" if status >= 400 else None
    try:
        decoded = orjson.loads(body)
    except orjson.JSONDecodeError:
        return "no JSON"
    if status < 400:
        return None
    if status == 401 and isinstance(decoded, dict) and "flows" in decoded:
        return None  # asks to prove who one is
    is_error = isinstance(decoded, dict) and isinstance(decoded.get("errcode"), str)
    return None if is_error and isinstance(decoded.get("error"), str) else "no errcode"


@pytest.fixture(params=["T0", pytest.param("T2", marks=[pytest.mark.postgres, pytest.mark.redis])])
def fuzzed(request: pytest.FixtureRequest) -> Iterator[Fuzzed]:
    """A server, of one process or of several, and somebody who is logged in and has a room."""
    postgres: PostgresServer | None = None
    redis: RedisServer | None = None
    if request.param == "T2":
        postgres = request.getfixturevalue("postgres_server")
        redis = request.getfixturevalue("redis_server")
    with running_cluster(request.param, postgres, redis, url_preview_enabled=True) as cluster:
        fuzzed = Fuzzed(cluster)
        fuzzed.start_over()
        yield fuzzed
        fuzzed.hang_up()


def send_some(fuzzed: Fuzzed, endpoint: Endpoint, number: int) -> None:
    """Send a few requests to one endpoint."""

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
        fuzzed.try_out(request)

    send()


def attack(fuzzed: Fuzzed, seconds: float) -> None:
    """Send hostile requests for a while, then tell everything that was wrong."""
    endpoints = [
        one
        for one in declared_endpoints()
        if one.auth is not Auth.FEDERATION and one.resources & {"client", "media"}
    ]
    number = int(os.environ.get("HS_FUZZ_SEED", random.randrange(10**6)))
    deadline = time.monotonic() + seconds
    rounds = 0
    rng = random.Random(number)
    # On a slow machine it takes longer to have asked enough to tell anything.
    while time.monotonic() < deadline or fuzzed.asked < ENOUGH:
        rng.shuffle(endpoints)
        for endpoint in endpoints:
            rounds += 1
            if time.monotonic() < deadline or fuzzed.asked < ENOUGH:
                send_some(fuzzed, endpoint, number + rounds)
        fuzzed.start_over()

    told = fuzzed.cluster.logs() if fuzzed.findings else ""
    lines = [f"{key}\n    {sample}" for key, sample in sorted(fuzzed.findings.items())]
    summary = f"seed {number}: {fuzzed.asked} requests, answers {fuzzed.statuses}"
    logging.getLogger(__name__).info(summary)
    assert not fuzzed.findings, "\n".join([summary, *lines, told])
    # Else most requests would be refused at the door, and nothing much would be tested.
    assert fuzzed.statuses.get(200, 0) > fuzzed.asked // 10, summary
    status, _, _ = fuzzed.ask("GET", "/health/ready", b"", {}, ANSWER_S)
    assert status == 200


def test_hostile_requests_get_answers(fuzzed: Fuzzed) -> None:
    attack(fuzzed, SHORT_S)


@pytest.mark.long
def test_hostile_requests_get_answers_for_long(fuzzed: Fuzzed) -> None:
    attack(fuzzed, LONG_S)
