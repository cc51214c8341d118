"""Every stream may be moved to a worker: it is written there, and its effect arrives everywhere."""

import random
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import attrs
import pytest
import trio

from hs.nursery.plan import plan_of
from hs.settings.load import load_settings
from hs.settings.sections.workers import STREAMS
from tests.support.http_client import HttpClient
from tests.support.ledger import CLIENT, Person
from tests.support.postgres import PostgresServer
from tests.support.processes import Cluster, running_cluster
from tests.support.redis import RedisServer

pytestmark = [pytest.mark.process, pytest.mark.postgres, pytest.mark.redis]

WRITER = "sync1"
MOVED = tuple(name for name in STREAMS if name not in ("events", "quarantined_media_changes"))
LIMIT_S = 240.0
THREADS = "/_matrix/client/unstable/io.element.msc4306/rooms"

Answer = dict[str, Any]


@pytest.fixture(scope="module")
def cluster(postgres_server: PostgresServer, redis_server: RedisServer) -> Iterator[Cluster]:
    """A server whose worker writes every stream but that of events."""
    writers = dict.fromkeys(MOVED, WRITER)
    features = {"msc4306_enabled": True}
    with running_cluster(
        "T2",
        postgres_server,
        redis_server,
        stream_writers=writers,
        experimental_features=features,
    ) as running:
        yield running


@attrs.frozen
class Two:
    """Alice acts at the main process; Bob looks at another one. Neither is at the writer."""

    alice: Person
    bob: Person
    room_id: str
    event_id: str
    device_id: str

    @property
    def room(self) -> str:
        """The path of their room."""
        return f"{CLIENT}/rooms/{quote(self.room_id)}"

    @property
    def own(self) -> str:
        """The path of Alice's own things."""
        return f"{CLIENT}/user/{quote(self.alice.user_id)}"


@attrs.frozen
class Effect:
    """A request of Alice's, and what somebody (her other device, or Bob) then sees in a sync."""

    method: str
    target: Callable[[Two], str]
    body: Callable[[Two], Answer]
    seen_by_bob: bool
    shows: Callable[[Answer, Two], bool]


def in_room(answer: Answer, two: Two, kind: str) -> bool:
    room = answer.get("rooms", {}).get("join", {}).get(two.room_id, {})
    return kind in [one["type"] for one in room.get("ephemeral", {}).get("events", [])]


def in_account(answer: Answer, kind: str) -> bool:
    return kind in [one["type"] for one in answer.get("account_data", {}).get("events", [])]


def device_keys(two: Two) -> Answer:
    keys = {"user_id": two.alice.user_id, "device_id": two.device_id, "algorithms": []}
    return {"device_keys": {**keys, "keys": {}, "signatures": {}}}


EFFECTS = {
    "typing": Effect(
        "PUT",
        lambda two: f"{two.room}/typing/{quote(two.alice.user_id)}",
        lambda _: {"typing": True, "timeout": 30_000},
        True,
        lambda answer, two: in_room(answer, two, "m.typing"),
    ),
    "receipts": Effect(
        "POST",
        lambda two: f"{two.room}/receipt/m.read/{quote(two.event_id)}",
        lambda _: {},
        True,
        lambda answer, two: in_room(answer, two, "m.receipt"),
    ),
    "presence": Effect(
        "PUT",
        lambda two: f"{CLIENT}/presence/{quote(two.alice.user_id)}/status",
        lambda _: {"presence": "online", "status_msg": "moved"},
        True,
        lambda answer, _: "moved" in str(answer.get("presence")),
    ),
    "to_device": Effect(
        "PUT",
        lambda _: f"{CLIENT}/sendToDevice/m.test/t1",
        lambda two: {"messages": {two.bob.user_id: {"*": {"a": "letter"}}}},
        True,
        lambda answer, _: "letter" in str(answer.get("to_device")),
    ),
    "device_lists": Effect(
        "POST",
        lambda _: f"{CLIENT}/keys/upload",
        device_keys,
        True,
        lambda answer, two: two.alice.user_id in answer.get("device_lists", {}).get("changed", []),
    ),
    "account_data": Effect(
        "PUT",
        lambda two: f"{two.own}/account_data/moved",
        lambda _: {"a": 1},
        False,
        lambda answer, _: in_account(answer, "moved"),
    ),
    "push_rules": Effect(
        "PUT",
        lambda _: f"{CLIENT}/pushrules/global/content/moved",
        lambda _: {"pattern": "moved", "actions": ["notify"]},
        False,
        lambda answer, _: in_account(answer, "m.push_rules"),
    ),
}


