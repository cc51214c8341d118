"""Correctly signed hostile requests of another server to all endpoints for servers.

They get well-formed responses without internal errors, nothing is logged as an error, and the
memory of the processes stays the same. The other server responds to what it is asked with lies.
Afterwards another room of both servers works, and the database is consistent.

HS_FUZZ_SECONDS is the duration of the long test; HS_FUZZ_SEED repeats a run.
"""

import hashlib
import http.client
import logging
import os
import random
import re
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs
import canonicaljson
import orjson
import pytest

from hs.apis.web.auth import Auth
from hs.apis.web.route import Endpoint
from hs.cli.inspect_plan import declared_endpoints
from hs.core.ids import ServerName
from hs.core.signing.keys import Signer, SigningKey
from tests.support.inputs.hostile_peer import HostilePeer, PeerRoom
from tests.support.media import picture
from tests.support.servers.certificates import make_certificates
from tests.support.servers.lying_server import running_lying_server
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.processes import (
    SERVER_NAME,
    Cluster,
    ServerProcess,
    free_ports,
    make_cluster,
    running,
)

pytestmark = pytest.mark.process

SHORT_S = 5.0
LONG_S = float(os.environ.get("HS_FUZZ_SECONDS", "600"))
RESPONSE_LIMIT_S = 60.0
ENOUGH = 300
WARM_UP = 0.3  # of the time, after which memory must not grow
GROWTH_MIB = 80
ROUNDS_OF_ROOM = 4
CLIENT = "/_matrix/client/v3"
FEDERATION = "/_matrix/federation/v1"
VERSIONS = ("11", "1", "12")
MANY = {"window_size": 1, "sleep_limit": 10**6, "sleep_delay": 1, "reject_limit": 10**6}
MAX_STALL_MS = 1000
STALL = re.compile(r"the event loop was blocked for (\d+) ms, in (.*)")
WRONG_STATE = """
SELECT c.room_id, c.type, c.state_key FROM current_state c
LEFT JOIN events e ON e.event_id = c.event_id AND e.room_id = c.room_id AND e.type = c.type
AND e.state_key = c.state_key AND e.status IN (0, 3) WHERE e.event_id IS NULL
"""
WRONG_MEMBERSHIPS = """
SELECT l.room_id, l.user_id FROM local_memberships l
LEFT JOIN current_state c ON c.room_id = l.room_id AND c.type = 'm.room.member'
AND c.state_key = l.user_id WHERE l.event_id != c.event_id
"""
HEADS = "SELECT room_id, extremities FROM room_heads"
EVENTS = "SELECT event_id FROM events WHERE status = 0"
HANDSHAKES = ("join", "leave", "knock")
KEY_PATHS = ("/_matrix/key/", "/_matrix/federation/")


