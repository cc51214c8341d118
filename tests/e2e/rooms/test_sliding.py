"""Sliding sync on running servers; consecutive requests go to different processes."""

from itertools import cycle
from typing import Any

import pytest
import trio

from tests.support.servers.http_client import HttpClient
from tests.support.servers.processes import Cluster

pytestmark = pytest.mark.process
LIMIT_S = 240.0

UNSTABLE_SYNC = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
UNSTABLE_REQUEST: dict[str, Any] = {
    "lists": {
        "all": {
            "ranges": [[0, 19]],
            "required_state": [["m.room.member", "$LAZY"], ["m.room.create", ""]],
            "timeline_limit": 20,
        }
    },
    "extensions": {
        "account_data": {"enabled": True},
        "receipts": {"enabled": True},
        "typing": {"enabled": True},
    },
}

STABLE_REQUEST: dict[str, Any] = {
    "lists": {
        "all": {
            "range": [0, 19],
            "required_state": {"include": [{"type": "m.room.create"}], "lazy_members": True},
            "timeline_limit": 20,
        }
    }
}


async def test_messages_arrive_once_through_any_process(cluster: Cluster) -> None:
    ports = cycle(cluster.ports)
    answer = await _request(next(ports), "", "register", {**_registration(), "username": "slider"})
    token = answer["access_token"]
    room_id = (await _request(next(ports), token, "createRoom", {}))["room_id"]
    first = await _sliding_sync(next(ports), token)
    assert first["rooms"][room_id]["initial"] is True

    pos, seen = first["pos"], list[str]()
    for n in range(6):
        sent = await _request(
            next(ports),
            token,
            f"rooms/{room_id}/send/m.room.message/t{n}",
            {"msgtype": "m.text", "body": f"m{n}"},
            method="PUT",
        )
        path = f"rooms/{room_id}/receipt/m.read/{sent['event_id']}"
        await _request(next(ports), token, path, {})
        for _ in range(3):
            answer = await _sliding_sync(next(ports), token, pos)
            pos = answer["pos"]
            seen += _texts(answer, room_id)
    with trio.fail_after(LIMIT_S):
        while len(seen) < 6:
            answer = await _sliding_sync(next(ports), token, pos)
            pos = answer["pos"]
            seen += _texts(answer, room_id)

    assert seen == [f"m{n}" for n in range(6)]
    assert answer["lists"] == {"all": {"count": 1}}


def _registration() -> dict[str, Any]:
    return {"password": "correct horse", "auth": {"type": "m.login.dummy"}}


async def test_repeated_requests_to_stable_path_deliver_messages_once(cluster: Cluster) -> None:
    ports = cycle(cluster.ports)
    answer = await _request(next(ports), "", "register", {**_registration(), "username": "stable"})
    token = answer["access_token"]
    room_id = (await _request(next(ports), token, "createRoom", {}))["room_id"]
    pos: str | None = None
    seen: list[str] = []

    async def sync_twice() -> str:
        request = {**STABLE_REQUEST, **({} if pos is None else {"pos": pos, "timeout": 300})}
        answer = await _request(next(ports), token, "/_matrix/client/v4/sync", request)
        # The client repeats the position, as if the response had been lost.
        answer = await _request(next(ports), token, "/_matrix/client/v4/sync", request)
        seen.extend(_texts(answer, room_id))
        return str(answer["pos"])

    for n in range(6):
        path = f"rooms/{room_id}/send/m.room.message/t{n}"
        content = {"msgtype": "m.text", "body": f"m{n}"}
        await _request(next(ports), token, path, content, method="PUT")
        for _ in range(2):
            pos = await sync_twice()
    with trio.fail_after(LIMIT_S):
        while len(seen) < 6:
            pos = await sync_twice()

    assert seen == [f"m{n}" for n in range(6)]


def _texts(answer: dict[str, Any], room_id: str) -> list[str]:
    timeline = answer["rooms"].get(room_id, {}).get("timeline", ())
    return [event["content"]["body"] for event in timeline if "body" in event["content"]]


async def _sliding_sync(port: int, token: str, pos: str | None = None) -> dict[str, Any]:
    query = "" if pos is None else f"?pos={pos}&timeout=300"
    return await _request(port, token, UNSTABLE_SYNC + query, UNSTABLE_REQUEST)


async def _request(
    port: int, token: str, path: str, body: Any, method: str = "POST"
) -> dict[str, Any]:
    target = path if path.startswith("/") else f"/_matrix/client/v3/{path}"
    async with HttpClient(port) as client:
        client.token = token or None
        response = await client.request(method, target, json=body)
    assert response.status == 200, response.body
    content: dict[str, Any] = response.json
    return content
