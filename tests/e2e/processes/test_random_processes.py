"""A client sees its own changes although each of its requests goes to another process."""

import json
from collections.abc import Iterable
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from hs.nursery.proxies.haproxy import haproxy_config
from hs.nursery.proxies.proxy_plan import plan_proxy
from hs.settings.load import load_settings
from tests.support.servers.http_client import HttpClient
from tests.support.servers.processes import SERVER_NAME, Cluster, free_ports
from tests.support.servers.proxies import HaproxyMissing, haproxy_before, running_haproxy

pytestmark = pytest.mark.process

V3 = "/_matrix/client/v3"
ROUNDS = 10
NAMED_ROOM = {"preset": "public_chat", "name": "without heroes"}


class RoundRobinClient:
    """A client that sends its requests to each port in turn."""

    def __init__(self, ports: Iterable[int]) -> None:
        self.ports = cycle(ports)
        self.token: str | None = None

    async def request(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request to the next process; return the JSON of the response."""
        async with HttpClient(next(self.ports)) as client:
            client.token = self.token
            response = await client.request(method, f"{V3}{path}", json=body)
        assert response.status == 200, response.body
        return response.json


async def test_next_process_sees_change_of_previous_request(cluster: Cluster) -> None:
    await change_and_read("wanderer", RoundRobinClient(cluster.ports))


async def test_process_that_haproxy_picks_sees_change_of_previous_request(
    cluster: Cluster, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    try:
        with haproxy_before(cluster.ports, port, tmp_path):
            await change_and_read("balanced", RoundRobinClient([port]))
    except HaproxyMissing as error:
        pytest.skip(str(error))


async def test_generated_configuration_of_haproxy_serves_clients(
    cluster: Cluster, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    settings = {name: load_settings(each.configs) for name, each in cluster.processes.items()}
    config = tmp_path / "haproxy.cfg"
    text = haproxy_config(plan_proxy(settings))
    config.write_text(text.replace("bind :8080", f"bind 127.0.0.1:{port}"))
    try:
        with running_haproxy(config, port):
            await change_and_read("proxied", RoundRobinClient([port]))
            async with HttpClient(port) as client:
                keys = await client.get("/_matrix/key/v2/server")
                health = await client.get("/health")
    except HaproxyMissing as error:
        pytest.skip(str(error))

    assert (keys.status, keys.json["server_name"]) == (200, SERVER_NAME)
    assert health.status == 404


async def test_each_process_sends_only_members_that_no_other_has_sent(cluster: Cluster) -> None:
    # The others cannot ask sync1, which has no entry in `instance_map`.
    ports = [process.port for name, process in cluster.processes.items() if name != "sync1"]
    alice, *others = [RoundRobinClient(ports) for _ in range(4)]
    for number, client in enumerate([alice, *others]):
        await register(f"lazy{number}", client)
    room_id = (await alice.request("POST", "/createRoom", NAMED_ROOM))["room_id"]
    for client in others:
        await client.request("POST", f"/join/{room_id}", {})
    lazy = {"room": {"timeline": {"limit": 1}, "state": {"lazy_load_members": True}}}
    path = f"/sync?timeout=10000&filter={quote(json.dumps(lazy))}"
    await alice.request("PUT", f"/rooms/{room_id}/send/m.test/first", {})
    since = (await alice.request("GET", path))["next_batch"]

    received: list[int] = []
    for number, client in enumerate([*others, *others, *others]):
        await client.request("PUT", f"/rooms/{room_id}/send/m.test/{number}", {})
        response = await alice.request("GET", f"{path}&since={since}")
        since = response["next_batch"]
        received.append(len(response["rooms"]["join"][room_id]["state"]["events"]))

    assert received == [1, 1, 1, 0, 0, 0, 0, 0, 0]


async def register(name: str, client: RoundRobinClient) -> str:
    """Register a client and return its user ID."""
    account = {"username": name, "password": "correct horse"}
    registered = await client.request(
        "POST", "/register", {**account, "auth": {"type": "m.login.dummy"}}
    )
    client.token = registered["access_token"]
    return str(registered["user_id"])


async def change_and_read(name: str, alice: RoundRobinClient) -> None:
    """Change and read all kinds of data in turn."""
    user_id = await register(name, alice)

    for number in range(ROUNDS):
        room_id = (await alice.request("POST", "/createRoom", {}))["room_id"]
        assert room_id in (await alice.request("GET", "/sync"))["rooms"]["join"]
        room = f"/rooms/{room_id}"
        sent = await alice.request("PUT", f"{room}/send/m.test/{number}", {"number": number})
        page = await alice.request("GET", f"{room}/messages?dir=b&limit=1")
        assert [event["event_id"] for event in page["chunk"]] == [sent["event_id"]]
        await alice.request("PUT", f"{room}/state/m.room.name", {"name": str(number)})
        assert await alice.request("GET", f"{room}/state/m.room.name") == {"name": str(number)}
        entry = f"/user/{user_id}/account_data/m.test"
        await alice.request("PUT", entry, {"number": number})
        assert await alice.request("GET", entry) == {"number": number}
        tags = f"/user/{user_id}{room}/tags"
        await alice.request("PUT", f"{tags}/u.{number}", {"order": 0.5})
        assert await alice.request("GET", tags) == {"tags": {f"u.{number}": {"order": 0.5}}}
        await alice.request("POST", f"{room}/leave", {})
        assert room_id not in (await alice.request("GET", "/joined_rooms"))["joined_rooms"]
