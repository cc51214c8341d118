"""Delayed events of running servers: each is sent once, whichever processes are killed."""

import random
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
import trio

from tests.support.servers.http_client import ConnectionLost, HttpClient
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.processes import MANY, Cluster, Layout, running_cluster
from tests.support.servers.redis import RedisServer

pytestmark = pytest.mark.process

V3 = "/_matrix/client/v3"
DELAYED = "/_matrix/client/unstable/org.matrix.msc4140"
COUNT = 40
LIMIT_S = 240.0


@pytest.fixture(
    scope="module",
    params=["T0", pytest.param("T2", marks=[pytest.mark.postgres, pytest.mark.redis])],
)
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A server that allows delayed events, with one process and with several."""
    layout: Layout = request.param
    postgres: PostgresServer | None = None
    redis: RedisServer | None = None
    if layout == "T2":
        postgres = request.getfixturevalue("postgres_server")
        redis = request.getfixturevalue("redis_server")
    settings = {"max_event_delay_duration": "1d", "rc_delayed_event_mgmt": MANY}
    with running_cluster(layout, postgres, redis, **settings) as running:
        yield running


@attrs.define
class User:
    """A client that sends each request to a random process."""

    cluster: Cluster
    token: str = ""

    async def request(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        """Send a request and retry it until a process answers; the requests are idempotent."""
        with trio.fail_after(LIMIT_S):
            while True:
                try:
                    response = await self._send_once(method, path, body)
                except (ConnectionLost, OSError):
                    await trio.sleep(0.1)
                    continue
                if response.status not in (502, 503):
                    break
                await trio.sleep(0.1)
        assert response.status == status, response.body
        return response.json

    async def _send_once(self, method: str, path: str, body: Any) -> Any:
        port = self.cluster.any_port()
        async with HttpClient(port) as client:
            client.token = self.token or None
            return await client.request(method, path, json=body)

    async def delay(self, room_id: str, txn_id: str, delay_ms: int) -> str:
        """Schedule a message whose text is the transaction ID; return the delay ID."""
        path = f"{V3}/rooms/{room_id}/send/m.room.message/{txn_id}"
        scheduled = await self.request(
            "PUT",
            f"{path}?org.matrix.msc4140.delay={delay_ms}",
            {"msgtype": "m.text", "body": txn_id},
        )
        delay_id: str = scheduled["delay_id"]
        return delay_id

    async def bodies(self, room_id: str) -> list[str]:
        """Return the texts of the messages in a room, oldest first."""
        page = await self.request("GET", f"{V3}/rooms/{room_id}/messages?dir=b&limit=500")
        return [
            event["content"]["body"]
            for event in reversed(page["chunk"])
            if event["type"] == "m.room.message"
        ]

    async def wait_for(self, count: int, room_id: str) -> list[str]:
        """Wait until a room has at least `count` messages; return their texts."""
        with trio.fail_after(LIMIT_S):
            while len(texts := await self.bodies(room_id)) < count:  # noqa: ASYNC110  # a server
                await trio.sleep(0.1)
        return texts


async def register_user(cluster: Cluster, name: str) -> tuple[User, str]:
    user = User(cluster)
    account = {
        "username": f"{name}{cluster.layout.lower()}",
        "password": "correct horse",
        "auth": {"type": "m.login.dummy"},
    }
    user.token = (await user.request("POST", f"{V3}/register", account))["access_token"]
    return user, (await user.request("POST", f"{V3}/createRoom", {}))["room_id"]


@pytest.mark.parametrize("rounds", [1, pytest.param(2, marks=pytest.mark.long)])
async def test_delayed_events_are_sent_once_although_processes_are_killed(
    cluster: Cluster, rounds: int
) -> None:
    user, room_id = await register_user(cluster, f"killed{rounds}")
    rng = random.Random(4140)
    count = COUNT * rounds
    txn_ids = [f"t{n}" for n in range(count)]
    for n, txn_id in enumerate(txn_ids):
        await user.delay(room_id, txn_id, 500 + n * 200 + rng.randrange(50))

    for process in [*cluster.processes.values()] * rounds:
        process.kill()
        await trio.sleep(rng.random())
        process.begin()
        await trio.to_thread.run_sync(process.wait_ready)
    await user.wait_for(count, room_id)
    await user.delay(room_id, "last", 1)
    texts = await user.wait_for(count + 1, room_id)

    assert sorted(texts) == sorted([*txn_ids, "last"])
    listed = await user.request("GET", "/_matrix/client/v1/delayed_events")
    assert listed["delayed_events"] == []


async def test_restarted_delay_postpones_event(cluster: Cluster) -> None:
    user, room_id = await register_user(cluster, "heart")
    delay_id = await user.delay(room_id, "hang-up", 10_000)
    anonymous = User(cluster)
    path = f"/_matrix/client/v1/delayed_events/{delay_id}"
    scheduled_at = (await user.request("GET", path))["scheduled_at"]

    for _ in range(4):
        await trio.sleep(0.3)
        await anonymous.request("POST", f"{DELAYED}/delayed_events/{delay_id}/restart", {})
    await user.wait_for(1, room_id)

    delayed = await user.request("GET", path)
    assert delayed["scheduled_at"] >= scheduled_at + 1_200
    assert delayed["finalised_ts"] >= delayed["scheduled_at"] + delayed["delay_ms"]
    event = await user.request("GET", f"{V3}/rooms/{room_id}/event/{delayed['event_id']}")
    assert event["unsigned"]["delay_id"] == delay_id


async def test_delayed_event_is_sent_when_due(cluster: Cluster) -> None:
    user, room_id = await register_user(cluster, "exact")
    await user.delay(room_id, "much-later", 3_600_000)
    ids = [await user.delay(room_id, str(n), 1_000 + 10 * n) for n in range(5)]
    await user.wait_for(5, room_id)

    for delay_id in ids:
        delayed = await user.request("GET", f"/_matrix/client/v1/delayed_events/{delay_id}")
        event = await user.request("GET", f"{V3}/rooms/{room_id}/event/{delayed['event_id']}")
        due = delayed["scheduled_at"] + delayed["delay_ms"]
        # How late it is depends on the machine, but it is never early, and it does not wait for
        # the poll that happens every twenty seconds.
        assert due <= event["origin_server_ts"] < due + 15_000


async def test_stable_and_unstable_endpoints_manage_delayed_events(cluster: Cluster) -> None:
    user, room_id = await register_user(cluster, "forms")
    stable = "/_matrix/client/v1/delayed_events"
    body = {"delay_ms": 3_600_000, "content": {"topic": "x"}, "state_key": ""}
    path = f"{V3}/rooms/{room_id}/delayed_event/m.room.topic/a"
    sent_id = (await user.request("PUT", path, body))["delay_id"]
    repeated = (await user.request("PUT", path, body))["delay_id"]
    cancelled_id = await user.delay(room_id, "b", 3_600_000)
    old_form_id = await user.delay(room_id, "c", 3_600_000)
    listed = await user.request("GET", stable)

    await user.request("POST", f"{stable}/{sent_id}/send", {})
    await user.request("POST", f"{DELAYED}/delayed_events/{cancelled_id}/cancel", {})
    await user.request("POST", f"{DELAYED}/delayed_events/{old_form_id}", {"action": "cancel"})
    await user.request("POST", f"{stable}/{cancelled_id}/send", {}, status=409)
    await user.request("POST", f"{stable}/unknown/send", {}, status=404)
    finalised = await user.request("GET", f"{DELAYED}/delayed_events?status=finalised")

    assert sent_id == repeated
    assert {delayed["delay_id"] for delayed in listed["delayed_events"]} == {
        sent_id,
        cancelled_id,
        old_form_id,
    }
    outcomes = {delayed["delay_id"]: delayed["outcome"] for delayed in finalised["delayed_events"]}
    assert outcomes == {sent_id: "send", cancelled_id: "cancel", old_form_id: "cancel"}
    topic = await user.request("GET", f"{V3}/rooms/{room_id}/state/m.room.topic")
    assert topic == {"topic": "x"}
    await user.request(
        "PUT",
        f"{V3}/rooms/{room_id}/send/m.room.message/d?org.matrix.msc4140.delay=90000000000",
        {"msgtype": "m.text", "body": "too late"},
        status=400,
    )
