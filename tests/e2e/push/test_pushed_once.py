"""Every notification reaches the push gateway although processes are stopped or killed.

A process that is stopped finishes its requests to the gateway first, so it repeats nothing. A
process that is killed may repeat the request that was in progress for each of its pushers.
"""

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal
from urllib.parse import quote

import attrs
import pytest
import trio

from tests.support.ledger import CLIENT, Person
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.processes import Cluster, Layout, ServerProcess, running_cluster
from tests.support.servers.push_gateway import Gateway, running_gateway
from tests.support.servers.redis import RedisServer

pytestmark = pytest.mark.process

Ending = Literal["stopped", "killed"]
REGISTRATION_LIMIT_S = 120.0
ARRIVAL_LIMIT_S = 600.0
AWAY_S = (0.0, 0.5)
PAUSE_S = (0.2, 1.5)

log = logging.getLogger(__name__)


@attrs.define
class Stage:
    """Users with a pusher each, in a room with another user who sends messages."""

    cluster: Cluster
    gateway: Gateway
    rng: random.Random
    speaker: Person
    listeners: list[Person]
    room_id: str = ""
    sent: list[str] = attrs.Factory(list)
    ended: int = 0

    async def prepare(self) -> None:
        """Register the users, join them to the room and set their pushers."""
        await self.speaker.register("speaker")
        room = {"preset": "public_chat"}
        created = await self.speaker.request("POST", f"{CLIENT}/createRoom", room)
        self.room_id = created.json["room_id"]
        for number, listener in enumerate(self.listeners):
            await listener.register(f"listener{number}")
            await listener.request("POST", f"{CLIENT}/join/{quote(self.room_id)}", {})
            await listener.request("POST", f"{CLIENT}/pushers/set", self._pusher(number))

    def _pusher(self, number: int) -> dict[str, Any]:
        return {
            "kind": "http",
            "app_id": "org.example.app",
            "pushkey": f"key{number}",
            "app_display_name": "App",
            "device_display_name": "Phone",
            "lang": "en",
            "data": {"url": self.gateway.url, "format": "event_id_only"},
        }

    async def speak(self, count: int, done: trio.Event) -> None:
        """Send `count` messages, then set the event."""
        for number in range(count):
            target = f"{CLIENT}/rooms/{quote(self.room_id)}/send/m.room.message/t{number}"
            body = {"msgtype": "m.text", "body": str(number)}
            answer = await self.speaker.request("PUT", target, body)
            self.sent.append(answer.json["event_id"])
        done.set()

    async def restart_processes(self, ending: Ending, enough: Callable[[], bool]) -> None:
        """Stop or kill processes in random order and restart them."""
        victims: list[ServerProcess] = []
        while not enough():
            await trio.sleep(self.rng.uniform(*PAUSE_S))
            victims = victims or self.rng.sample(
                list(self.cluster.processes.values()), len(self.cluster.processes)
            )
            await trio.to_thread.run_sync(self._end, victims.pop(), ending)

    def _end(self, victim: ServerProcess, ending: Ending) -> None:
        if ending == "stopped":
            assert victim.stop() == 0
        else:
            victim.kill()
        self.ended += 1
        victim.start()

    def all_arrived(self) -> bool:
        """Return whether all notifications have arrived."""
        return len(set(self._arrived())) >= len(self.sent) * len(self.listeners)

    def _arrived(self) -> Sequence[tuple[str, str]]:
        return [
            (notification["event_id"], notification["devices"][0]["pushkey"])
            for notification in list(self.gateway.notifications)
            if "event_id" in notification
        ]

    def missing(self) -> set[tuple[str, str]]:
        """Return the notifications that have not arrived, as (event ID, pushkey)."""
        keys = [f"key{number}" for number in range(len(self.listeners))]
        return {(event_id, key) for event_id in self.sent for key in keys} - set(self._arrived())


async def run_scenario(stage: Stage, messages: int, endings: int, ending: Ending) -> None:
    with trio.fail_after(REGISTRATION_LIMIT_S):
        await stage.prepare()
    all_sent = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.speak, messages, all_sent)
        await stage.restart_processes(ending, lambda: stage.ended >= endings and all_sent.is_set())
    with trio.move_on_after(ARRIVAL_LIMIT_S):
        while not stage.all_arrived():  # noqa: ASYNC110  # another thread receives them
            await trio.sleep(0.05)


def prove(cluster: Cluster, people: int, messages: int, endings: int, ending: Ending) -> None:
    ports = cluster.ports
    rng = random.Random(3)
    with running_gateway() as gateway:
        listeners = [Person(ports, rng) for _ in range(people)]
        stage = Stage(cluster, gateway, rng, Person(ports, rng), listeners)
        try:
            trio.run(run_scenario, stage, messages, endings, ending)
        except BaseException as error:
            error.add_note(cluster.logs())
            raise
        summary = f"{len(stage.sent)} messages to {people} pushers, {stage.ended} processes ended"

        assert stage.missing() == set(), f"{summary}\n{cluster.logs()}"
        repeated = gateway.repeated()
        log.info("%s: %d sent more than once", summary, len(repeated))
        if ending == "stopped":
            assert repeated == {}, summary
        else:
            assert max(repeated.values(), default=0) <= 1 + stage.ended, summary
            assert len(repeated) <= stage.ended * people, summary


@pytest.fixture
def cluster(request: pytest.FixtureRequest, layout: Layout) -> Iterator[Cluster]:
    """A running server; on T2, two processes divide the pushers between them."""
    postgres: PostgresServer | None = None
    redis: RedisServer | None = None
    settings: dict[str, Any] = {"ip_range_blacklist": []}
    if layout == "T2":
        postgres = request.getfixturevalue("postgres_server")
        redis = request.getfixturevalue("redis_server")
        settings |= {"start_pushers": False, "pusher_instances": ["sync1", "persister1"]}
    with running_cluster(layout, postgres, redis, **settings) as running:
        yield running


LAYOUTS = ["T0", pytest.param("T2", marks=[pytest.mark.postgres, pytest.mark.redis])]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ending", ["stopped", "killed"])
def test_each_notification_arrives_despite_restarts(
    cluster: Cluster, layout: Layout, ending: Ending
) -> None:
    prove(cluster, people=6, messages=40, endings=3, ending=ending)


@pytest.mark.long
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ending", ["stopped", "killed"])
def test_ten_thousand_notifications_arrive_despite_restarts(
    cluster: Cluster, layout: Layout, ending: Ending
) -> None:
    prove(cluster, people=20, messages=500, endings=20, ending=ending)
