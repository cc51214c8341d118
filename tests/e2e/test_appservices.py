"""Application services of running servers, with services that listen."""

import json
import random
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest
import trio

from tests.support.bridge import Asked, Bridge, running_bridge
from tests.support.bridged import Bridged, open_scene
from tests.support.http_client import HttpClient
from tests.support.ledger import CLIENT
from tests.support.postgres import PostgresServer
from tests.support.processes import SERVER_NAME, Cluster, Layout, running_cluster
from tests.support.redis import RedisServer

pytestmark = pytest.mark.process


@pytest.fixture(
    scope="module",
    params=["T0", pytest.param("T2", marks=[pytest.mark.postgres, pytest.mark.redis])],
)
def bridged(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bridged]:
    """A server with two services; on T2 a worker sends to them."""
    layout: Layout = request.param
    postgres: PostgresServer | None = None
    redis: RedisServer | None = None
    folder = tmp_path_factory.mktemp("registrations")
    with running_bridge("fax") as fax, running_bridge("pager") as pager:
        files = [fax.write(folder), pager.write(folder, protocols=["fax", "pager"])]
        settings: dict[str, Any] = {"app_service_config_files": files}
        if layout == "T2":
            postgres = request.getfixturevalue("postgres_server")
            redis = request.getfixturevalue("redis_server")
            settings["notify_appservices_from_worker"] = "sync1"
        with running_cluster(layout, postgres, redis, **settings) as cluster:
            yield Bridged(cluster, fax, pager)


async def test_a_service_gets_what_happens_where_its_users_are(bridged: Bridged) -> None:
    scene = await open_scene(bridged)
    unseen = await scene.say("before")
    await scene.add_ghost()
    event_id = await scene.say("hello")

    event = await scene.until(
        lambda: next((one for one in scene.fax.events if one["event_id"] == event_id), None),
        "the message",
    )

    assert event["content"]["body"] == "hello"
    assert event["room_id"] == scene.room_id
    assert event["sender"] == scene.ada.user_id
    ids = [one["event_id"] for one in scene.fax.events]
    assert unseen not in ids
    joins = [one for one in scene.fax.events if one.get("state_key") == scene.ghost]
    assert [one["content"]["membership"] for one in joins] == ["join"]
    assert event_id not in [one["event_id"] for one in bridged.pager.events]


async def test_a_service_speaks_for_its_users_at_times_of_its_own(bridged: Bridged) -> None:
    scene = await open_scene(bridged)
    await scene.add_ghost()
    target = f"{scene.room}/send/m.room.message/x1?user_id={quote(scene.ghost)}&ts=1234567"

    sent = await scene.ask("PUT", target, {"msgtype": "m.text", "body": "from the past"})
    event = await scene.ada.ask("GET", f"{scene.room}/event/{quote(sent.json['event_id'])}")

    assert event.json["sender"] == scene.ghost
    assert event.json["origin_server_ts"] == 1234567


async def test_masquerading_ends_at_the_namespaces(bridged: Bridged) -> None:
    scene = await open_scene(bridged)
    await scene.add_ghost()
    whoami = f"{CLIENT}/account/whoami"

    own = await scene.ask("GET", whoami)
    ghost = await scene.ask("GET", f"{whoami}?user_id={quote(scene.ghost)}")
    human = await scene.ask("GET", f"{whoami}?user_id={quote(scene.ada.user_id)}")
    nobody = await scene.ask("GET", f"{whoami}?user_id={quote('@_fax_nobody:' + SERVER_NAME)}")
    no_device = await scene.ask("GET", f"{whoami}?user_id={quote(scene.ghost)}&device_id=NONE")

    assert own.json["user_id"] == f"@faxbot:{SERVER_NAME}"
    assert ghost.json["user_id"] == scene.ghost
    assert (human.status, human.errcode) == (403, "M_FORBIDDEN")
    assert (nobody.status, nobody.errcode) == (403, "M_FORBIDDEN")
    assert (no_device.status, no_device.errcode) == (400, "M_UNKNOWN_DEVICE")


