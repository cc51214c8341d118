"""Correctly signed hostile requests of another server to all endpoints for servers.

They get well-formed responses without internal errors, nothing is logged as an error, and the
memory of the processes stays the same. The other server responds to what it is asked with lies.

HS_FUZZ_SECONDS is the duration of the long test; HS_FUZZ_SEED repeats a run.
"""

import hashlib
import http.client
import logging
import os
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs
import orjson
import pytest

from hs.apis.web.auth import Auth
from hs.apis.web.route import Endpoint
from hs.cli.inspect_plan import declared_endpoints
from hs.core.ids import ServerName
from hs.core.signing.keys import Signer, SigningKey
from tests.support.inputs.hostile_peer import HostilePeer, PeerRoom
from tests.support.servers.certificates import make_certificates
from tests.support.servers.lying_server import running_lying_server
from tests.support.servers.processes import (
    SERVER_NAME,
    Cluster,
    ServerProcess,
    free_ports,
    running_cluster,
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
KEY_PATHS = ("/_matrix/key/", "/_matrix/federation/")


@attrs.define(eq=False)
class Attack:
    """The attacked server, the malicious one, and the faults of the responses."""

    cluster: Cluster
    peer: HostilePeer
    turns: threading.Lock = attrs.Factory(threading.Lock)
    connections: dict[str, http.client.HTTPConnection] = attrs.Factory(dict)
    token: str = ""
    sent: int = 0
    statuses: Counter[int] = attrs.Factory(Counter)
    served: Counter[str] = attrs.Factory(Counter)
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

    def add_room(self, version: str) -> None:
        """Create a room where the malicious user may do everything, and join it."""
        alice, bob = self.peer.local_users
        users = {self.peer.user_id: 100}
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
        self.join(room_id, version)

    def renew(self) -> None:
        """Replace the oldest room, as the malicious user may have ended it, and read everything."""
        for room in self.peer.rooms:
            path = f"{CLIENT}/rooms/{quote(room.room_id, safe='')}"
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

    def read(self, target: str, method: str = "GET", body: bytes = b"") -> None:
        """Read what the malicious server has sent, as a user."""
        headers = {"authorization": f"Bearer {self.token}"}
        process = self.peer.rng.choice(list(self.cluster.processes.values()))
        status, _, answer = self.exchange(process, method, target, body, headers)
        # The malicious server fails as it likes.
        if status >= 500 and not (status == 502 and b"failed" in answer):
            self.faults.setdefault(f"reading {target[:60]}: {status}", repr(answer[:500]))

    def join(self, room_id: str, version: str) -> None:
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

    def signed(self, method: str, uri: str, body: bytes) -> Any:
        """Send a valid request of the malicious server."""
        headers = self.peer.sign_headers(method, uri, body)
        process = self.cluster.processes["main"]
        status, _, response = self.exchange(process, method, uri, body, headers)
        assert status == 200, (method, uri, status, response)
        return orjson.loads(response)

    def send(self, endpoint: Endpoint) -> None:
        """Send a hostile request to one of the processes, and record the faults."""
        with self.turns:
            uri, body, headers = self.peer.request(endpoint)
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
        cluster = stack.enter_context(
            running_cluster(
                request.param,
                postgres,
                redis,
                federation_custom_ca_list=[str(certificates.authority)],
                ip_range_blacklist=[],
                trusted_key_servers=[],
                rc_federation={**MANY, "concurrent": 50},
                allow_public_rooms_over_federation=True,
            )
        )
        attack = Attack(cluster, peer, turns)
        stack.callback(attack.close)
        attack.prepare()
        yield attack


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
    while time.monotonic() < start + seconds or attack.sent < ENOUGH:
        attack.peer.rng.shuffle(endpoints)
        for endpoint in (*endpoints, *transactions * 15):
            attack.send(endpoint)
        rounds += 1
        if rounds % ROUNDS_OF_ROOM == 0:
            attack.renew()
        if memory is None and time.monotonic() > start + WARM_UP * seconds:
            memory = attack.memory_mib()
    grown = attack.memory_mib()
    log = "\n".join(process.errors() for process in attack.cluster.processes.values())
    summary = f"{attack.sent} requests, {dict(attack.statuses)}, memory {memory} to {grown}"
    logging.getLogger(__name__).info(summary)
    lines = [f"{key}\n    {sample}" for key, sample in sorted(attack.faults.items())]
    assert not attack.faults, "\n".join([summary, *lines, log])
    assert not log.strip(), f"{summary}\n{log}"
    assert "Traceback" not in attack.cluster.logs()
    assert attack.statuses[200] > attack.sent // 5, summary
    assert memory is not None
    assert all(grown[name] < memory[name] + GROWTH_MIB for name in grown), summary
    status, _, _ = attack.exchange(
        attack.cluster.processes["main"], "GET", "/health/ready", b"", {}
    )
    assert status == 200


def test_signed_hostile_requests_get_valid_responses(attack: Attack) -> None:
    send_hostile_requests(attack, SHORT_S)


@pytest.mark.long
def test_signed_hostile_requests_get_valid_responses_in_long_run(attack: Attack) -> None:
    send_hostile_requests(attack, LONG_S)
