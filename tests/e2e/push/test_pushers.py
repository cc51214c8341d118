"""Pushers of running servers, with a gateway that listens: set, pushed to, failing, deleted."""

import random
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import attrs
import pytest
import trio

from tests.support.gateway import Gateway, running_gateway
from tests.support.ledger import CLIENT, Person
from tests.support.postgres import PostgresServer
from tests.support.processes import Cluster, Layout, running_cluster
from tests.support.redis import RedisServer

pytestmark = pytest.mark.process


@pytest.fixture(
    scope="module",
    params=["T0", pytest.param("T2", marks=[pytest.mark.postgres, pytest.mark.redis])],
)
def pushing(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A server that may push to this machine; T2 shares the users out over two processes."""
    layout: Layout = request.param
    postgres: PostgresServer | None = None
    redis: RedisServer | None = None
    settings: dict[str, Any] = {"ip_range_blacklist": []}
    if layout == "T2":
        postgres = request.getfixturevalue("postgres_server")
        redis = request.getfixturevalue("redis_server")
        settings |= {"start_pushers": False, "pusher_instances": ["sync1", "persister1"]}
    with running_cluster(layout, postgres, redis, **settings) as running:
        yield running


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """A push gateway."""
    with running_gateway() as running:
        yield running


@attrs.define
class Scene:
    """Somebody who speaks, and somebody who has a pusher, in a room of two."""

    cluster: Cluster
    gateway: Gateway
    ada: Person
    bob: Person
    room_id: str = ""
    sent: int = 0

    async def say(self, content: Any = None, event_type: str = "m.room.message") -> str:
        """Have Ada say something; give the event ID."""
        self.sent += 1
        room = f"{CLIENT}/rooms/{quote(self.room_id)}"
        target = f"{room}/send/{event_type}/t{self.sent}"
        body = content or {"msgtype": "m.text", "body": f"hello {self.sent}"}
        return str((await self.ada.ask("PUT", target, body)).json["event_id"])

    async def set_pusher(self, person: Person | None = None, **more: Any) -> None:
        """Set Bob's pusher, or somebody else's."""
        await (person or self.bob).ask("POST", f"{CLIENT}/pushers/set", self.pusher(**more))

    def pusher(self, **more: Any) -> dict[str, Any]:
        """Describe a pusher."""
        options = {"url": self.gateway.url, "brand": "x", **more.pop("data", {})}
        return {
            "kind": "http",
            "app_id": "org.example.app",
            "pushkey": f"key of {self.bob.user_id}",
            "app_display_name": "App",
            "device_display_name": "Phone",
            "lang": "en",
            "data": options,
            **more,
        }

    async def pushers(self, person: Person | None = None) -> list[dict[str, Any]]:
        """List Bob's pushers, or somebody else's."""
        answer = await (person or self.bob).ask("GET", f"{CLIENT}/pushers")
        pushers: list[dict[str, Any]] = answer.json["pushers"]
        return pushers

    async def unread(self) -> int:
        """Count what Bob has not read."""
        synced = (await self.bob.ask("GET", f"{CLIENT}/sync")).json
        room = synced["rooms"]["join"][self.room_id]
        return int(room["unread_notifications"]["notification_count"])

    async def told(self, event_id: str) -> dict[str, Any]:
        """Wait until the gateway was told of an event."""
        return await trio.to_thread.run_sync(self.gateway.of_event, event_id)


NAMES = iter(range(1000))


async def open_scene(cluster: Cluster, gateway: Gateway) -> Scene:
    ports = [int(url.rpartition(":")[2]) for url in cluster.urls]
    rng = random.Random(7)
    ada, bob = Person(ports, rng), Person(ports, rng)
    number = next(NAMES)
    await ada.register(f"ada{number}")
    await bob.register(f"bob{number}")
    scene = Scene(cluster, gateway, ada, bob)
    room = {"preset": "public_chat", "name": "The kitchen"}
    scene.room_id = (await ada.ask("POST", f"{CLIENT}/createRoom", room)).json["room_id"]
    await bob.ask("POST", f"{CLIENT}/join/{quote(scene.room_id)}", {})
    return scene


async def test_a_message_is_pushed_with_what_the_gateway_needs(
    pushing: Cluster, gateway: Gateway
) -> None:
    scene = await open_scene(pushing, gateway)
    await scene.set_pusher()

    event_id = await scene.say()
    notification = await scene.told(event_id)

    device = notification.pop("devices")[0]
    assert notification == {
        "id": event_id,
        "event_id": event_id,
        "room_id": scene.room_id,
        "type": "m.room.message",
        "sender": scene.ada.user_id,
        "sender_display_name": scene.ada.user_id[1:].partition(":")[0],
        "room_name": "The kitchen",
        "prio": "high",
        "content": {"msgtype": "m.text", "body": "hello 1"},
        "counts": {"unread": 1},
    }
    assert device.pop("pushkey_ts") > 1_700_000_000
    assert device == {
        "app_id": "org.example.app",
        "pushkey": f"key of {scene.bob.user_id}",
        "data": {"brand": "x"},
        "tweaks": {"sound": "default"},
    }


async def test_a_pusher_may_ask_for_less(pushing: Cluster, gateway: Gateway) -> None:
    scene = await open_scene(pushing, gateway)
    options = {"format": "event_id_only", "org.matrix.msc4076.disable_badge_count": True}
    await scene.set_pusher(data=options)

    event_id = await scene.say()
    notification = await scene.told(event_id)

    assert notification.keys() == {"event_id", "room_id", "prio", "devices"}
    assert notification["devices"][0]["data"] == {"brand": "x", **options}


async def test_reading_takes_the_number_off_the_icon(pushing: Cluster, gateway: Gateway) -> None:
    scene = await open_scene(pushing, gateway)
    await scene.set_pusher()
    event_id = await scene.say()
    await scene.told(event_id)

    room = f"{CLIENT}/rooms/{quote(scene.room_id)}"
    await scene.bob.ask("POST", f"{room}/receipt/m.read/{quote(event_id)}", {})
    await trio.to_thread.run_sync(gateway.wait_until, lambda: 0 in gateway.badges(), "a badge")
    again = await scene.told(await scene.say())

    assert again["counts"] == {"unread": 1}


async def test_a_gateway_that_fails_is_asked_again(pushing: Cluster, gateway: Gateway) -> None:
    scene = await open_scene(pushing, gateway)
    await scene.set_pusher()
    gateway.answers += [500, 404]

    sent = [await scene.say() for _ in range(3)]
    await scene.told(sent[-1])

    assert gateway.events() == sent
    assert gateway.asked == 5


async def test_a_rejected_pusher_is_deleted(pushing: Cluster, gateway: Gateway) -> None:
    scene = await open_scene(pushing, gateway)
    await scene.set_pusher()
    gateway.rejected.append(f"key of {scene.bob.user_id}")

    await scene.told(await scene.say())

    with trio.fail_after(60):
        while await scene.pushers():  # noqa: ASYNC110  the server is another process
            await trio.sleep(0.05)


async def test_pushers_go_with_their_device_and_stay_with_others(
    pushing: Cluster, gateway: Gateway
) -> None:
    scene = await open_scene(pushing, gateway)
    login = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": scene.bob.user_id},
        "password": "p",
    }
    other = Person(scene.bob.ports, scene.bob.rng, scene.bob.user_id)
    other.token = (await other.ask("POST", f"{CLIENT}/login", login)).json["access_token"]
    await scene.set_pusher(pushkey="mine")
    await scene.set_pusher(other, pushkey="other's")

    before = [one["pushkey"] for one in await scene.pushers()]
    await other.ask("POST", f"{CLIENT}/logout", {})

    assert sorted(before) == ["mine", "other's"]
    assert [one["pushkey"] for one in await scene.pushers()] == ["mine"]


async def test_a_pusher_that_moved_to_another_user_pushes_for_that_one_only(
    pushing: Cluster, gateway: Gateway
) -> None:
    scene = await open_scene(pushing, gateway)
    await scene.set_pusher()
    await scene.set_pusher(scene.ada)
    assert await scene.pushers() == []

    await scene.set_pusher(append=True)
    event_id = await scene.say()
    await scene.told(event_id)

    assert len(await scene.pushers(scene.ada)) == 1
    assert gateway.events() == [event_id]


async def test_a_pusher_that_is_off_misses_what_happens(pushing: Cluster, gateway: Gateway) -> None:
    scene = await open_scene(pushing, gateway)
    await scene.set_pusher()
    await scene.set_pusher(None, **{"org.matrix.msc3881.enabled": False})
    await scene.say()
    # What was said is weighed a moment later.
    with trio.fail_after(60):
        while await scene.unread() == 0:  # noqa: ASYNC110  the server is another process
            await trio.sleep(0.05)
    [shown] = await scene.pushers()
    assert shown["org.matrix.msc3881.enabled"] is False

    await scene.set_pusher(None, **{"org.matrix.msc3881.enabled": True})
    event_id = await scene.say()
    await scene.told(event_id)

    assert gateway.events() == [event_id]
