"""The disk refuses all writes while the server runs: the database of SQLite, and its log."""

import resource
from typing import Any
from urllib.parse import quote

import pytest
import trio

from tests.support.servers.http_client import HttpClient
from tests.support.servers.processes import running_cluster
from tests.support.web import WebResponse

pytestmark = pytest.mark.process

CLIENT = "/_matrix/client/v3"
ANSWER_S = 30.0
LIMIT_BYTES = 65_536  # more than the log, less than the WAL


async def request(
    client: HttpClient, method: str, path: str, body: dict[str, Any] | None = None
) -> WebResponse:
    with trio.fail_after(ANSWER_S):
        return await client.request(method, path, json=body)


async def send(client: HttpClient, room: str, text: str) -> WebResponse:
    body = {"msgtype": "m.text", "body": text}
    return await request(client, "PUT", f"{room}/send/m.room.message/{text}", body)


async def wait_until_ready(client: HttpClient, status: int) -> None:
    with trio.fail_after(ANSWER_S):
        while True:
            if (await client.request("GET", "/health/ready")).status == status:
                return
            await trio.sleep(0.1)


async def test_writes_are_refused_and_reads_are_answered_until_the_disk_accepts_writes() -> None:
    with running_cluster("T0", None, None) as cluster:
        (process,) = cluster.processes.values()
        assert process.process is not None
        pid = process.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        async with HttpClient(process.port) as anonymous:
            account = {"username": "alice", "password": "p", "auth": {"type": "m.login.dummy"}}
            token = (await request(anonymous, "POST", f"{CLIENT}/register", account)).json
        async with HttpClient(process.port, token["access_token"]) as client:
            created = await request(client, "POST", f"{CLIENT}/createRoom", {})
            room = f"{CLIENT}/rooms/{quote(created.json['room_id'])}"
            statuses = [(await send(client, room, "first")).status]

            resource.prlimit(pid, resource.RLIMIT_FSIZE, (LIMIT_BYTES, before[1]))
            refused = [(await send(client, room, f"refused{n}")) for n in range(5)]
            await wait_until_ready(client, 503)
            read = await request(client, "GET", f"{room}/messages?dir=b&limit=1")
            synced = await request(client, "GET", f"{CLIENT}/sync?timeout=0")

            resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
            await wait_until_ready(client, 200)
            statuses += [(await send(client, room, text)).status for text in ("refused0", "last")]
            page = await request(client, "GET", f"{room}/messages?dir=b&limit=3")

    assert [(answer.status, "errcode" in answer.json) for answer in refused] == [(503, True)] * 5
    assert (read.status, synced.status) == (200, 200), synced.body
    assert read.json["chunk"][0]["content"]["body"] == "first"
    assert statuses == [200] * 3
    bodies = [event["content"]["body"] for event in page.json["chunk"]]
    assert bodies == ["last", "refused0", "first"]
