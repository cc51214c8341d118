"""Application services that receive transactions and queries from a running server."""

import json
import random
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest
import trio

from tests.support.bridged import BridgedServer, open_scene
from tests.support.ledger import CLIENT
from tests.support.servers.appservice_bridge import Bridge, BridgeRequest, running_bridge
from tests.support.servers.http_client import HttpClient
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.processes import SERVER_NAME, Cluster, Layout, running_cluster
from tests.support.servers.redis import RedisServer

pytestmark = pytest.mark.process


@pytest.fixture(
    scope="module",
    params=["T0", pytest.param("T2", marks=[pytest.mark.postgres, pytest.mark.redis])],
)
def bridged(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BridgedServer]:
    """A server with two application services; on T2 a worker sends their transactions."""
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
            yield BridgedServer(cluster, fax, pager)


async def test_service_receives_events_of_rooms_that_its_users_are_in(
    bridged: BridgedServer,
) -> None:
    scene = await open_scene(bridged)
    earlier_id = await scene.say("before")
    await scene.add_ghost()
    event_id = await scene.say("hello")

    event = await scene.until(
        lambda: next((e for e in scene.fax.events if e["event_id"] == event_id), None),
        "the message",
    )

    assert event["content"]["body"] == "hello"
    assert event["room_id"] == scene.room_id
    assert event["sender"] == scene.ada.user_id
    event_ids = [event["event_id"] for event in scene.fax.events]
    assert earlier_id not in event_ids
    joins = [event for event in scene.fax.events if event.get("state_key") == scene.ghost]
    assert [join["content"]["membership"] for join in joins] == ["join"]
    assert event_id not in [event["event_id"] for event in bridged.pager.events]


async def test_service_sends_for_its_users_with_chosen_timestamp(bridged: BridgedServer) -> None:
    scene = await open_scene(bridged)
    await scene.add_ghost()
    target = f"{scene.room}/send/m.room.message/x1?user_id={quote(scene.ghost)}&ts=1234567"

    sent = await scene.request("PUT", target, {"msgtype": "m.text", "body": "from the past"})
    event = await scene.ada.request("GET", f"{scene.room}/event/{quote(sent.json['event_id'])}")

    assert event.json["sender"] == scene.ghost
    assert event.json["origin_server_ts"] == 1234567


async def test_service_acts_only_for_users_of_its_namespaces(bridged: BridgedServer) -> None:
    scene = await open_scene(bridged)
    await scene.add_ghost()
    whoami = f"{CLIENT}/account/whoami"

    own_sender = await scene.request("GET", whoami)
    ghost = await scene.request("GET", f"{whoami}?user_id={quote(scene.ghost)}")
    foreign_user = await scene.request("GET", f"{whoami}?user_id={quote(scene.ada.user_id)}")
    unregistered = await scene.request(
        "GET", f"{whoami}?user_id={quote('@_fax_nobody:' + SERVER_NAME)}"
    )
    unknown_device = await scene.request(
        "GET", f"{whoami}?user_id={quote(scene.ghost)}&device_id=NONE"
    )

    assert own_sender.json["user_id"] == f"@faxbot:{SERVER_NAME}"
    assert ghost.json["user_id"] == scene.ghost
    assert (foreign_user.status, foreign_user.errcode) == (403, "M_FORBIDDEN")
    assert (unregistered.status, unregistered.errcode) == (403, "M_FORBIDDEN")
    assert (unknown_device.status, unknown_device.errcode) == (400, "M_UNKNOWN_DEVICE")