@attrs.define(eq=False)
class Attack:
    """The attacked server, the malicious one, and the faults of the responses."""

    cluster: Cluster
    peer: HostilePeer
    query: Callable[[str], list[list[str]]]
    quiet: PeerRoom = attrs.field(init=False)
    turns: threading.Lock = attrs.Factory(threading.Lock)
    connections: dict[str, http.client.HTTPConnection] = attrs.Factory(dict)
    token: str = ""
    sent: int = 0
    statuses: Counter[int] = attrs.Factory(Counter)
    served: Counter[str] = attrs.Factory(Counter)
    serial: int = 0
    faults: dict[str, str] = attrs.Factory(dict)

    def exchange(
        self, process: ServerProcess, method: str, uri: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, str, bytes]:
        """Send a request; return status, content type and body."""
        connection = self.connections.get(process.name)
        if connection is None:
            connection = http.client.HTTPConnection("127.0.0.1", process.port, RESPONSE_LIMIT_S)
            self.connections[process.name] = connection
        try:
            connection.request(method, uri, body or None, headers)
            response = connection.getresponse()
            return response.status, response.headers.get("content-type", ""), response.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            del self.connections[process.name]
            raise

    def close(self) -> None:
        """Close all connections."""
        for connection in self.connections.values():
            connection.close()

    def call(self, method: str, uri: str, content: Any = None) -> Any:
        """Send a valid request of a user; return the decoded response."""
        body = b"" if content is None else orjson.dumps(content)
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        process = self.cluster.processes["main"]
        status, _, response = self.exchange(process, method, uri, body, headers)
        assert status == 200, (method, uri, status, response)
        return orjson.loads(response)

    def prepare(self) -> None:
        """Create users and rooms, and join the rooms from the malicious server."""
        for name in ("alice", "bob"):
            account = {"username": name, "password": "p", "auth": {"type": "m.login.dummy"}}
            self.token = ""
            registered = self.call("POST", f"{CLIENT}/register", account)
            self.token = registered["access_token"]
            self.peer.local_users.append(registered["user_id"])
            keys = {"one_time_keys": {"signed_curve25519:AA": {"key": "x", "signatures": {}}}}
            self.call("POST", f"{CLIENT}/keys/upload", keys)
        for version in VERSIONS:
            self.add_room(version)
        knocked = self.add_room("11", power=0)
        path = f"{CLIENT}/rooms/{quote(knocked.room_id, safe='')}/state/m.room.join_rules"
        self.call("PUT", path, {"join_rule": "knock"})
        self.call("PUT", f"{CLIENT}/directory/room/%23a:hs.test", {"room_id": knocked.room_id})
        # Without hostile events, by which the malicious user may leave a room for good.
        self.quiet = self.add_room("11", power=0)
        self.peer.rooms.remove(self.quiet)
        upload = {"content-type": "image/png", "authorization": f"Bearer {self.token}"}
        main = self.cluster.processes["main"]
        for content in (picture(90, 60), b"text"):
            answer = self.exchange(main, "POST", "/_matrix/media/v3/upload", content, upload)
            uri: str = orjson.loads(answer[2])["content_uri"]
            self.peer.media_ids.append(uri.rpartition("/")[2])

    def add_room(self, version: str, power: int = 100) -> PeerRoom:
        """Create a room where the malicious user has some power, and join it."""
        alice, bob = self.peer.local_users
        users = {self.peer.user_id: power}
        if version != "12":
            users[bob] = 100
        room = {
            "preset": "public_chat",
            "room_version": version,
            "name": "Fuzz",
            "invite": [alice],
            "power_level_content_override": {"users": users},
        }
        room_id = self.call("POST", f"{CLIENT}/createRoom", room)["room_id"]
        return self.join(room_id, version)

    def renew(self) -> None:
        """Replace the oldest room, as the malicious user may have ended it, and read everything."""
        self.serial += 1
        for room in self.peer.rooms:
            path = f"{CLIENT}/rooms/{quote(room.room_id, safe='')}"
            event_id = self.say(room.room_id, f"{self.serial}")
            if event_id is not None:
                room.event_ids.append(event_id)
            for target in (
                f"{path}/messages?dir=b&limit=100",
                f"{path}/state",
                f"{path}/members",
                f"{path}/joined_members",
                f"{path}/aliases",
                f"/_matrix/client/v1/rooms/{quote(room.room_id, safe='')}/hierarchy",
                f"/_matrix/client/v1/rooms/{quote(room.room_id, safe='')}/threads",
                f"/_matrix/client/v1/room_summary/{quote(room.room_id, safe='')}",
            ):
                self.read(target)
        for target in (
            f"{CLIENT}/sync?timeout=0",
            f"{CLIENT}/sync?timeout=0&full_state=true",
            f"{CLIENT}/publicRooms",
            f"{CLIENT}/notifications",
            f"{CLIENT}/profile/{quote(self.peer.user_id, safe='')}",
        ):
            self.read(target)
        users: dict[str, Any] = {"device_keys": {self.peer.user_id: []}}
        self.read(f"{CLIENT}/keys/query", "POST", orjson.dumps(users))
        self.add_room(self.peer.rooms.pop(0).version)

    def say(self, room_id: str, text: str) -> str | None:
        """Send a message of a local user, if that is possible; return its ID."""
        path = f"{CLIENT}/rooms/{quote(room_id, safe='')}/send/m.room.message/{quote(text)}"
        headers = {"authorization": f"Bearer {self.token}"}
        body = orjson.dumps({"msgtype": "m.text", "body": text})
        process = self.cluster.processes["main"]
        status, _, answer = self.exchange(process, "PUT", path, body, headers)
        if status >= 500 and not (status == 502 and b"policy server" in answer):
            self.faults.setdefault(f"sending: {status}", repr(answer[:500]))
        return orjson.loads(answer)["event_id"] if status == 200 else None

    def read(self, target: str, method: str = "GET", body: bytes = b"") -> None:
        """Read what the malicious server has sent, as a user."""
        headers = {"authorization": f"Bearer {self.token}"}
        process = self.peer.rng.choice(list(self.cluster.processes.values()))
        try:
            status, _, answer = self.exchange(process, method, target, body, headers)
        except (OSError, http.client.HTTPException) as error:
            self.faults.setdefault(f"reading {target[:60]}: no answer", repr(error))
            return
        # The malicious server fails as it likes.
        if status >= 500 and not (status == 502 and b"failed" in answer):
            self.faults.setdefault(f"reading {target[:60]}: {status}", repr(answer[:500]))

    def join(self, room_id: str, version: str) -> PeerRoom:
        """Join a room as the user of the malicious server."""
        peer = self.peer
        room = PeerRoom(room_id, version)
        path = f"{quote(room_id, safe='')}/{quote(peer.user_id, safe='')}?ver={version}"
        template = self.signed("GET", f"{FEDERATION}/make_join/{path}", b"")["event"]
        peer.serial += 1
        if version == "1":
            template["event_id"] = f"$join{peer.serial}:{peer.signer.server_name}"
        event = peer.signed(template, room)
        path = f"{quote(room_id, safe='')}/{quote(peer.id_of(event, room), safe='')}"
        body = orjson.dumps(event, option=orjson.OPT_SORT_KEYS)
        answer = self.signed("PUT", f"/_matrix/federation/v2/send_join/{path}", body)
        room.state = {(each["type"], each["state_key"]): each for each in answer["state"]}
        room.state["m.room.member", peer.user_id] = event
        room.event_ids = [peer.id_of(each, room) for each in (*answer["state"], event)]
        room.depth = event["depth"] + 1
        peer.rooms.append(room)
        return room

    def handshake(self, endpoint: Endpoint) -> tuple[str, bytes, dict[str, str]] | None:
        """Return the second request of a handshake whose template the server has made, if it did.

        The template is changed sometimes.
        """
        peer, room = self.peer, self.peer.any_room()
        kind = next(kind for kind in HANDSHAKES if f"/send_{kind}/" in endpoint.pattern)
        user_id = f"@m{peer.rng.randrange(20)}:{peer.signer.server_name}"
        path = f"{quote(room.room_id, safe='')}/{quote(user_id, safe='')}?ver={room.version}"
        uri = f"{FEDERATION}/make_{kind}/{path}"
        headers = peer.sign_headers("GET", uri, b"")
        status, _, answer = self.exchange(self.cluster.processes["main"], "GET", uri, b"", headers)
        if status != 200:
            return None
        event = peer.completed(orjson.loads(answer)["event"], room)
        body = canonicaljson.encode_canonical_json(event)
        uri = endpoint.paths[0].replace("{room_id}", quote(room.room_id, safe=""))
        uri = uri.replace("{event_id}", quote(peer.id_of(event, room), safe=""))
        return uri, body, peer.sign_headers("PUT", uri, body)

    def signed(self, method: str, uri: str, body: bytes) -> Any:
        """Send a valid request of the malicious server."""
        headers = self.peer.sign_headers(method, uri, body)
        process = self.cluster.processes["main"]
        status, _, response = self.exchange(process, method, uri, body, headers)
        assert status == 200, (method, uri, status, response)
        return orjson.loads(response)

    def send(self, endpoint: Endpoint) -> None:
        """Send a hostile request to one of the processes, and record the faults."""
        second = None
        if "/send_" in endpoint.pattern and self.peer.rng.random() < 0.7:
            second = self.handshake(endpoint)
        with self.turns:
            uri, body, headers = second or self.peer.request(endpoint)
            process = self.peer.rng.choice(list(self.cluster.processes.values()))
        self.sent += 1
        key = f"{endpoint.method} {endpoint.pattern}"
        try:
            status, content_type, answer = self.exchange(
                process, endpoint.method, uri, body, headers
            )
        except (OSError, http.client.HTTPException) as error:
            self.faults.setdefault(f"{key}: no answer", f"{uri[:300]} {body[:500]!r} {error!r}")
            return
        self.statuses[status] += 1
        self.served[key] += status < 300
        fault = fault_of(status, content_type, answer)
        if fault is not None:
            text = f"{uri[:500]}\n    {body[:1500]!r}\n    {answer[:300]!r}"
            self.faults.setdefault(f"{key}: {fault}", text)

    def check_quiet_room(self) -> None:
        """Check that messages of both servers arrive in a room without hostile events."""
        room, peer = self.quiet, self.peer
        theirs = peer.signed(
            {
                **peer.build(room, "m.room.message", None, {"msgtype": "m.text", "body": "t"}),
                "prev_events": [self.say(room.room_id, "before")],
                "depth": 10_000,
            },
            room,
        )
        content = {
            "origin": peer.signer.server_name, "origin_server_ts": peer.now_ms(), "pdus": [theirs]
        }  # fmt: skip
        uri, body = f"{FEDERATION}/send/last", orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
        answer = self.signed("PUT", uri, body)
        their_id = peer.id_of(theirs, room)
        assert answer == {"pdus": {their_id: {}}}
        our_id = self.say(room.room_id, "after")
        headers = {"authorization": f"Bearer {self.token}"}
        for process in self.cluster.processes.values():
            for event_id in (their_id, our_id):
                assert event_id is not None
                # Not by /messages: the depth of hostile events may be greater.
                path = f"rooms/{quote(room.room_id, safe='')}/event/{quote(event_id, safe='')}"
                status, _, _ = self.exchange(process, "GET", f"{CLIENT}/{path}", b"", headers)
                assert status == 200, (process.name, event_id, event_id == our_id)

    def check_database(self) -> None:
        """Check what is stored of rooms."""
        assert self.query(WRONG_STATE) == []
        assert self.query(WRONG_MEMBERSHIPS) == []
        accepted = {row[0] for row in self.query(EVENTS)}
        for room_id, extremities in self.query(HEADS):
            assert set(orjson.loads(extremities)) <= accepted, room_id

    def stalls(self) -> list[tuple[int, str]]:
        """Return the longest stalls of the event loop, in milliseconds, and what caused them."""
        found = [
            (int(length), f"{process.name}: {calls}")
            for process in self.cluster.processes.values()
            for length, calls in STALL.findall(process.log.read_text("utf-8", "replace"))
        ]
        return sorted(found, reverse=True)[:5]

    def is_alive(self) -> bool:
        """Return whether all processes run."""
        dead = [
            process.name
            for process in self.cluster.processes.values()
            if process.process is None or process.process.poll() is not None
        ]
        if dead:
            self.faults["dead"] = f"{dead}\n{self.cluster.logs()}"
        return not dead

    def memory_mib(self) -> dict[str, int]:
        """Return the resident memory of each process."""
        sizes = {}
        for process in self.cluster.processes.values():
            assert process.process is not None
            pages = int(Path(f"/proc/{process.process.pid}/statm").read_text().split()[1])
            sizes[process.name] = pages * os.sysconf("SC_PAGE_SIZE") >> 20
        return sizes


