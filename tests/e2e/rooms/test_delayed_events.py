"""Delayed events against running servers: sent once, by whichever process is there."""

import random
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
import trio

from tests.support.http_client import HttpClient, Hungup
from tests.support.postgres import PostgresServer
from tests.support.processes import MANY, Cluster, Layout, running_cluster
from tests.support.redis import RedisServer

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
    """A server that delays events, in one process and in several."""
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
    """A client whose every request goes to another process."""

    cluster: Cluster
    token: str = ""

    async def ask(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        """Ask, again and again while nobody answers; requests are idempotent."""
        with trio.fail_after(LIMIT_S):
            while True:
                try:
                    answer = await self._once(method, path, body)
                except (Hungup, OSError):
                    await trio.sleep(0.1)
                    continue
                if answer.status not in (502, 503):
                    break
                await trio.sleep(0.1)
        assert answer.status == status, answer.body
        return answer.json

    async def _once(self, method: str, path: str, body: Any) -> Any:
        port = int(self.cluster.any_url().rpartition(":")[2])
        async with HttpClient(port) as client:
            client.token = self.token or None
            return await client.ask(method, path, json=body)

    async def delay(self, room_id: str, txn_id: str, delay_ms: int) -> str:
        """Have a text sent later: the transaction ID."""
        path = f"{V3}/rooms/{room_id}/send/m.room.message/{txn_id}"
        answer = await self.ask(
            "PUT", f"{path}?org.matrix.msc4140.delay={delay_ms}", {"body": txn_id}
        )
        delay_id: str = answer["delay_id"]
        return delay_id

    async def bodies(self, room_id: str) -> list[str]:
        """Give the texts in a room, the first first."""
        page = await self.ask("GET", f"{V3}/rooms/{room_id}/messages?dir=b&limit=500")
        return [
            one["content"]["body"]
            for one in reversed(page["chunk"])
            if one["type"] == "m.room.message"
        ]

    async def wait_for(self, count: int, room_id: str) -> list[str]:
        """Wait for so many texts in a room."""
        with trio.fail_after(LIMIT_S):
            while len(found := await self.bodies(room_id)) < count:  # noqa: ASYNC110  # a server
                await trio.sleep(0.1)
        return found


async def a_user(cluster: Cluster, name: str) -> tuple[User, str]:
    user = User(cluster)
    account = {
        "username": f"{name}{cluster.layout.lower()}",
        "password": "correct horse",
        "auth": {"type": "m.login.dummy"},
    }
    user.token = (await user.ask("POST", f"{V3}/register", account))["access_token"]
    return user, (await user.ask("POST", f"{V3}/createRoom", {}))["room_id"]


@pytest.mark.parametrize("rounds", [1, pytest.param(2, marks=pytest.mark.long)])
async def test_each_is_sent_once_whichever_process_is_killed(cluster: Cluster, rounds: int) -> None:
    user, room_id = await a_user(cluster, f"killed{rounds}")
    chance = random.Random(4140)
    count = COUNT * rounds
    wanted = [f"t{n}" for n in range(count)]
    for n, txn_id in enumerate(wanted):
        await user.delay(room_id, txn_id, 500 + n * 200 + chance.randrange(50))

    for process in [*cluster.processes.values()] * rounds:
        process.kill()
        await trio.sleep(chance.random())
        process.begin()
        await trio.to_thread.run_sync(process.wait_ready)
    await user.wait_for(count, room_id)
    await user.delay(room_id, "last", 1)
    found = await user.wait_for(count + 1, room_id)

    assert sorted(found) == sorted([*wanted, "last"])
    listed = await user.ask("GET", "/_matrix/client/v1/delayed_events")
    assert listed["delayed_events"] == []


async def test_a_heartbeat_keeps_an_event_from_being_sent(cluster: Cluster) -> None:
    user, room_id = await a_user(cluster, "heart")
    delay_id = await user.delay(room_id, "hang-up", 10_000)
    anonymous = User(cluster)
    path = f"/_matrix/client/v1/delayed_events/{delay_id}"
    began = (await user.ask("GET", path))["scheduled_at"]

    for _ in range(4):
        await trio.sleep(0.3)
        await anonymous.ask("POST", f"{DELAYED}/delayed_events/{delay_id}/restart", {})
    await user.wait_for(1, room_id)

    one = await user.ask("GET", path)
    assert one["scheduled_at"] >= began + 1_200
    assert one["finalised_ts"] >= one["scheduled_at"] + one["delay_ms"]
    event = await user.ask("GET", f"{V3}/rooms/{room_id}/event/{one['event_id']}")
    assert event["unsigned"]["delay_id"] == delay_id


async def test_an_event_is_sent_within_a_moment_of_its_time(cluster: Cluster) -> None:
    user, room_id = await a_user(cluster, "exact")
    await user.delay(room_id, "much-later", 3_600_000)
    ids = [await user.delay(room_id, str(n), 1_000 + 10 * n) for n in range(5)]
    await user.wait_for(5, room_id)

    for delay_id in ids:
        one = await user.ask("GET", f"/_matrix/client/v1/delayed_events/{delay_id}")
        event = await user.ask("GET", f"{V3}/rooms/{room_id}/event/{one['event_id']}")
        due = one["scheduled_at"] + one["delay_ms"]
        # How late depends on the machine; never early, never a poll of twenty seconds later.
        assert due <= event["origin_server_ts"] < due + 15_000


async def test_accepted_and_older_forms(cluster: Cluster) -> None:
    user, room_id = await a_user(cluster, "forms")
    stable = "/_matrix/client/v1/delayed_events"
    body = {"delay_ms": 3_600_000, "content": {"topic": "x"}, "state_key": ""}
    path = f"{V3}/rooms/{room_id}/delayed_event/m.room.topic/a"
    first = (await user.ask("PUT", path, body))["delay_id"]
    again = (await user.ask("PUT", path, body))["delay_id"]
    second = await user.delay(room_id, "b", 3_600_000)
    third = await user.delay(room_id, "c", 3_600_000)
    listed = await user.ask("GET", stable)

    await user.ask("POST", f"{stable}/{first}/send", {})
    await user.ask("POST", f"{DELAYED}/delayed_events/{second}/cancel", {})
    await user.ask("POST", f"{DELAYED}/delayed_events/{third}", {"action": "cancel"})
    await user.ask("POST", f"{stable}/{second}/send", {}, status=409)
    await user.ask("POST", f"{stable}/unknown/send", {}, status=404)
    over = await user.ask("GET", f"{DELAYED}/delayed_events?status=finalised")

    assert first == again
    assert {one["delay_id"] for one in listed["delayed_events"]} == {first, second, third}
    outcomes = {one["delay_id"]: one["outcome"] for one in over["delayed_events"]}
    assert outcomes == {first: "send", second: "cancel", third: "cancel"}
    topic = await user.ask("GET", f"{V3}/rooms/{room_id}/state/m.room.topic")
    assert topic == {"topic": "x"}
    await user.ask(
        "PUT",
        f"{V3}/rooms/{room_id}/send/m.room.message/d?org.matrix.msc4140.delay=90000000000",
        {},
        status=403,
    )