async def test_service_creates_and_deletes_devices_without_login(bridged: BridgedServer) -> None:
    scene = await open_scene(bridged)
    await scene.add_ghost()
    as_ghost = f"user_id={quote(scene.ghost)}"
    device = f"{CLIENT}/devices/FAX1"

    created = await scene.request("PUT", f"{device}?{as_ghost}", {"display_name": "Fax"})
    updated = await scene.request("PUT", f"{device}?{as_ghost}", {"display_name": "Fax 2"})
    whoami = await scene.request("GET", f"{CLIENT}/account/whoami?{as_ghost}&device_id=FAX1")
    keys = await scene.request(
        "POST", f"{CLIENT}/keys/upload?{as_ghost}&org.matrix.msc3202.device_id=FAX1", {}
    )
    deleted = await scene.request("DELETE", f"{device}?{as_ghost}", {})
    after_deletion = await scene.request(
        "GET", f"{CLIENT}/account/whoami?{as_ghost}&device_id=FAX1"
    )

    assert (created.status, updated.status) == (201, 200)
    assert whoami.json["device_id"] == "FAX1"
    assert keys.status == 200
    assert deleted.status == 200
    assert after_deletion.errcode == "M_UNKNOWN_DEVICE"


async def test_names_of_exclusive_namespace_are_refused_to_others(bridged: BridgedServer) -> None:
    scene = await open_scene(bridged)
    alias = quote(f"#_fax_{scene.number}:{SERVER_NAME}")
    directory = f"{CLIENT}/directory/room"
    room = {"room_id": scene.room_id}
    service = {"type": "m.login.application_service", "inhibit_login": True}

    async with HttpClient(scene.ada.ports[0], scene.ada.token) as client:
        alias_of_user = await client.put(f"{directory}/{alias}", room)
        account = {"username": "_fax_mine", "password": "p", "auth": {"type": "m.login.dummy"}}
        client.token = None
        registration_of_user = await client.post(f"{CLIENT}/register", account)
    registration_outside_namespace = await scene.request(
        "POST", f"{CLIENT}/register", {**service, "username": "human"}
    )
    alias_outside_namespace = await scene.request(
        "PUT", f"{directory}/{quote('#free:' + SERVER_NAME)}", room
    )
    own_alias = await scene.request("PUT", f"{directory}/{alias}", room)

    for refused in (
        alias_of_user,
        registration_of_user,
        registration_outside_namespace,
        alias_outside_namespace,
    ):
        assert (refused.status, refused.errcode) == (400, "M_EXCLUSIVE"), refused.body
    assert own_alias.status == 200


async def test_service_receives_events_of_rooms_with_its_aliases(bridged: BridgedServer) -> None:
    scene = await open_scene(bridged)
    await scene.say("before")
    alias = quote(f"#_fax_room{scene.number}:{SERVER_NAME}")
    added = await scene.request(
        "PUT", f"{CLIENT}/directory/room/{alias}", {"room_id": scene.room_id}
    )
    assert added.status == 200, added.body

    async def send_until_received() -> None:
        # The sending process learns of the alias independently of the order of events, so the
        # first messages may not be sent to the service.
        with trio.fail_after(60):
            while not any(event["room_id"] == scene.room_id for event in scene.fax.events):
                await scene.say("named")
                await trio.sleep(0.05)

    await send_until_received()
    await scene.request("DELETE", f"{CLIENT}/directory/room/{alias}")


async def test_queried_service_creates_user_and_alias(bridged: BridgedServer) -> None:
    scene = await open_scene(bridged)
    url = bridged.cluster.any_url()
    new_user_id = f"@_fax_new{scene.number}:{SERVER_NAME}"
    alias = f"#_fax_new{scene.number}:{SERVER_NAME}"

    def make_user(request: BridgeRequest) -> tuple[int, Any]:
        account = {"type": "m.login.application_service", "username": new_user_id[1:].split(":")[0]}
        request_as_service(
            scene.fax, "POST", f"{url}{CLIENT}/register", {**account, "inhibit_login": True}
        )
        return 200, {}

    def make_alias(request: BridgeRequest) -> tuple[int, Any]:
        target = f"{url}{CLIENT}/directory/room/{quote(alias)}"
        request_as_service(scene.fax, "PUT", target, {"room_id": scene.room_id})
        return 200, {}

    scene.fax.pages[f"/_matrix/app/v1/users/{new_user_id}"] = make_user
    scene.fax.pages[f"/_matrix/app/v1/rooms/{alias}"] = make_alias
    await scene.ada.request("POST", f"{scene.room}/invite", {"user_id": new_user_id})
    directory_entry = await scene.ada.request("GET", f"{CLIENT}/directory/room/{quote(alias)}")
    profile = await scene.ada.request("GET", f"{CLIENT}/profile/{quote(new_user_id)}")
    invite = await scene.until(
        lambda: next((e for e in scene.fax.events if e.get("state_key") == new_user_id), None),
        "the invite",
    )
    joined = await scene.request("POST", f"{scene.room}/join?user_id={quote(new_user_id)}", {})

    assert directory_entry.json["room_id"] == scene.room_id
    assert profile.json["displayname"] == f"_fax_new{scene.number}"
    assert invite["content"]["membership"] == "invite"
    stripped_types = [stripped["type"] for stripped in invite["unsigned"]["invite_room_state"]]
    assert {"m.room.create", "m.room.name", "m.room.member"} <= set(stripped_types)
    assert joined.status == 200