def fault_of(status: int, content_type: str, body: bytes) -> str | None:
    """Return what is wrong with a response, or None."""
    # Media that is reserved and not uploaded has a 504 of its own.
    if status >= 500 and b"M_NOT_YET_UPLOADED" not in body:
        return f"status {status}"
    if status < 400 and content_type.startswith("multipart/mixed"):
        return None
    if not content_type.startswith("application/json"):
        return f"{status} as {content_type}"
    try:
        decoded = orjson.loads(body)
    except orjson.JSONDecodeError:
        return "no JSON"
    is_error = isinstance(decoded, dict) and isinstance(decoded.get("errcode"), str)
    return "no errcode" if status >= 400 and not is_error else None


@pytest.fixture(params=["T0", pytest.param("T2", marks=[pytest.mark.postgres, pytest.mark.redis])])
def attack(request: pytest.FixtureRequest) -> Iterator[Attack]:
    """A server of one process or of several, and the malicious server."""
    postgres, redis = None, None
    if request.param == "T2":
        postgres = request.getfixturevalue("postgres_server")
        redis = request.getfixturevalue("redis_server")
    seed = int(os.environ.get("HS_FUZZ_SEED", random.randrange(10**6)))
    logging.getLogger(__name__).info("seed %d", seed)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hs-fuzz-")))
        certificates = make_certificates(folder)
        (port,) = free_ports(1)
        name = ServerName(f"localhost:{port}")
        signer = Signer(name, SigningKey.from_seed("f", hashlib.sha256(b"f").digest()))
        peer = HostilePeer(
            random.Random(seed), signer, SERVER_NAME, now_ms=lambda: int(time.time() * 1000)
        )
        turns = threading.Lock()

        stack.enter_context(running_lying_server(signer, port, certificates, peer.response, turns))
        settings = {
            "federation_custom_ca_list": [str(certificates.authority)],
            "ip_range_blacklist": [],
            "trusted_key_servers": [],
            "rc_federation": {**MANY, "concurrent": 50},
            "allow_public_rooms_over_federation": True,
        }
        workers = []
        if request.param == "T2":
            settings["federation_sender_instances"] = workers = ["sender1"]
        home = Path(tempfile.mkdtemp(prefix="hs-e2e-"))
        made = make_cluster(request.param, home, postgres, redis, settings, workers)
        cluster = stack.enter_context(running(made))
        attack = Attack(cluster, peer, partial(query, cluster, postgres), turns)
        stack.callback(attack.close)
        attack.prepare()
        yield attack


