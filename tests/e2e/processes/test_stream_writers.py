"""Streams that are moved to a worker: it writes them, and all processes see the changes."""

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
from tests.support.ledger import CLIENT, Person
from tests.support.servers.http_client import HttpClient
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.processes import Cluster, running_cluster
from tests.support.servers.redis import RedisServer

pytestmark = [pytest.mark.process, pytest.mark.postgres, pytest.mark.redis]

WRITER = "sync1"
MOVED_STREAMS = tuple(
    name for name in STREAMS if name not in ("events", "quarantined_media_changes")
)
LIMIT_S = 240.0
THREADS_PATH = "/_matrix/client/unstable/io.element.msc4306/rooms"

Json = dict[str, Any]


@pytest.fixture(scope="module")
def cluster(postgres_server: PostgresServer, redis_server: RedisServer) -> Iterator[Cluster]:
    """A server whose worker writes all streams except events and quarantined media."""
    writers = dict.fromkeys(MOVED_STREAMS, WRITER)
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
class Pair:
    """Alice, who uses the main process, and Bob, who uses a reader; neither uses the writer."""

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
        """The path of Alice's user data."""
        return f"{CLIENT}/user/{quote(self.alice.user_id)}"


@attrs.frozen
class Effect:
    """A request of Alice, and the change that Bob or her other device sees in a sync."""

    method: str
    target: Callable[[Pair], str]
    body: Callable[[Pair], Json]
    seen_by_bob: bool
    shows: Callable[[Json, Pair], bool]


def has_ephemeral(answer: Json, pair: Pair, kind: str) -> bool:
    room = answer.get("rooms", {}).get("join", {}).get(pair.room_id, {})
    return kind in [edu["type"] for edu in room.get("ephemeral", {}).get("events", [])]


def has_account_data(answer: Json, kind: str) -> bool:
    return kind in [event["type"] for event in answer.get("account_data", {}).get("events", [])]


def device_keys(pair: Pair) -> Json:
    keys = {"user_id": pair.alice.user_id, "device_id": pair.device_id, "algorithms": []}
    return {"device_keys": {**keys, "keys": {}, "signatures": {}}}


EFFECTS = {
    "typing": Effect(
        "PUT",
        lambda pair: f"{pair.room}/typing/{quote(pair.alice.user_id)}",
        lambda _: {"typing": True, "timeout": 30_000},
        True,
        lambda answer, pair: has_ephemeral(answer, pair, "m.typing"),
    ),
    "receipts": Effect(
        "POST",
        lambda pair: f"{pair.room}/receipt/m.read/{quote(pair.event_id)}",
        lambda _: {},
        True,
        lambda answer, pair: has_ephemeral(answer, pair, "m.receipt"),
    ),
    "presence": Effect(
        "PUT",
        lambda pair: f"{CLIENT}/presence/{quote(pair.alice.user_id)}/status",
        lambda _: {"presence": "online", "status_msg": "moved"},
        True,
        lambda answer, _: "moved" in str(answer.get("presence")),
    ),
    "to_device": Effect(
        "PUT",
        lambda _: f"{CLIENT}/sendToDevice/m.test/t1",
        lambda pair: {"messages": {pair.bob.user_id: {"*": {"a": "letter"}}}},
        True,
        lambda answer, _: "letter" in str(answer.get("to_device")),
    ),
    "device_lists": Effect(
        "POST",
        lambda _: f"{CLIENT}/keys/upload",
        device_keys,
        True,
        lambda answer, pair: (
            pair.alice.user_id in answer.get("device_lists", {}).get("changed", [])
        ),
    ),
    "account_data": Effect(
        "PUT",
        lambda pair: f"{pair.own}/account_data/moved",
        lambda _: {"a": 1},
        False,
        lambda answer, _: has_account_data(answer, "moved"),
    ),
    "push_rules": Effect(
        "PUT",
        lambda _: f"{CLIENT}/pushrules/global/content/moved",
        lambda _: {"pattern": "moved", "actions": ["notify"]},
        False,
        lambda answer, _: has_account_data(answer, "m.push_rules"),
    ),
}


async def register_pair(cluster: Cluster, name: str) -> Pair:
    main, reader = cluster.processes["main"].port, cluster.processes["persister1"].port
    alice = Person([main], random.Random(1))
    bob = Person([reader], random.Random(2))
    await alice.register(f"alice-{name.replace('_', '-')}")
    await bob.register(f"bob-{name.replace('_', '-')}")
    created = await alice.request("POST", f"{CLIENT}/createRoom", {"preset": "public_chat"})
    room_id = created.json["room_id"]
    await bob.request("POST", f"{CLIENT}/join/{quote(room_id)}", {})
    target = f"{CLIENT}/rooms/{quote(room_id)}/send/m.room.message/1"
    sent = await bob.request("PUT", target, {"msgtype": "m.text", "body": "hello"})
    whoami = await alice.request("GET", f"{CLIENT}/account/whoami")
    return Pair(alice, bob, room_id, sent.json["event_id"], whoami.json["device_id"])