def request_as_service(bridge: Bridge, method: str, url: str, content: Any) -> None:
    """Send a request with the service's token; blocks, so call it in the service's thread only."""
    headers = {"authorization": f"Bearer {bridge.as_token}", "content-type": "application/json"}
    with urlopen(Request(url, json.dumps(content).encode(), headers, method=method)) as response:
        assert response.status == 200


async def test_third_party_protocols_of_services_are_merged(bridged: BridgedServer) -> None:
    scene = await open_scene(bridged)
    base = "/_matrix/app/v1/thirdparty"

    def protocol(*networks: str) -> Any:
        instances = [{"network_id": network, "desc": network, "fields": {}} for network in networks]
        description = {"user_fields": ["number"], "location_fields": [], "icon": "mxc://a/b"}
        return lambda request: (200, {**description, "field_types": {}, "instances": instances})

    user_id = f"@_fax_1:{SERVER_NAME}"
    third_party_user = {"protocol": "fax", "fields": {"number": "1"}, "userid": user_id}
    bridged.fax.pages[f"{base}/protocol/fax"] = protocol("de", "fr")
    bridged.pager.pages[f"{base}/protocol/fax"] = protocol("uk")
    bridged.fax.pages[f"{base}/user/fax"] = lambda request: (
        200,
        [third_party_user, {"protocol": 1}],
    )
    bridged.fax.pages[f"{base}/user"] = lambda request: (200, [third_party_user])

    protocols = await scene.ada.request("GET", f"{CLIENT}/thirdparty/protocols")
    users = await scene.ada.request("GET", f"{CLIENT}/thirdparty/user/fax?number=1")
    users_by_id = await scene.ada.request(
        "GET", f"{CLIENT}/thirdparty/user?userid={quote(user_id)}"
    )

    instances = protocols.json["fax"]["instances"]
    assert {instance["instance_id"] for instance in instances} == {"fax|de", "fax|fr", "pager|uk"}
    assert users.json == users_by_id.json == [third_party_user]
    queries = [query for query in bridged.fax.requests if query.path == f"{base}/user/fax"]
    assert queries[-1].query == "number=1"


async def test_service_pings_itself_through_server(bridged: BridgedServer) -> None:
    scene = await open_scene(bridged)
    ping_path = "/_matrix/client/v1/appservice/{}/ping"
    callback_path = "/_matrix/app/v1/ping"
    received: list[Any] = []

    def respond(request: BridgeRequest) -> tuple[int, Any]:
        received.append(request.body)
        return 200, {}

    scene.fax.pages[callback_path] = respond
    reached = await scene.request("POST", ping_path.format("fax"), {"transaction_id": "meow"})
    foreign_ping = await scene.request("POST", ping_path.format("pager"), {})
    scene.fax.pages[callback_path] = lambda request: (418, {"errcode": "TEAPOT"})
    failed = await scene.request("POST", ping_path.format("fax"), {})

    assert reached.json["duration_ms"] >= 0
    assert received == [{"transaction_id": "meow"}]
    assert (foreign_ping.status, foreign_ping.errcode) == (403, "M_FORBIDDEN")
    assert (failed.status, failed.errcode, failed.json["status"]) == (502, "M_BAD_STATUS", 418)


