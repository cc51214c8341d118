"""Pushers of running servers with a push gateway: notifications, failures, deletion."""

import random
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import attrs
import pytest
import trio

from tests.support.ledger import CLIENT, Person
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.processes import Cluster, Layout, running_cluster
from tests.support.servers.push_gateway import Gateway, running_gateway
from tests.support.servers.redis import RedisServer

pytestmark = pytest.mark.process


@pytest.fixture(
    scope="module",
    params=["T0", pytest.param("T2", marks=[pytest.mark.postgres, pytest.mark.redis])],
)
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A server that may push to this machine; on T2, two processes divide the pushers."""
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
    """A running push gateway."""
    with running_gateway() as running:
        yield running


@attrs.define
class Scene:
    """Ada, who sends messages, and Bob, who has a pusher, in a room."""

    cluster: Cluster
    gateway: Gateway
    ada: Person
    bob: Person
    room_id: str = ""
    sent: int = 0

    async def say(self, content: Any = None, event_type: str = "m.room.message") -> str:
        """Send an event as Ada; return the event ID."""
        self.sent += 1
        room = f"{CLIENT}/rooms/{quote(self.room_id)}"
        target = f"{room}/send/{event_type}/t{self.sent}"
        body = content or {"msgtype": "m.text", "body": f"hello {self.sent}"}
        return str((await self.ada.request("PUT", target, body)).json["event_id"])

    async def set_pusher(self, person: Person | None = None, **more: Any) -> None:
        """Set a pusher for Bob, or for another person."""
        await (person or self.bob).request("POST", f"{CLIENT}/pushers/set", self.pusher(**more))

    def pusher(self, **more: Any) -> dict[str, Any]:
        """Return the content of a request to set a pusher."""
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
        """Return the pushers of Bob, or of another person."""
        answer = await (person or self.bob).request("GET", f"{CLIENT}/pushers")
        pushers: list[dict[str, Any]] = answer.json["pushers"]
        return pushers

    async def unread(self) -> int:
        """Return the number of Bob's unread notifications."""
        synced = (await self.bob.request("GET", f"{CLIENT}/sync")).json
        room = synced["rooms"]["join"][self.room_id]
        return int(room["unread_notifications"]["notification_count"])

    async def notification_of(self, event_id: str) -> dict[str, Any]:
        """Wait until the gateway is notified of an event; return the notification."""
        return await trio.to_thread.run_sync(self.gateway.of_event, event_id)


NAMES = iter(range(1000))


async def open_scene(cluster: Cluster, gateway: Gateway) -> Scene:
    ports = cluster.ports
    rng = random.Random(7)
    ada, bob = Person(ports, rng), Person(ports, rng)
    number = next(NAMES)
    await ada.register(f"ada{number}")
    await bob.register(f"bob{number}")
    scene = Scene(cluster, gateway, ada, bob)
    room = {"preset": "public_chat", "name": "The kitchen"}
    scene.room_id = (await ada.request("POST", f"{CLIENT}/createRoom", room)).json["room_id"]
    await bob.request("POST", f"{CLIENT}/join/{quote(scene.room_id)}", {})
    return scene


async def test_message_is_pushed_with_all_fields(cluster: Cluster, gateway: Gateway) -> None:
    scene = await open_scene(cluster, gateway)
    await scene.set_pusher()

    event_id = await scene.say()
    notification = await scene.notification_of(event_id)

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


async def test_event_id_only_pusher_gets_few_fields(cluster: Cluster, gateway: Gateway) -> None:
    scene = await open_scene(cluster, gateway)
    options = {"format": "event_id_only", "org.matrix.msc4076.disable_badge_count": True}
    await scene.set_pusher(data=options)

    event_id = await scene.say()
    notification = await scene.notification_of(event_id)

    assert notification.keys() == {"event_id", "room_id", "prio", "devices"}
    assert notification["devices"][0]["data"] == {"brand": "x", **options}


async def test_reading_resets_badge_count(cluster: Cluster, gateway: Gateway) -> None:
    scene = await open_scene(cluster, gateway)
    await scene.set_pusher()
    event_id = await scene.say()
    await scene.notification_of(event_id)

    room = f"{CLIENT}/rooms/{quote(scene.room_id)}"
    await scene.bob.request("POST", f"{room}/receipt/m.read/{quote(event_id)}", {})
    await trio.to_thread.run_sync(gateway.wait_until, lambda: 0 in gateway.badges(), "a badge")
    next_notification = await scene.notification_of(await scene.say())

    assert next_notification["counts"] == {"unread": 1}


async def test_failed_pushes_are_retried(cluster: Cluster, gateway: Gateway) -> None:
    scene = await open_scene(cluster, gateway)
    await scene.set_pusher()
    gateway.answers += [500, 404]

    sent = [await scene.say() for _ in range(3)]
    await scene.notification_of(sent[-1])

    assert gateway.events() == sent
    assert gateway.request_count == 5


async def test_rejected_pusher_is_deleted(cluster: Cluster, gateway: Gateway) -> None:
    scene = await open_scene(cluster, gateway)
    await scene.set_pusher()
    gateway.rejected.append(f"key of {scene.bob.user_id}")

    await scene.notification_of(await scene.say())

    with trio.fail_after(60):
        while await scene.pushers():  # noqa: ASYNC110  # the server is another process
            await trio.sleep(0.05)


async def test_logout_deletes_only_pushers_of_that_device(
    cluster: Cluster, gateway: Gateway
) -> None:
    scene = await open_scene(cluster, gateway)
    login = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": scene.bob.user_id},
        "password": "p",
    }
    second_device = Person(scene.bob.ports, scene.bob.rng, scene.bob.user_id)
    second_device.token = (await second_device.request("POST", f"{CLIENT}/login", login)).json[
        "access_token"
    ]
    await scene.set_pusher(pushkey="mine")
    await scene.set_pusher(second_device, pushkey="second")

    before_logout = [entry["pushkey"] for entry in await scene.pushers()]
    await second_device.request("POST", f"{CLIENT}/logout", {})

    assert sorted(before_logout) == ["mine", "second"]
    assert [entry["pushkey"] for entry in await scene.pushers()] == ["mine"]


async def test_pusher_moved_to_another_user_serves_only_that_user(
    cluster: Cluster, gateway: Gateway
) -> None:
    scene = await open_scene(cluster, gateway)
    await scene.set_pusher()
    await scene.set_pusher(scene.ada)
    assert await scene.pushers() == []

    await scene.set_pusher(append=True)
    event_id = await scene.say()
    await scene.notification_of(event_id)

    assert len(await scene.pushers(scene.ada)) == 1
    assert gateway.events() == [event_id]


async def test_disabled_pusher_skips_notifications(cluster: Cluster, gateway: Gateway) -> None:
    scene = await open_scene(cluster, gateway)
    await scene.set_pusher()
    await scene.set_pusher(None, **{"org.matrix.msc3881.enabled": False})
    await scene.say()
    # Push rules are evaluated a moment after the message is sent.
    with trio.fail_after(60):
        while await scene.unread() == 0:  # noqa: ASYNC110  # the server is another process
            await trio.sleep(0.05)
    [shown] = await scene.pushers()
    assert shown["org.matrix.msc3881.enabled"] is False

    await scene.set_pusher(None, **{"org.matrix.msc3881.enabled": True})
    event_id = await scene.say()
    await scene.notification_of(event_id)

    assert gateway.events() == [event_id]
