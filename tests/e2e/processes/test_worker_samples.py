"""Every sample in the documentation of Synapse's workers starts, and its workers do their work.

One server has the samples in their present form, another one those that are out of date there.
"""

import json
import random
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import quote

import attrs
import pytest
import trio

from tests.support.inputs.worker_samples import (
    BACKGROUND_WORKER,
    GENERIC,
    MEDIA,
    MEDIA_SHARED,
    PERSISTER,
    PERSISTER_SHARED,
    TWO_PERSISTERS,
    TWO_PUSHERS,
    TWO_SENDERS,
    assigned,
    worker_file,
)
from tests.support.ledger import CLIENT, Person
from tests.support.servers.appservice_bridge import Bridge, running_bridge
from tests.support.servers.certificates import Certificates, make_certificates
from tests.support.servers.http_client import HttpClient
from tests.support.servers.json_server import JsonHandler, running_json_server
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.push_gateway import Gateway, running_gateway
from tests.support.servers.redis import RedisServer
from tests.support.servers.sample_server import SampleServer, running_samples

pytestmark = [pytest.mark.process, pytest.mark.postgres, pytest.mark.redis, pytest.mark.long]

LIMIT_S = 120.0
FILE = b"a small file"
MEDIA_PORT = 8085
PERSISTER2 = PERSISTER.replace("persister1", "persister2").replace("8034", "8036")

PRESENT = (
    [
        TWO_PERSISTERS,
        assigned("run_background_tasks_on", "background_worker"),
        assigned("update_user_directory_from_worker"),
        assigned("notify_appservices_from_worker"),
        TWO_PUSHERS,
        TWO_SENDERS,
        MEDIA_SHARED,
    ],
    [
        GENERIC,
        PERSISTER,
        PERSISTER2.replace("8035", "8037"),
        BACKGROUND_WORKER,
        worker_file("generic_worker", "worker_name"),
        worker_file("pusher", "pusher_worker1"),
        worker_file("pusher", "pusher_worker2"),
        worker_file("federation_sender", "federation_sender1"),
        worker_file("federation_sender", "federation_sender2"),
        MEDIA,
    ],
)
HISTORICAL = {
    "8101": "client_reader",
    "8102": "event_creator",
    "8103": "federation_reader",
    "8104": "frontend_proxy",
    "8105": "synchrotron",
}
OUT_OF_DATE = (
    [
        PERSISTER_SHARED,
        "start_pushers: False",
        "notify_appservices: False",
        "update_user_directory: false",
        "send_federation: False",
        MEDIA_SHARED,
    ],
    [
        PERSISTER,
        worker_file("pusher", "pusher"),
        worker_file("appservice", "appservice"),
        worker_file("user_dir", "user_dir"),
        worker_file("federation_sender", "federation_sender"),
        MEDIA,
        *(
            GENERIC.replace("app.generic_worker", f"app.{app}")
            .replace("generic_worker1", app)
            .replace("8083", port)
            for port, app in HISTORICAL.items()
        ),
    ],
)
FORMS: dict[str, tuple[list[str], list[str], list[int], set[str]]] = {
    "present": (*PRESENT, [8008, 8083, 8035, 8037], {"event_persister1", "event_persister2"}),
    "out of date": (*OUT_OF_DATE, [8008, 8035, *map(int, HISTORICAL)], {"event_persister1"}),
}
"""The shared settings, the workers, the ports for clients, and the writers of events."""


@attrs.define(kw_only=True)
class Stage:
    """A server of samples, and those that it sends to; `received` are the EDUs at the peer."""

    server: SampleServer
    client_ports: list[int]
    writers: set[str]
    gateway: Gateway
    bridge: Bridge
    peer: str = ""
    received: list[dict[str, Any]] = attrs.Factory(list)
    people: int = 0

    async def register(self, port: int | None = None) -> Person:
        """Register a user at a process, or at all of them in turn."""
        self.people += 1
        person = Person([port] if port else self.client_ports, random.Random(self.people))
        await person.register(f"person{self.people}")
        return person

    async def create_room(self, *people: Person) -> str:
        """Create a room with some members; return its path."""
        created = await people[0].request("POST", f"{CLIENT}/createRoom", {"preset": "public_chat"})
        path = f"/rooms/{quote(created.json['room_id'])}"
        for person in people[1:]:
            await person.request("POST", f"{CLIENT}{path}/join", {})
        return f"{CLIENT}{path}"


async def say(person: Person, room: str, text: str = "hello", query: str = "") -> Any:
    """Send a message; return the response."""
    body = {"msgtype": "m.text", "body": text}
    sent = await person.request("PUT", f"{room}/send/m.room.message/{quote(text)}{query}", body)
    return sent.json


async def wait_in_thread(wait_until: Callable[..., Any], holds: Callable[[], Any]) -> None:
    """Wait for a server in a thread."""
    await trio.to_thread.run_sync(partial(wait_until, holds, "the work of a worker"))


@contextmanager
def running_peer(certificates: Certificates, received: list[dict[str, Any]]) -> Iterator[str]:
    """Run a server that accepts all transactions; yield its name."""

    class Handler(JsonHandler):
        def answer(self, body: bytes) -> tuple[int, object]:
            if self.path.startswith("/_matrix/federation/v1/send/"):
                received.extend(json.loads(body).get("edus", []))
                return 200, {"pdus": {}}
            return 404, {"errcode": "M_UNRECOGNIZED"}

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)
    with running_json_server(Handler, tls=context) as url:
        yield url.removeprefix("https://")