async def test_third_party_network_has_own_room_directory(bridged: BridgedServer) -> None:
    scene = await open_scene(bridged)
    target = f"{CLIENT}/directory/list/appservice/de/{quote(scene.room_id)}"

    async def is_listed(**criteria: Any) -> bool:
        directory = await scene.ada.request("POST", f"{CLIENT}/publicRooms", criteria)
        return scene.room_id in [entry["room_id"] for entry in directory.json["chunk"]]

    published = await scene.request("PUT", target, {"visibility": "public"})

    assert published.status == 200
    assert not await is_listed()
    assert await is_listed(third_party_instance_id="fax|de")
    assert not await is_listed(third_party_instance_id="pager|de")
    assert await is_listed(include_all_networks=True)
    assert (await scene.request("PUT", target, {"visibility": "private"})).status == 200
    assert not await is_listed(include_all_networks=True)


async def test_ephemeral_data_is_sent_to_service(bridged: BridgedServer) -> None:
    scene = await open_scene(bridged)
    await scene.add_ghost()
    event_id = await scene.say("read me")
    ada = scene.ada.user_id
    await scene.ada.request("PUT", f"{scene.room}/typing/{quote(ada)}", {"typing": True})
    private_receipt = f"{scene.room}/receipt/m.read.private/{quote(event_id)}"
    await scene.ada.request("POST", private_receipt, {})
    await scene.ada.request("POST", f"{scene.room}/receipt/m.read/{quote(event_id)}", {})
    await scene.ada.request("PUT", f"{CLIENT}/presence/{quote(ada)}/status", {"presence": "online"})

    def edus_in_room(kind: str) -> list[Any]:
        edus = scene.fax.parts("ephemeral")
        return [edu for edu in edus if edu["type"] == kind and edu["room_id"] == scene.room_id]

    typing = await scene.until(lambda: edus_in_room("m.typing"), "typing")
    receipts = await scene.until(lambda: edus_in_room("m.receipt"), "the receipt")
    await scene.until(
        lambda: [
            edu
            for edu in scene.fax.parts("ephemeral")
            if edu["type"] == "m.presence" and edu["sender"] == ada
        ],
        "presence",
    )

    assert typing[0]["content"] == {"user_ids": [ada]}
    receipt_types = {
        receipt_type
        for edu in receipts
        for by_type in edu["content"].values()
        for receipt_type in by_type
    }
    assert receipt_types == {"m.read"}
    assert ada in receipts[-1]["content"][event_id]["m.read"]


async def test_to_device_messages_and_key_counts_are_sent_to_service(
    bridged: BridgedServer,
) -> None:
    scene = await open_scene(bridged)
    await scene.add_ghost()
    as_ghost = f"user_id={quote(scene.ghost)}"
    created = await scene.request("PUT", f"{CLIENT}/devices/FAX1?{as_ghost}", {})
    assert created.status == 201
    one_time_key = {"curve25519:AAAA": "a" * 43}
    keys = await scene.request(
        "POST", f"{CLIENT}/keys/upload?{as_ghost}&device_id=FAX1", {"one_time_keys": one_time_key}
    )
    assert keys.status == 200, keys.body
    message = {"messages": {scene.ghost: {"FAX1": {"body": "psst"}}}}
    await scene.ada.request("PUT", f"{CLIENT}/sendToDevice/x.test/{scene.number}", message)

    def messages() -> list[Any]:
        sent = scene.fax.parts("de.sorunome.msc2409.to_device")
        return [message for message in sent if message["to_user_id"] == scene.ghost]

    def key_counts() -> list[Any]:
        counts_by_user = scene.fax.objects("org.matrix.msc3202.device_one_time_keys_count")
        return [users[scene.ghost]["FAX1"] for users in counts_by_user if scene.ghost in users]

    def changed_users() -> list[Any]:
        device_lists = scene.fax.objects("org.matrix.msc3202.device_lists")
        return [user_id for lists in device_lists for user_id in lists["changed"]]

    received = await scene.until(messages, "the message")
    await scene.until(lambda: any(count.get("curve25519") == 1 for count in key_counts()), "counts")
    await scene.until(lambda: scene.ghost in changed_users(), "the device list")

    assert received == [
        {
            "type": "x.test",
            "sender": scene.ada.user_id,
            "content": {"body": "psst"},
            "to_user_id": scene.ghost,
            "to_device_id": "FAX1",
        }
    ]


