"""A client sees its own changes although each of its requests goes to another process."""

from itertools import cycle
from typing import Any

import pytest

from tests.support.servers.http_client import HttpClient
from tests.support.servers.processes import Cluster

pytestmark = pytest.mark.process

V3 = "/_matrix/client/v3"
ROUNDS = 10


class RoundRobinClient:
    """A client that sends its requests to each process in turn."""

    def __init__(self, cluster: Cluster) -> None:
        self.ports = cycle([int(url.rpartition(":")[2]) for url in cluster.urls])
        self.token: str | None = None

    async def request(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request to the next process; return the JSON of the response."""
        async with HttpClient(next(self.ports)) as client:
            client.token = self.token
            response = await client.request(method, f"{V3}{path}", json=body)
        assert response.status == 200, response.body
        return response.json


async def test_next_process_sees_change_of_previous_request(cluster: Cluster) -> None:
    alice = RoundRobinClient(cluster)
    account = {"username": "wanderer", "password": "correct horse"}
    registered = await alice.request(
        "POST", "/register", {**account, "auth": {"type": "m.login.dummy"}}
    )
    alice.token, user_id = registered["access_token"], registered["user_id"]

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