async def test_devices_come_and_go_without_logging_in(bridged: Bridged) -> None:
    scene = await open_scene(bridged)
    await scene.add_ghost()
    acting = f"user_id={quote(scene.ghost)}"
    device = f"{CLIENT}/devices/FAX1"

    made = await scene.ask("PUT", f"{device}?{acting}", {"display_name": "Fax"})
    again = await scene.ask("PUT", f"{device}?{acting}", {"display_name": "Fax 2"})
    shown = await scene.ask("GET", f"{CLIENT}/account/whoami?{acting}&device_id=FAX1")
    keys = await scene.ask(
        "POST", f"{CLIENT}/keys/upload?{acting}&org.matrix.msc3202.device_id=FAX1", {}
    )
    gone = await scene.ask("DELETE", f"{device}?{acting}", {})
    after = await scene.ask("GET", f"{CLIENT}/account/whoami?{acting}&device_id=FAX1")

    assert (made.status, again.status) == (201, 200)
    assert shown.json["device_id"] == "FAX1"
    assert keys.status == 200
    assert gone.status == 200
    assert after.errcode == "M_UNKNOWN_DEVICE"


async def test_names_of_a_namespace_are_nobody_elses(bridged: Bridged) -> None:
    scene = await open_scene(bridged)
    alias = quote(f"#_fax_{scene.number}:{SERVER_NAME}")
    directory = f"{CLIENT}/directory/room"
    room = {"room_id": scene.room_id}
    service = {"type": "m.login.application_service", "inhibit_login": True}

    async with HttpClient(scene.ada.ports[0], scene.ada.token) as human:
        taken = await human.put(f"{directory}/{alias}", room)
        account = {"username": "_fax_mine", "password": "p", "auth": {"type": "m.login.dummy"}}
        human.token = None
        registered = await human.post(f"{CLIENT}/register", account)
    outside = await scene.ask("POST", f"{CLIENT}/register", {**service, "username": "human"})
    foreign = await scene.ask("PUT", f"{directory}/{quote('#free:' + SERVER_NAME)}", room)
    own = await scene.ask("PUT", f"{directory}/{alias}", room)

    for refused in (taken, registered, outside, foreign):
        assert (refused.status, refused.errcode) == (400, "M_EXCLUSIVE"), refused.body
    assert own.status == 200


async def test_rooms_are_of_interest_by_their_aliases(bridged: Bridged) -> None:
    scene = await open_scene(bridged)
    await scene.say("before")
    alias = quote(f"#_fax_room{scene.number}:{SERVER_NAME}")
    made = await scene.ask("PUT", f"{CLIENT}/directory/room/{alias}", {"room_id": scene.room_id})
    assert made.status == 200, made.body

    async def until_told() -> None:
        # The process that sends hears of aliases by another way than of events.
        with trio.fail_after(60):
            while not any(one["room_id"] == scene.room_id for one in scene.fax.events):
                await scene.say("named")
                await trio.sleep(0.05)

    await until_told()
    await scene.ask("DELETE", f"{CLIENT}/directory/room/{alias}")


