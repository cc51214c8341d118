"""Thread subscriptions when a worker is the writer of their stream."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.servers.http_client import HttpClient
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.processes import Cluster, running_cluster
from tests.support.servers.redis import RedisServer

pytestmark = [pytest.mark.process, pytest.mark.postgres, pytest.mark.redis]

V3 = "/_matrix/client/v3"
UNSTABLE = "/_matrix/client/unstable"
EXTENSION = "io.element.msc4308.thread_subscriptions"
SYNC_REQUEST: dict[str, Any] = {"lists": {}, "extensions": {EXTENSION: {"enabled": True}}}


@pytest.fixture
def cluster(postgres_server: PostgresServer, redis_server: RedisServer) -> Iterator[Cluster]:
    """A server of three processes in which a worker writes thread subscriptions."""
    settings: dict[str, Any] = {
        "experimental_features": {"msc4306_enabled": True},
        "stream_writers": {"thread_subscriptions": "sync1"},
    }
    with running_cluster("T2", postgres_server, redis_server, **settings) as running:
        yield running


async def request(
    cluster: Cluster, name: str, method: str, path: str, token: str = "", body: Any = None
) -> Any:
    """Send a request to one process; return the JSON of the response."""
    async with HttpClient(cluster.processes[name].port) as client:
        client.token = token or None
        response = await client.request(method, path, json=body)
    assert response.status == 200, response.body
    return response.json


async def test_every_process_changes_and_returns_subscriptions(cluster: Cluster) -> None:
    account = {"username": "me", "password": "secret horse", "auth": {"type": "m.login.dummy"}}
    registered = await request(cluster, "main", "POST", f"{V3}/register", "", account)
    token = registered["access_token"]
    room_id = (await request(cluster, "main", "POST", f"{V3}/createRoom", token, {}))["room_id"]
    path = f"{V3}/rooms/{room_id}/send/m.room.message/"
    roots = []
    for name in cluster.processes:
        content = {"msgtype": "m.text", "body": name}
        sent = await request(cluster, "main", "PUT", f"{path}{name}", token, content)
        roots.append(sent["event_id"])
    sync = f"{UNSTABLE}/org.matrix.simplified_msc3575/sync"
    pos = (await request(cluster, "main", "POST", sync, token, SYNC_REQUEST))["pos"]

    for name, root_id in zip(cluster.processes, roots, strict=True):
        thread = f"{UNSTABLE}/io.element.msc4306/rooms/{room_id}/thread/{root_id}/subscription"
        await request(cluster, name, "PUT", thread, token, {})
        next_pos = pos
        for reader in cluster.processes:
            long_poll = f"{sync}?pos={pos}&timeout=60000"
            answer = await request(cluster, reader, "POST", long_poll, token, SYNC_REQUEST)
            subscribed = answer["extensions"][EXTENSION]["subscribed"]
            assert list(subscribed[room_id]) == [root_id]
            subscription = await request(cluster, reader, "GET", thread, token)
            assert subscription == {"automatic": False}
            next_pos = answer["pos"]
        pos = next_pos

    rules = await request(cluster, "persister1", "GET", f"{V3}/pushrules/", token)
    assert len(rules["global"]["postcontent"]) == 2
