"""PostgreSQL or Redis hangs: every request is answered in time, and service resumes afterwards.

A stopped process closes no connection and answers nothing, like a machine that is cut off.
"""

import signal
from collections.abc import Callable, Iterator
from urllib.parse import quote

import attrs
import pytest
import trio

from tests.support.servers.http_client import HttpClient
from tests.support.servers.postgres import PostgresServer, running_postgres, stopped
from tests.support.servers.processes import Layout, running_cluster
from tests.support.servers.redis import RedisServer, running_redis
from tests.support.web import WebResponse

pytestmark = [pytest.mark.process, pytest.mark.postgres, pytest.mark.redis]

CLIENT = "/_matrix/client/v3"
# Requests end within about 16 seconds; one whose commit was under way waits 5 seconds longer for
# its outcome. The rest is for slow machines.
ANSWER_S = 45.0
CHANGE_S = 120.0
SENDERS = 12
HANG_S = 90.0
DELAY_S = 30
DELAYED = "delayed"


@attrs.define
class Member:
    """A user with a room, who sends numbered messages through all processes in turn."""

    ports: list[int]
    token: str = ""
    room: str = ""
    acknowledged: dict[str, str] = attrs.Factory(dict)
    statuses: list[int] = attrs.Factory(list)

    async def request(self, port: int, method: str, path: str, json: object = None) -> WebResponse:
        """Send a request that must be answered in time."""
        async with HttpClient(port, self.token or None) as client:
            with trio.fail_after(ANSWER_S):
                return await client.request(method, path, json=json)

    async def begin(self) -> None:
        """Register and create a room."""
        account = {"username": "alice", "password": "p", "auth": {"type": "m.login.dummy"}}
        answer = await self.request(self.ports[0], "POST", f"{CLIENT}/register", account)
        self.token = answer.json["access_token"]
        answer = await self.request(self.ports[0], "POST", f"{CLIENT}/createRoom", {})
        self.room = f"{CLIENT}/rooms/{quote(answer.json['room_id'])}"

    async def send_until(self, stop: trio.Event, name: str) -> None:
        """Send one message after another, each until it is acknowledged."""
        number = 0
        while not stop.is_set():
            number += 1
            while await self._send(f"{name}.{number}") != 200:  # noqa: ASYNC110 - a server
                await trio.sleep(0.1)

    async def _send(self, text: str) -> int:
        port = self.ports[len(self.statuses) % len(self.ports)]
        body = {"msgtype": "m.text", "body": text}
        path = f"{self.room}/send/m.room.message/{text}"
        answer = await self.request(port, "PUT", path, body)
        if answer.status == 200:
            self.acknowledged[text] = answer.json["event_id"]
        else:
            assert (answer.status, "errcode" in answer.json) == (503, True), answer.body
        self.statuses.append(answer.status)
        return answer.status

    async def read_texts(self, port: int) -> dict[str, str]:
        """Return the event IDs of all messages in the room by their texts."""
        texts: dict[str, str] = {}
        start = ""
        while True:
            path = f"{self.room}/messages?dir=b&limit=1000{start}"
            answer = await self.request(port, "GET", path)
            assert answer.status == 200, answer.body
            for event in answer.json["chunk"]:
                if event["type"] == "m.room.message":
                    assert event["content"]["body"] not in texts, "twice in the room"
                    texts[event["content"]["body"]] = event["event_id"]
            if "end" not in answer.json:
                return texts
            start = f"&from={answer.json['end']}"


async def wait_until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(CHANGE_S):
        while not condition():  # noqa: ASYNC110 - statuses
            await trio.sleep(0.1)


async def wait_for_readiness(ports: list[int], status: int) -> None:
    """Wait until /health/ready of all processes has this status; /health always has 200."""
    for port in ports:
        async with HttpClient(port) as client:
            with trio.fail_after(CHANGE_S):
                while (await client.get("/health/ready")).status != status:
                    assert (await client.get("/health")).status == 200
                    await trio.sleep(0.1)


async def subjects_of(port: int) -> tuple[int, set[str]]:
    """Return the status of /health/ready, and the subjects of the causes."""
    async with HttpClient(port) as client:
        answer = await client.get("/health/ready")
        return answer.status, {cause["subject"] for cause in answer.json["causes"]}


async def wait_for_causes(ports: list[int], *subjects: str, status: int = 200) -> None:
    """Wait until all processes serve, or do not, and name these subjects."""
    for port in ports:
        with trio.fail_after(CHANGE_S):
            while await subjects_of(port) != (status, set(subjects)):  # noqa: ASYNC110 - a server
                await trio.sleep(0.1)


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A server that no other test uses."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A server that no other test uses."""
    with running_redis() as server:
        yield server