async def test_a_service_makes_users_and_rooms_when_it_is_asked(bridged: Bridged) -> None:
    scene = await open_scene(bridged)
    url = bridged.cluster.any_url()
    wanted = f"@_fax_new{scene.number}:{SERVER_NAME}"
    alias = f"#_fax_new{scene.number}:{SERVER_NAME}"

    def make_user(asked: Asked) -> tuple[int, Any]:
        name = {"type": "m.login.application_service", "username": wanted[1:].split(":")[0]}
        _blocking(scene.fax, "POST", f"{url}{CLIENT}/register", {**name, "inhibit_login": True})
        return 200, {}

    def make_alias(asked: Asked) -> tuple[int, Any]:
        target = f"{url}{CLIENT}/directory/room/{quote(alias)}"
        _blocking(scene.fax, "PUT", target, {"room_id": scene.room_id})
        return 200, {}

    scene.fax.pages[f"/_matrix/app/v1/users/{wanted}"] = make_user
    scene.fax.pages[f"/_matrix/app/v1/rooms/{alias}"] = make_alias
    await scene.ada.ask("POST", f"{scene.room}/invite", {"user_id": wanted})
    found = await scene.ada.ask("GET", f"{CLIENT}/directory/room/{quote(alias)}")
    profile = await scene.ada.ask("GET", f"{CLIENT}/profile/{quote(wanted)}")
    invite = await scene.until(
        lambda: next((one for one in scene.fax.events if one.get("state_key") == wanted), None),
        "the invite",
    )
    joined = await scene.ask("POST", f"{scene.room}/join?user_id={quote(wanted)}", {})

    assert found.json["room_id"] == scene.room_id
    assert profile.json["displayname"] == f"_fax_new{scene.number}"
    assert invite["content"]["membership"] == "invite"
    names = [one["type"] for one in invite["unsigned"]["invite_room_state"]]
    assert {"m.room.create", "m.room.name", "m.room.member"} <= set(names)
    assert joined.status == 200


def _blocking(bridge: Bridge, method: str, url: str, content: Any) -> None:
    headers = {"authorization": f"Bearer {bridge.as_token}", "content-type": "application/json"}
    with urlopen(Request(url, json.dumps(content).encode(), headers, method=method)) as answer:
        assert answer.status == 200


async def test_networks_are_put_together(bridged: Bridged) -> None:
    scene = await open_scene(bridged)
    base = "/_matrix/app/v1/thirdparty"

    def protocol(*networks: str) -> Any:
        instances = [{"network_id": one, "desc": one, "fields": {}} for one in networks]
        known = {"user_fields": ["number"], "location_fields": [], "icon": "mxc://a/b"}
        return lambda asked: (200, {**known, "field_types": {}, "instances": instances})

    user_id = f"@_fax_1:{SERVER_NAME}"
    found = {"protocol": "fax", "fields": {"number": "1"}, "userid": user_id}
    bridged.fax.pages[f"{base}/protocol/fax"] = protocol("de", "fr")
    bridged.pager.pages[f"{base}/protocol/fax"] = protocol("uk")
    bridged.fax.pages[f"{base}/user/fax"] = lambda asked: (200, [found, {"protocol": 1}])
    bridged.fax.pages[f"{base}/user"] = lambda asked: (200, [found])

    protocols = await scene.ada.ask("GET", f"{CLIENT}/thirdparty/protocols")
    users = await scene.ada.ask("GET", f"{CLIENT}/thirdparty/user/fax?number=1")
    back = await scene.ada.ask("GET", f"{CLIENT}/thirdparty/user?userid={quote(user_id)}")

    instances = protocols.json["fax"]["instances"]
    assert {one["instance_id"] for one in instances} == {"fax|de", "fax|fr", "pager|uk"}
    assert users.json == back.json == [found]
    asked = [one for one in bridged.fax.asked if one.path == f"{base}/user/fax"]
    assert asked[-1].query == "number=1"


async def test_a_service_can_see_whether_it_is_reached(bridged: Bridged) -> None:
    scene = await open_scene(bridged)
    target = "/_matrix/client/v1/appservice/{}/ping"
    page = "/_matrix/app/v1/ping"
    seen: list[Any] = []

    def answer(asked: Asked) -> tuple[int, Any]:
        seen.append(asked.body)
        return 200, {}

    scene.fax.pages[page] = answer
    reached = await scene.ask("POST", target.format("fax"), {"transaction_id": "meow"})
    other = await scene.ask("POST", target.format("pager"), {})
    scene.fax.pages[page] = lambda asked: (418, {"errcode": "TEAPOT"})
    failed = await scene.ask("POST", target.format("fax"), {})

    assert reached.json["duration_ms"] >= 0
    assert seen == [{"transaction_id": "meow"}]
    assert (other.status, other.errcode) == (403, "M_FORBIDDEN")
    assert (failed.status, failed.errcode, failed.json["status"]) == (502, "M_BAD_STATUS", 418)