async def test_data_is_sent_after_downtime_of_sending_worker(bridged: BridgedServer) -> None:
    if bridged.cluster.layout == "T0":
        pytest.skip("there is only one process")
    scene = await open_scene(bridged)
    await scene.add_ghost()
    as_ghost = f"user_id={quote(scene.ghost)}"
    assert (await scene.request("PUT", f"{CLIENT}/devices/FAX1?{as_ghost}", {})).status == 201
    first_id = await scene.say("first")
    await scene.until(lambda: "first" in scene.fax.texts(), "the first message")
    sender = bridged.cluster.processes["sync1"]
    other_ports = [port for port in scene.ada.ports if port != sender.port]
    scene.ada.ports = other_ports
    await trio.to_thread.run_sync(sender.kill)

    missed_id = await scene.say("missed")
    await scene.ada.request("POST", f"{scene.room}/receipt/m.read/{quote(first_id)}", {})
    message = {"messages": {scene.ghost: {"FAX1": {"body": "missed"}}}}
    await scene.ada.request("PUT", f"{CLIENT}/sendToDevice/x.test/m{scene.number}", message)
    await trio.to_thread.run_sync(sender.start)

    await scene.until(
        lambda: missed_id in [event["event_id"] for event in scene.fax.events], "the event"
    )
    await scene.until(
        lambda: [edu for edu in scene.fax.parts("ephemeral") if first_id in edu["content"]],
        "the receipt",
    )
    await scene.until(
        lambda: [
            to_device
            for to_device in scene.fax.parts("de.sorunome.msc2409.to_device")
            if to_device["to_user_id"] == scene.ghost
        ],
        "the message",
    )


async def test_failed_transaction_is_retried_unchanged(bridged: BridgedServer) -> None:
    scene = await open_scene(bridged)
    await scene.add_ghost()
    await scene.say("first")
    await scene.until(lambda: "first" in scene.fax.texts(), "the first message")
    scene.fax.transactions_to_fail = 2

    await scene.say(f"stubborn {scene.number}")
    await scene.say(f"next {scene.number}")
    await scene.until(lambda: f"next {scene.number}" in scene.fax.texts(), "the next message")

    texts = scene.fax.texts()
    assert texts.count(f"stubborn {scene.number}") == texts.count(f"next {scene.number}") == 1
    assert scene.fax.changed_transactions == []


async def restart_random_process(
    cluster: Cluster, rng: random.Random, restart_lock: trio.Lock
) -> None:
    """Stop or kill a random process and start it again, one process at a time."""
    async with restart_lock:
        process = rng.choice(list(cluster.processes.values()))
        await trio.to_thread.run_sync(process.kill if rng.random() < 0.5 else process.stop)
        await trio.to_thread.run_sync(process.start)


async def check_events_sent_once_and_in_order(
    bridged: BridgedServer, events: int, restarts: int
) -> None:
    """Send events while processes restart, and compare what the service received."""
    scene = await open_scene(bridged)
    await scene.add_ghost()
    rng, restart_lock = random.Random(3), trio.Lock()
    prefix = f"{scene.number} event "
    expected = [f"{prefix}{n}" for n in range(events)]
    async with trio.open_nursery() as nursery:
        for n, text in enumerate(expected):
            if n % (events // restarts) == 0:
                nursery.start_soon(restart_random_process, bridged.cluster, rng, restart_lock)
            await scene.say(text)

    def received() -> list[str]:
        return [text for text in scene.fax.texts() if text.startswith(prefix)]

    await scene.until(lambda: len(received()) >= events, "all events")

    assert received() == expected
    assert scene.fax.changed_transactions == []


async def test_events_are_sent_once_and_in_order_despite_restarts(bridged: BridgedServer) -> None:
    await check_events_sent_once_and_in_order(bridged, 300, 4)


@pytest.mark.long
async def test_ten_thousand_events_are_sent_once_and_in_order(bridged: BridgedServer) -> None:
    await check_events_sent_once_and_in_order(bridged, 10_000, 40)
