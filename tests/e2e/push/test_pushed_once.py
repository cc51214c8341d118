"""Every notification reaches the gateway while processes are ended; twice only by a power cut.

What was on its way to the gateway when a process is killed may be sent again: one for each pusher
of that process. A process that is told to end lets it arrive first.
"""

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal
from urllib.parse import quote

import attrs
import pytest
import trio

from tests.support.gateway import Gateway, running_gateway
from tests.support.ledger import CLIENT, Person
from tests.support.postgres import PostgresServer
from tests.support.processes import Cluster, Layout, ServerProcess, running_cluster
from tests.support.redis import RedisServer

pytestmark = pytest.mark.process

Ending = Literal["told", "killed"]
REGISTERING_S = 120.0
ARRIVAL_S = 600.0
AWAY_S = (0.0, 0.5)
PAUSE_S = (0.2, 1.5)

log = logging.getLogger(__name__)


@attrs.define
class Stage:
    """Users with a pusher each, in one room with somebody who speaks."""

    cluster: Cluster
    gateway: Gateway
    rng: random.Random
    speaker: Person
    listeners: list[Person]
    room_id: str = ""
    sent: list[str] = attrs.Factory(list)
    ended: int = 0

    async def prepare(self) -> None:
        """Fill the room and set the pushers."""
        await self.speaker.register("speaker")
        room = {"preset": "public_chat"}
        made = await self.speaker.ask("POST", f"{CLIENT}/createRoom", room)
        self.room_id = made.json["room_id"]
        for number, listener in enumerate(self.listeners):
            await listener.register(f"listener{number}")
            await listener.ask("POST", f"{CLIENT}/join/{quote(self.room_id)}", {})
            await listener.ask("POST", f"{CLIENT}/pushers/set", self._pusher(number))

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
        """Send so many messages, each once."""
        for number in range(count):
            target = f"{CLIENT}/rooms/{quote(self.room_id)}/send/m.room.message/t{number}"
            body = {"msgtype": "m.text", "body": str(number)}
            answer = await self.speaker.ask("PUT", target, body)
            self.sent.append(answer.json["event_id"])
        done.set()

    async def trouble(self, ending: Ending, enough: Callable[[], bool]) -> None:
        """End and start processes in turn."""
        victims: list[ServerProcess] = []
        while not enough():
            await trio.sleep(self.rng.uniform(*PAUSE_S))
            victims = victims or self.rng.sample(
                list(self.cluster.processes.values()), len(self.cluster.processes)
            )
            await trio.to_thread.run_sync(self._end, victims.pop(), ending)

    def _end(self, victim: ServerProcess, ending: Ending) -> None:
        if ending == "told":
            assert victim.stop() == 0
        else:
            victim.kill()
        self.ended += 1
        victim.start()

    def has_all(self) -> bool:
        """Tell whether everything arrived."""
        return len(set(self._told())) >= len(self.sent) * len(self.listeners)

    def _told(self) -> Sequence[tuple[str, str]]:
        return [
            (one["event_id"], one["devices"][0]["pushkey"])
            for one in list(self.gateway.told)
            if "event_id" in one
        ]

    def missing(self) -> set[tuple[str, str]]:
        """Give what did not arrive."""
        keys = [f"key{number}" for number in range(len(self.listeners))]
        return {(event_id, key) for event_id in self.sent for key in keys} - set(self._told())


async def play(stage: Stage, messages: int, endings: int, ending: Ending) -> None:
    with trio.fail_after(REGISTERING_S):
        await stage.prepare()
    spoken = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.speak, messages, spoken)
        await stage.trouble(ending, lambda: stage.ended >= endings and spoken.is_set())
    with trio.move_on_after(ARRIVAL_S):
        while not stage.has_all():  # noqa: ASYNC110  another thread takes what arrives
            await trio.sleep(0.05)


def prove(cluster: Cluster, people: int, messages: int, endings: int, ending: Ending) -> None:
    ports = [int(url.rpartition(":")[2]) for url in cluster.urls]
    rng = random.Random(3)
    with running_gateway() as gateway:
        listeners = [Person(ports, rng) for _ in range(people)]
        stage = Stage(cluster, gateway, rng, Person(ports, rng), listeners)
        try:
            trio.run(play, stage, messages, endings, ending)
        except BaseException as error:
            error.add_note(cluster.logs())
            raise
        told = f"{len(stage.sent)} messages to {people} pushers, {stage.ended} processes ended"

        assert stage.missing() == set(), f"{told}\n{cluster.logs()}"
        doubled = gateway.doubled()
        log.info("%s: %d sent twice", told, len(doubled))
        if ending == "told":
            assert doubled == {}, told
        else:
            assert max(doubled.values(), default=0) <= 1 + stage.ended, told
            assert len(doubled) <= stage.ended * people, told


@pytest.fixture
def cluster(request: pytest.FixtureRequest, layout: Layout) -> Iterator[Cluster]:
    """A server; T2 shares the users out over two processes."""
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
@pytest.mark.parametrize("ending", ["told", "killed"])
def test_each_notification_arrives(cluster: Cluster, layout: Layout, ending: Ending) -> None:
    prove(cluster, people=6, messages=40, endings=3, ending=ending)


@pytest.mark.long
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ending", ["told", "killed"])
def test_ten_thousand_notifications_arrive(
    cluster: Cluster, layout: Layout, ending: Ending
) -> None:
    prove(cluster, people=20, messages=500, endings=20, ending=ending)