async def test_networks_have_lists_of_rooms(bridged: Bridged) -> None:
    scene = await open_scene(bridged)
    target = f"{CLIENT}/directory/list/appservice/de/{quote(scene.room_id)}"

    async def listed(**asked: Any) -> bool:
        found = await scene.ada.ask("POST", f"{CLIENT}/publicRooms", asked)
        return scene.room_id in [one["room_id"] for one in found.json["chunk"]]

    put = await scene.ask("PUT", target, {"visibility": "public"})

    assert put.status == 200
    assert not await listed()
    assert await listed(third_party_instance_id="fax|de")
    assert not await listed(third_party_instance_id="pager|de")
    assert await listed(include_all_networks=True)
    assert (await scene.ask("PUT", target, {"visibility": "private"})).status == 200
    assert not await listed(include_all_networks=True)


async def test_what_passes_is_sent_as_well(bridged: Bridged) -> None:
    scene = await open_scene(bridged)
    await scene.add_ghost()
    event_id = await scene.say("read me")
    ada = scene.ada.user_id
    await scene.ada.ask("PUT", f"{scene.room}/typing/{quote(ada)}", {"typing": True})
    private = f"{scene.room}/receipt/m.read.private/{quote(event_id)}"
    await scene.ada.ask("POST", private, {})
    await scene.ada.ask("POST", f"{scene.room}/receipt/m.read/{quote(event_id)}", {})
    await scene.ada.ask("PUT", f"{CLIENT}/presence/{quote(ada)}/status", {"presence": "online"})

    def of_room(kind: str) -> list[Any]:
        found = scene.fax.parts("ephemeral")
        return [one for one in found if one["type"] == kind and one["room_id"] == scene.room_id]

    typing = await scene.until(lambda: of_room("m.typing"), "typing")
    receipts = await scene.until(lambda: of_room("m.receipt"), "the receipt")
    await scene.until(
        lambda: [
            one
            for one in scene.fax.parts("ephemeral")
            if one["type"] == "m.presence" and one["sender"] == ada
        ],
        "presence",
    )

    assert typing[0]["content"] == {"user_ids": [ada]}
    kinds = {kind for one in receipts for kinds in one["content"].values() for kind in kinds}
    assert kinds == {"m.read"}
    assert ada in receipts[-1]["content"][event_id]["m.read"]


async def test_messages_to_devices_of_its_users_reach_a_service(bridged: Bridged) -> None:
    scene = await open_scene(bridged)
    await scene.add_ghost()
    acting = f"user_id={quote(scene.ghost)}"
    made = await scene.ask("PUT", f"{CLIENT}/devices/FAX1?{acting}", {})
    assert made.status == 201
    key = {"curve25519:AAAA": "a" * 43}
    keys = await scene.ask(
        "POST", f"{CLIENT}/keys/upload?{acting}&device_id=FAX1", {"one_time_keys": key}
    )
    assert keys.status == 200, keys.body
    message = {"messages": {scene.ghost: {"FAX1": {"body": "psst"}}}}
    await scene.ada.ask("PUT", f"{CLIENT}/sendToDevice/x.test/{scene.number}", message)

    def messages() -> list[Any]:
        found = scene.fax.parts("de.sorunome.msc2409.to_device")
        return [one for one in found if one["to_user_id"] == scene.ghost]

    def counts() -> list[Any]:
        found = scene.fax.objects("org.matrix.msc3202.device_one_time_keys_count")
        return [one[scene.ghost]["FAX1"] for one in found if scene.ghost in one]

    def changed() -> list[Any]:
        found = scene.fax.objects("org.matrix.msc3202.device_lists")
        return [user_id for one in found for user_id in one["changed"]]

    received = await scene.until(messages, "the message")
    await scene.until(lambda: any(one.get("curve25519") == 1 for one in counts()), "counts")
    await scene.until(lambda: scene.ghost in changed(), "the device list")

    assert received == [
        {
            "type": "x.test",
            "sender": scene.ada.user_id,
            "content": {"body": "psst"},
            "to_user_id": scene.ghost,
            "to_device_id": "FAX1",
        }
    ]


