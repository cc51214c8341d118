"""Device keys, to-device messages and key backups; consecutive requests use other processes."""

from itertools import cycle
from typing import Any

import attrs
import pytest
import trio

from tests.support.servers.http_client import HttpClient
from tests.support.servers.processes import Cluster

pytestmark = pytest.mark.process


@attrs.define
class Client:
    """A logged-in client that sends its requests to each process in turn."""

    ports: Any
    user_id: str = ""
    device_id: str = ""
    token: str = ""

    async def request(self, method: str, path: str, body: Any = None) -> Any:
        async with HttpClient(next(self.ports)) as client:
            client.token = self.token or None
            answer = await client.request(method, f"/_matrix/client/v3/{path}", json=body)
        assert answer.status == 200, answer.body
        return answer.json

    async def register(self, name: str) -> "Client":
        body = {"username": name, "password": "correct horse", "auth": {"type": "m.login.dummy"}}
        answer = await self.request("POST", "register", body)
        return Client(self.ports, answer["user_id"], answer["device_id"], answer["access_token"])

    async def sync(self, since: str | None = None) -> Any:
        return await self.request("GET", "sync" if since is None else f"sync?since={since}")

    async def sync_until(self, since: str | None, section: str) -> Any:
        """Sync until a response has a section; changes reach other processes a moment later."""
        with trio.fail_after(60):
            while True:
                query = "timeout=2000" if since is None else f"timeout=2000&since={since}"
                answer = await self.request("GET", f"sync?{query}")
                if section in answer:
                    return answer
                since = answer["next_batch"]

    async def upload_keys(self, count: int) -> Any:
        keys = {
            "user_id": self.user_id,
            "device_id": self.device_id,
            "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
            "keys": {},
            "signatures": {},
        }
        one_time_keys = {
            f"signed_curve25519:{n}": {"key": str(n), "signatures": {}} for n in range(count)
        }
        body = {"device_keys": keys, "one_time_keys": one_time_keys}
        return await self.request("POST", "keys/upload", body)


async def test_keys_device_lists_and_to_device_work_through_any_process(cluster: Cluster) -> None:
    unregistered = Client(cycle(cluster.ports))
    ada, bob = await unregistered.register("e2ada"), await unregistered.register("e2bob")
    room_id = (await ada.request("POST", "createRoom", {"preset": "public_chat"}))["room_id"]
    await bob.request("POST", f"join/{room_id}", {})
    since = (await ada.sync())["next_batch"]

    counts = await bob.upload_keys(3)
    changed = await ada.sync_until(since, "device_lists")
    keys = await ada.request("POST", "keys/query", {"device_keys": {bob.user_id: []}})
    claim = {"one_time_keys": {bob.user_id: {bob.device_id: "signed_curve25519"}}}
    claimed = [await ada.request("POST", "keys/claim", claim) for _ in range(4)]
    received: list[int] = []
    since_of_bob, remaining_counts = None, None
    for n in range(6):
        body = {"messages": {bob.user_id: {bob.device_id: {"n": n}}}}
        for _ in range(2):
            await ada.request("PUT", f"sendToDevice/m.test/t{n}", body)
        answer = await bob.sync_until(since_of_bob, "to_device")
        since_of_bob = answer["next_batch"]
        received += [event["content"]["n"] for event in answer["to_device"]["events"]]
        remaining_counts = answer["device_one_time_keys_count"]
    since = (await ada.sync(changed["next_batch"]))["next_batch"]
    await bob.request("POST", "logout", {})
    after_logout = await ada.sync_until(since, "device_lists")

    assert counts == {"one_time_key_counts": {"signed_curve25519": 3}}
    assert bob.user_id in changed["device_lists"]["changed"]
    assert keys["device_keys"][bob.user_id].keys() == {bob.device_id}
    claimed_ids = [
        name
        for response in claimed
        for name in response["one_time_keys"].get(bob.user_id, {}).get(bob.device_id, {})
    ]
    assert sorted(claimed_ids) == [f"signed_curve25519:{n}" for n in range(3)]
    assert received == list(range(6))
    assert remaining_counts == {"signed_curve25519": 0}
    assert after_logout["device_lists"]["changed"] == [bob.user_id]


async def test_key_backup_is_the_same_through_all_processes(cluster: Cluster) -> None:
    unregistered = Client(cycle(cluster.ports))
    ada = await unregistered.register("backada")
    body = {"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": {"a": "b"}}
    version = (await ada.request("POST", "room_keys/version", body))["version"]
    key = {
        "first_message_index": 0,
        "forwarded_count": 0,
        "is_verified": True,
        "session_data": {"x": "y"},
    }

    stored = await ada.request("PUT", f"room_keys/keys/!r:x/s?version={version}", key)
    fetched = await ada.request("GET", f"room_keys/keys?version={version}")
    latest = await ada.request("GET", "room_keys/version")

    assert stored == {"etag": "1", "count": 1}
    assert fetched == {"rooms": {"!r:x": {"sessions": {"s": key}}}}
    assert (latest["version"], latest["count"], latest["etag"]) == (version, 1, "1")