async def sync(person: Person, since: str = "", timeout_ms: int = 0) -> Json:
    target = f"{CLIENT}/sync?timeout={timeout_ms}" + (f"&since={quote(since)}" if since else "")
    answer: Json = (await person.request("GET", target)).json
    return answer


def test_plan_assigns_moved_streams_to_worker(cluster: Cluster) -> None:
    worker, main = (
        plan_of(load_settings(cluster.processes[name].configs)) for name in (WRITER, "main")
    )

    assert set(MOVED_STREAMS) <= set(worker.writes)
    assert not set(MOVED_STREAMS) & set(main.writes)


@pytest.mark.parametrize("stream", EFFECTS)
async def test_change_written_by_worker_is_seen_on_other_process(
    cluster: Cluster, stream: str
) -> None:
    effect = EFFECTS[stream]
    pair = await register_pair(cluster, stream)
    watcher = pair.bob if effect.seen_by_bob else attrs.evolve(pair.alice, ports=pair.bob.ports)
    since = (await sync(watcher))["next_batch"]

    await pair.alice.request(effect.method, effect.target(pair), effect.body(pair))

    with trio.fail_after(LIMIT_S):
        while True:
            answer = await sync(watcher, since, 10_000)
            if effect.shows(answer, pair):
                break
            since = answer["next_batch"]


async def test_thread_subscription_is_returned_by_other_process(cluster: Cluster) -> None:
    pair = await register_pair(cluster, "threads")
    target = f"{THREADS_PATH}/{quote(pair.room_id)}/thread/{quote(pair.event_id)}/subscription"
    alice_on_reader = attrs.evolve(pair.alice, ports=pair.bob.ports)

    await pair.alice.request("PUT", target, {})

    assert (await alice_on_reader.request("GET", target)).json == {"automatic": False}


async def test_pusher_is_returned_by_other_process(cluster: Cluster) -> None:
    pair = await register_pair(cluster, "pushers")
    alice_on_reader = attrs.evolve(pair.alice, ports=pair.bob.ports)
    pusher = {
        "kind": "http",
        "app_id": "app",
        "pushkey": "moved",
        "app_display_name": "App",
        "device_display_name": "Device",
        "lang": "en",
        "data": {"url": "https://push.example.org/_matrix/push/v1/notify"},
    }

    await pair.alice.request("POST", f"{CLIENT}/pushers/set", pusher)

    pushers = (await alice_on_reader.request("GET", f"{CLIENT}/pushers")).json["pushers"]
    assert [entry["pushkey"] for entry in pushers] == ["moved"]


async def test_restarted_reader_reports_end_of_typing(cluster: Cluster) -> None:
    pair = await register_pair(cluster, "stopped")
    typing, reader = EFFECTS["typing"], cluster.processes["persister1"]
    target = typing.target(pair)
    await pair.alice.request("PUT", target, {"typing": True, "timeout": 120_000})
    since = ""
    with trio.fail_after(LIMIT_S):
        while not typing.shows(answer := await sync(pair.bob, since, 10_000), pair):
            since = answer["next_batch"]

    await trio.to_thread.run_sync(reader.kill)
    try:
        await pair.alice.request("PUT", target, {"typing": False})
    finally:
        await trio.to_thread.run_sync(reader.start)
    answer = await sync(pair.bob, answer["next_batch"])

    edus = answer["rooms"]["join"][pair.room_id]["ephemeral"]["events"]
    assert [edu["content"] for edu in edus if edu["type"] == "m.typing"] == [{"user_ids": []}]


async def test_writes_fail_with_503_while_writer_is_down(cluster: Cluster) -> None:
    pair = await register_pair(cluster, "without")
    worker = cluster.processes[WRITER]
    statuses: dict[str, int] = {}

    async def attempt(stream: str) -> None:
        effect = EFFECTS[stream]
        async with HttpClient(pair.alice.ports[0], pair.alice.token) as client:
            answer = await client.request(
                effect.method, effect.target(pair), json=effect.body(pair)
            )
            statuses[stream] = answer.status

    await trio.to_thread.run_sync(worker.kill)
    try:
        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery:
                for stream in EFFECTS:
                    nursery.start_soon(attempt, stream)
            # Reading does not need the writer.
            await sync(pair.bob)
    finally:
        await trio.to_thread.run_sync(worker.start)

    assert statuses == dict.fromkeys(EFFECTS, 503)
    for effect in EFFECTS.values():
        await pair.alice.request(effect.method, effect.target(pair), effect.body(pair))