def query(cluster: Cluster, postgres: PostgresServer | None, statement: str) -> list[list[str]]:
    """Return the rows of a query to the database of a server, as text."""
    if postgres is not None:
        output = postgres.psql(statement, database=cluster.database)
        return [line.split("|") for line in output.splitlines()]
    with closing(sqlite3.connect(cluster.folder / "homeserver.db")) as connection:
        return [[str(value) for value in row] for row in connection.execute(statement)]


def send_hostile_requests(attack: Attack, seconds: float) -> None:
    """Send hostile requests for a while, then fail with all faults."""
    endpoints = [
        endpoint
        for endpoint in declared_endpoints()
        if endpoint.auth is Auth.FEDERATION or endpoint.pattern.startswith(KEY_PATHS)
    ]
    # Most of the code is behind this one.
    transactions = [each for each in endpoints if each.pattern.endswith("/send/{txn_id}")]
    start = time.monotonic()
    memory = None
    rounds = 0
    while (time.monotonic() < start + seconds or attack.sent < ENOUGH) and attack.is_alive():
        attack.peer.rng.shuffle(endpoints)
        for endpoint in (*endpoints, *transactions * 15):
            attack.send(endpoint)
        rounds += 1
        if rounds % ROUNDS_OF_ROOM == 0:
            attack.renew()
        if memory is None and time.monotonic() > start + WARM_UP * seconds:
            memory = attack.memory_mib()
    assert attack.is_alive(), attack.faults
    grown = attack.memory_mib()
    log = "\n".join(process.errors() for process in attack.cluster.processes.values())
    summary = f"{attack.sent} requests, {dict(attack.statuses)}, memory {memory} to {grown}"
    unserved = sorted(key for key in attack.served if not attack.served[key])
    logger = logging.getLogger(__name__)
    logger.info(summary)
    logger.info("never successful: %s; stalls: %s", unserved, attack.stalls())
    lines = [f"{key}\n    {sample}" for key, sample in sorted(attack.faults.items())]
    assert not attack.faults, "\n".join([summary, *lines, log])
    assert not log.strip(), f"{summary}\n{log}"
    assert "Traceback" not in attack.cluster.logs()
    assert attack.statuses[200] > attack.sent // 5, summary
    assert memory is not None
    assert all(grown[name] < memory[name] + GROWTH_MIB for name in grown), summary
    assert seconds < LONG_S or all(length < MAX_STALL_MS for length, _ in attack.stalls())
    attack.check_quiet_room()
    attack.check_database()
    status, _, _ = attack.exchange(
        attack.cluster.processes["main"], "GET", "/health/ready", b"", {}
    )
    assert status == 200


def test_signed_hostile_requests_get_valid_responses(attack: Attack) -> None:
    send_hostile_requests(attack, SHORT_S)


@pytest.mark.long
def test_signed_hostile_requests_get_valid_responses_in_long_run(attack: Attack) -> None:
    send_hostile_requests(attack, LONG_S)