@pytest.mark.parametrize("layout", [pytest.param("T1", marks=pytest.mark.long), "T2"])
async def test_hung_postgres_is_answered_503_and_service_resumes(
    layout: Layout, own_postgres: PostgresServer, own_redis: RedisServer
) -> None:
    with running_cluster(layout, own_postgres, own_redis) as cluster:
        ports = cluster.ports
        member, stop = Member(ports), trio.Event()
        await member.begin()
        async with trio.open_nursery() as nursery:
            for number in range(SENDERS):
                nursery.start_soon(member.send_until, stop, f"s{number}")
            await wait_until(lambda: len(member.acknowledged) > SENDERS)

            with stopped(own_postgres):
                hung_at = len(member.statuses)
                await wait_until(lambda: member.statuses[hung_at:].count(503) > 2 * SENDERS)
                await wait_for_readiness(ports, 503)
                for port in ports:
                    answer = await member.request(port, "GET", f"{CLIENT}/sync?timeout=0")
                    assert (answer.status, "errcode" in answer.json) == (503, True)

            await wait_for_readiness(ports, 200)
            resumed_at = len(member.statuses)
            await wait_until(lambda: member.statuses[resumed_at:].count(200) > SENDERS)
            stop.set()

        assert await member.read_texts(ports[0]) == member.acknowledged


@pytest.mark.long
async def test_postgres_that_hangs_for_long_ends_no_process_and_loses_nothing(
    own_postgres: PostgresServer, own_redis: RedisServer
) -> None:
    with running_cluster("T2", own_postgres, own_redis, max_event_delay_duration="10m") as cluster:
        ports = cluster.ports
        member, stop = Member(ports), trio.Event()
        await member.begin()
        delayed = await member.request(
            ports[0],
            "PUT",
            f"{member.room}/send/m.room.message/delayed?org.matrix.msc4140.delay={DELAY_S * 1000}",
            {"msgtype": "m.text", "body": DELAYED},
        )
        assert delayed.status == 200, delayed.body
        async with trio.open_nursery() as nursery:
            for number in range(SENDERS):
                nursery.start_soon(member.send_until, stop, f"s{number}")
            await wait_until(lambda: len(member.acknowledged) > SENDERS)

            with stopped(own_postgres):
                # Longer than leases last, and than any wait for the database.
                await trio.sleep(HANG_S)
                await wait_for_readiness(ports, 503)

            await wait_for_readiness(ports, 200)
            wanted = len(member.acknowledged) + SENDERS * len(ports)
            await wait_until(lambda: len(member.acknowledged) > wanted)
            stop.set()

        with trio.fail_after(CHANGE_S):
            # A leased duty, which some process resumed, sends what was due meanwhile.
            while DELAYED not in await member.read_texts(ports[0]):  # noqa: ASYNC110 - a server
                await trio.sleep(0.5)
        for port in ports:
            texts = await member.read_texts(port)
            assert texts.pop(DELAYED)
            assert texts == member.acknowledged
        for process in cluster.processes.values():
            assert process.process is not None
            assert process.process.poll() is None, process.tail()


async def test_hung_redis_makes_processes_degraded_and_loses_nothing(
    own_postgres: PostgresServer, own_redis: RedisServer
) -> None:
    with running_cluster("T2", own_postgres, own_redis) as cluster:
        ports = cluster.ports
        member, stop = Member(ports), trio.Event()
        await member.begin()
        async with trio.open_nursery() as nursery:
            for number in range(SENDERS):
                nursery.start_soon(member.send_until, stop, f"s{number}")
            await wait_until(lambda: len(member.acknowledged) > SENDERS)

            own_redis.pause()
            try:
                await wait_for_causes(ports, "redis")
                sent = dict(member.acknowledged)
                for port in ports:
                    assert sent.items() <= (await member.read_texts(port)).items()
            finally:
                own_redis.resume()

            await wait_for_readiness(ports, 200)
            stop.set()

        assert set(member.statuses) == {200}
        for port in ports:
            assert await member.read_texts(port) == member.acknowledged


async def test_readiness_names_hung_and_killed_processes_within_seconds(
    own_postgres: PostgresServer, own_redis: RedisServer
) -> None:
    with running_cluster("T2", own_postgres, own_redis) as cluster:
        main, persister = cluster.processes["main"], cluster.processes["persister1"]
        assert persister.process is not None
        own_redis.pause()
        await wait_for_causes([main.port], "redis")
        own_redis.resume()
        await wait_for_causes([main.port])

        persister.process.send_signal(signal.SIGSTOP)
        await wait_for_causes([main.port], "persister1")
        persister.process.send_signal(signal.SIGCONT)
        await wait_for_causes([main.port])

        persister.kill()
        await wait_for_causes([main.port], "persister1")
        persister.start()
        await wait_for_causes([main.port])

        with stopped(own_postgres):
            await wait_for_causes([main.port], "database", status=503)
        await wait_for_causes([main.port])