@pytest.fixture(scope="module", params=FORMS)
def stage(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: PostgresServer,
    redis_server: RedisServer,
) -> Iterator[Stage]:
    """A running server of all samples of one form."""
    shared, workers, ports, writers = FORMS[request.param]
    folder = tmp_path_factory.mktemp("samples")
    certificates = make_certificates(folder)
    received: list[dict[str, Any]] = []
    with (
        running_gateway() as gateway,
        running_bridge("fax") as bridge,
        running_peer(certificates, received) as peer,
        running_samples(
            shared,
            workers,
            folder,
            postgres_server,
            redis_server,
            app_service_config_files=[bridge.write(folder)],
            federation_custom_ca_list=[str(certificates.authority)],
            ip_range_blacklist=[],
            max_event_delay_duration="1d",
        ) as server,
    ):
        yield Stage(
            server=server,
            client_ports=[server.port(number) for number in ports],
            writers=writers,
            gateway=gateway,
            bridge=bridge,
            peer=peer,
            received=received,
        )


async def test_every_worker_with_clients_serves_them(stage: Stage) -> None:
    alice = await stage.register()
    room = await stage.create_room(alice)

    for port in stage.client_ports:
        bob = await stage.register(port)
        await bob.request("POST", f"{room}/join", {})
        sent = await say(bob, room, f"through {port}")
        found = (await alice.request("GET", f"{room}/messages?dir=b&limit=1")).json["chunk"]
        assert [event["event_id"] for event in found] == [sent["event_id"]]
        joined = (await bob.request("GET", f"{CLIENT}/sync")).json["rooms"]["join"]
        assert len(joined) == 1
        keys = await bob.request("POST", f"{CLIENT}/keys/upload", {"one_time_keys": {}})
        assert keys.json == {"one_time_key_counts": {"signed_curve25519": 0}}


def test_persisters_own_all_rooms(stage: Stage, postgres_server: PostgresServer) -> None:
    statement = "SELECT DISTINCT holder FROM stream_slots WHERE stream = 'events'"

    holders = postgres_server.psql(statement, database=stage.server.database)

    assert {*holders.split()} == stage.writers


async def test_background_worker_sends_delayed_event(stage: Stage) -> None:
    alice = await stage.register()
    room = await stage.create_room(alice)

    await say(alice, room, "later", "?org.matrix.msc4140.delay=100")

    with trio.fail_after(LIMIT_S):
        found: list[Any] = []
        while not any(event["content"].get("body") == "later" for event in found):
            found = (await alice.request("GET", f"{room}/messages?dir=b&limit=1")).json["chunk"]


async def test_user_directory_worker_adds_users(stage: Stage) -> None:
    alice, bob = await stage.register(), await stage.register()

    await stage.create_room(alice, bob)

    with trio.fail_after(LIMIT_S):
        found: list[str] = []
        while bob.user_id not in found:
            term = {"search_term": bob.user_id.partition(":")[0]}
            target = f"{CLIENT}/user_directory/search"
            results = (await alice.request("POST", target, term)).json["results"]
            found = [result["user_id"] for result in results]


async def test_pusher_worker_notifies(stage: Stage) -> None:
    alice, bob = await stage.register(), await stage.register()
    room = await stage.create_room(alice, bob)
    pusher = {
        "kind": "http", "app_id": "x", "pushkey": bob.user_id, "app_display_name": "X",
        "device_display_name": "X", "lang": "en", "data": {"url": stage.gateway.url},
    }  # fmt: skip
    await bob.request("POST", f"{CLIENT}/pushers/set", pusher)

    event_id = (await say(alice, room))["event_id"]

    await wait_in_thread(stage.gateway.wait_until, lambda: event_id in stage.gateway.events())


async def test_appservice_worker_sends_transactions(stage: Stage) -> None:
    alice = await stage.register()
    room = await stage.create_room(alice)
    ghost = Person(stage.client_ports, random.Random(1), token=stage.bridge.as_token)
    await ghost.request("POST", f"{room}/join", {})

    await say(alice, room, "to the service")

    await wait_in_thread(stage.bridge.wait_until, lambda: "to the service" in stage.bridge.texts())


async def test_federation_sender_sends_to_other_server(stage: Stage) -> None:
    alice = await stage.register()
    body = {"messages": {f"@remote:{stage.peer}": {"*": {"text": "hello"}}}}

    await alice.request("PUT", f"{CLIENT}/sendToDevice/hs.test/1", body)

    def has_arrived() -> bool:
        return "m.direct_to_device" in [edu["edu_type"] for edu in stage.received]

    with trio.fail_after(LIMIT_S):
        while not has_arrived():  # noqa: ASYNC110 - a thread receives
            await trio.sleep(0.05)


async def test_media_worker_serves_media_alone(stage: Stage) -> None:
    alice = await stage.register()
    upload = "/_matrix/media/v3/upload?filename=a.txt"

    async with HttpClient(stage.server.port(MEDIA_PORT), alice.token) as client:
        headers = {"content-type": "text/plain"}
        uploaded = await client.request("POST", upload, body=FILE, headers=headers)
        assert uploaded.status == 200, uploaded.body
        path = uploaded.json["content_uri"].removeprefix("mxc://")
        download = f"/_matrix/client/v1/media/download/{path}"
        found = await client.get(download)
        assert (found.status, found.body) == (200, FILE)

    for port in stage.client_ports:
        async with HttpClient(port, alice.token) as client:
            assert (await client.get(download)).status == 404