async def test_what_happens_while_nobody_sends_comes_later(bridged: Bridged) -> None:
    if bridged.cluster.layout == "T0":
        pytest.skip("the one process does everything")
    scene = await open_scene(bridged)
    await scene.add_ghost()
    acting = f"user_id={quote(scene.ghost)}"
    assert (await scene.ask("PUT", f"{CLIENT}/devices/FAX1?{acting}", {})).status == 201
    first = await scene.say("first")
    await scene.until(lambda: "first" in scene.fax.texts(), "the first")
    sender = bridged.cluster.processes["sync1"]
    others = [one for one in scene.ada.ports if one != sender.port]
    scene.ada.ports = others
    await trio.to_thread.run_sync(sender.kill)

    event_id = await scene.say("missed")
    await scene.ada.ask("POST", f"{scene.room}/receipt/m.read/{quote(first)}", {})
    message = {"messages": {scene.ghost: {"FAX1": {"body": "missed"}}}}
    await scene.ada.ask("PUT", f"{CLIENT}/sendToDevice/x.test/m{scene.number}", message)
    await trio.to_thread.run_sync(sender.start)

    await scene.until(
        lambda: event_id in [one["event_id"] for one in scene.fax.events], "the event"
    )
    await scene.until(
        lambda: [one for one in scene.fax.parts("ephemeral") if first in one["content"]],
        "the receipt",
    )
    await scene.until(
        lambda: [
            one
            for one in scene.fax.parts("de.sorunome.msc2409.to_device")
            if one["to_user_id"] == scene.ghost
        ],
        "the message",
    )


async def test_a_refused_transaction_is_sent_again_word_for_word(bridged: Bridged) -> None:
    scene = await open_scene(bridged)
    await scene.add_ghost()
    await scene.say("first")
    await scene.until(lambda: "first" in scene.fax.texts(), "the first")
    scene.fax.refuses = 2

    await scene.say(f"stubborn {scene.number}")
    await scene.say(f"next {scene.number}")
    await scene.until(lambda: f"next {scene.number}" in scene.fax.texts(), "what waited")

    texts = scene.fax.texts()
    assert texts.count(f"stubborn {scene.number}") == texts.count(f"next {scene.number}") == 1
    assert scene.fax.changed == []


async def restart_one(cluster: Cluster, rng: random.Random, one_at_a_time: trio.Lock) -> None:
    """End a process, politely or not, and start it again."""
    async with one_at_a_time:
        process = rng.choice(list(cluster.processes.values()))
        await trio.to_thread.run_sync(process.kill if rng.random() < 0.5 else process.stop)
        await trio.to_thread.run_sync(process.start)


async def _each_once_in_order(bridged: Bridged, events: int, restarts: int) -> None:
    scene = await open_scene(bridged)
    await scene.add_ghost()
    rng, lock = random.Random(3), trio.Lock()
    prefix = f"{scene.number} event "
    wanted = [f"{prefix}{n}" for n in range(events)]
    async with trio.open_nursery() as nursery:
        for n, text in enumerate(wanted):
            if n % (events // restarts) == 0:
                nursery.start_soon(restart_one, bridged.cluster, rng, lock)
            await scene.say(text)

    def told() -> list[str]:
        return [text for text in scene.fax.texts() if text.startswith(prefix)]

    await scene.until(lambda: len(told()) >= events, "all of them")

    assert told() == wanted
    assert scene.fax.changed == []


async def test_each_event_comes_once_in_order_over_restarts(bridged: Bridged) -> None:
    await _each_once_in_order(bridged, 300, 4)


@pytest.mark.long
async def test_ten_thousand_events_come_once_in_order(bridged: Bridged) -> None:
    await _each_once_in_order(bridged, 10_000, 40)