async def two_in_a_room(cluster: Cluster, name: str) -> Two:
    main, reader = cluster.processes["main"].port, cluster.processes["persister1"].port
    alice = Person([main], random.Random(1))
    bob = Person([reader], random.Random(2))
    await alice.register(f"alice-{name.replace('_', '-')}")
    await bob.register(f"bob-{name.replace('_', '-')}")
    made = await alice.ask("POST", f"{CLIENT}/createRoom", {"preset": "public_chat"})
    room_id = made.json["room_id"]
    await bob.ask("POST", f"{CLIENT}/join/{quote(room_id)}", {})
    target = f"{CLIENT}/rooms/{quote(room_id)}/send/m.room.message/1"
    sent = await bob.ask("PUT", target, {"msgtype": "m.text", "body": "hello"})
    who = await alice.ask("GET", f"{CLIENT}/account/whoami")
    return Two(alice, bob, room_id, sent.json["event_id"], who.json["device_id"])


async def sync(person: Person, since: str = "", timeout_ms: int = 0) -> Answer:
    target = f"{CLIENT}/sync?timeout={timeout_ms}" + (f"&since={quote(since)}" if since else "")
    answer: Answer = (await person.ask("GET", target)).json
    return answer


def test_the_plan_has_each_stream_where_the_setting_says(cluster: Cluster) -> None:
    worker, main = (
        plan_of(load_settings(cluster.processes[name].configs)) for name in (WRITER, "main")
    )

    assert set(MOVED) <= set(worker.writes)
    assert not set(MOVED) & set(main.writes)


@pytest.mark.parametrize("stream", EFFECTS)
async def test_what_a_worker_writes_is_seen_at_another(cluster: Cluster, stream: str) -> None:
    effect = EFFECTS[stream]
    two = await two_in_a_room(cluster, stream)
    watcher = two.bob if effect.seen_by_bob else attrs.evolve(two.alice, ports=two.bob.ports)
    since = (await sync(watcher))["next_batch"]

    await two.alice.ask(effect.method, effect.target(two), effect.body(two))

    with trio.fail_after(LIMIT_S):
        while True:
            answer = await sync(watcher, since, 10_000)
            if effect.shows(answer, two):
                break
            since = answer["next_batch"]


async def test_a_subscription_to_a_thread_is_known_at_another(cluster: Cluster) -> None:
    two = await two_in_a_room(cluster, "threads")
    target = f"{THREADS}/{quote(two.room_id)}/thread/{quote(two.event_id)}/subscription"
    elsewhere = attrs.evolve(two.alice, ports=two.bob.ports)

    await two.alice.ask("PUT", target, {})

    assert (await elsewhere.ask("GET", target)).json == {"automatic": False}


async def test_a_pusher_is_known_at_another(cluster: Cluster) -> None:
    two = await two_in_a_room(cluster, "pushers")
    elsewhere = attrs.evolve(two.alice, ports=two.bob.ports)
    pusher = {
        "kind": "http",
        "app_id": "app",
        "pushkey": "moved",
        "app_display_name": "App",
        "device_display_name": "Device",
        "lang": "en",
        "data": {"url": "https://push.example.org/_matrix/push/v1/notify"},
    }

    await two.alice.ask("POST", f"{CLIENT}/pushers/set", pusher)

    known = (await elsewhere.ask("GET", f"{CLIENT}/pushers")).json["pushers"]
    assert [one["pushkey"] for one in known] == ["moved"]


async def test_who_stopped_typing_while_a_reader_was_away_is_told_by_it(cluster: Cluster) -> None:
    two = await two_in_a_room(cluster, "stopped")
    typing, reader = EFFECTS["typing"], cluster.processes["persister1"]
    target = typing.target(two)
    await two.alice.ask("PUT", target, {"typing": True, "timeout": 120_000})
    since = ""
    with trio.fail_after(LIMIT_S):
        while not typing.shows(answer := await sync(two.bob, since, 10_000), two):
            since = answer["next_batch"]

    await trio.to_thread.run_sync(reader.kill)
    try:
        await two.alice.ask("PUT", target, {"typing": False})
    finally:
        await trio.to_thread.run_sync(reader.start)
    answer = await sync(two.bob, answer["next_batch"])

    told = answer["rooms"]["join"][two.room_id]["ephemeral"]["events"]
    assert [one["content"] for one in told if one["type"] == "m.typing"] == [{"user_ids": []}]


async def test_without_the_writer_nobody_writes_and_others_say_so_soon(cluster: Cluster) -> None:
    two = await two_in_a_room(cluster, "without")
    worker = cluster.processes[WRITER]
    statuses: dict[str, int] = {}

    async def attempt(stream: str) -> None:
        effect = EFFECTS[stream]
        async with HttpClient(two.alice.ports[0], two.alice.token) as client:
            answer = await client.ask(effect.method, effect.target(two), json=effect.body(two))
            statuses[stream] = answer.status

    await trio.to_thread.run_sync(worker.kill)
    try:
        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery:
                for stream in EFFECTS:
                    nursery.start_soon(attempt, stream)
            # Who only reads is not concerned.
            await sync(two.bob)
    finally:
        await trio.to_thread.run_sync(worker.start)

    assert statuses == dict.fromkeys(EFFECTS, 503)
    for effect in EFFECTS.values():
        await two.alice.ask(effect.method, effect.target(two), effect.body(two))
