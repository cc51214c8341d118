"""Search on running servers; consecutive requests go to different processes."""

from collections.abc import Iterator
from functools import partial
from itertools import cycle
from typing import Any

import pytest
import trio

from tests.support.servers.http_client import HttpClient
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.processes import Cluster

pytestmark = pytest.mark.process

Ports = Iterator[int]
WAIT_S = 60.0


async def test_members_find_messages_through_any_process(cluster: Cluster) -> None:
    ports = cycle(cluster.ports)
    alice = await _register(ports, "finder")
    bob = await _register(ports, "other")
    room_id = (await _request(ports, alice, "createRoom", {"name": "Garden party"}))["room_id"]
    sent = [await _send(ports, alice, room_id, f"planting number {n}", n) for n in range(5)]

    # Every process finds the messages at once.
    results = await _search(ports, alice, "planting")
    assert results["count"] == 5
    assert _ids(results) == sent[::-1]
    assert results["highlights"] == ["planting"]

    pages, token = _ids(await _search(ports, alice, "planting", limit=2)), None
    for _ in range(2):
        page = await _search(ports, alice, "planting", limit=2, token=token)
        token = page["next_batch"]
    pages += _ids(await _search(ports, alice, "planting", limit=2, token=token))
    assert pages == [sent[4], sent[3], sent[0]]

    await _request(ports, alice, f"rooms/{room_id}/redact/{sent[2]}/r1", {}, method="PUT")
    assert sent[2] not in _ids(await _search(ports, alice, "planting"))
    assert len((await _search(ports, alice, "garden"))["results"]) == 1
    assert (await _search(ports, bob, "planting"))["results"] == []


async def test_closed_connection_cancels_database_query(
    cluster: Cluster, request: pytest.FixtureRequest
) -> None:
    if cluster.layout == "T0":
        pytest.skip("running SQLite statements cannot be observed from another process")
    postgres: PostgresServer = request.getfixturevalue("postgres_server")
    ports = cycle(cluster.ports)
    user = await _register(ports, "impatient")
    await _request(ports, user, "createRoom", {"name": "Planting"})
    assert (await _search(ports, user, "planting"))["count"] == 1
    lock_table = partial(postgres.psql, _LOCK_TABLE, database=cluster.database, check=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, lock_table)
        await _wait_for_count(postgres, _COUNT_LOCKERS, "1")
        try:
            async with trio.open_nursery() as searching:
                searching.start_soon(_search, ports, user, "planting")
                await _wait_for_count(postgres, _COUNT_WAITING, "1")
                searching.cancel_scope.cancel()

            await _wait_for_count(postgres, _COUNT_WAITING, "0")
        finally:
            await trio.to_thread.run_sync(postgres.psql, _END_LOCKERS)


_LOCK_TABLE = "BEGIN; LOCK TABLE search_entries; SELECT pg_sleep(600)"
_FROM_LOCKERS = "FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
_COUNT_LOCKERS = f"SELECT count(*) {_FROM_LOCKERS}"
_END_LOCKERS = f"SELECT pg_terminate_backend(pid) {_FROM_LOCKERS}"
_COUNT_WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"


async def _wait_for_count(postgres: PostgresServer, query: str, expected: str) -> None:
    with trio.fail_after(WAIT_S):
        while await trio.to_thread.run_sync(postgres.psql, query) != expected:
            await trio.lowlevel.checkpoint()


async def _register(ports: Ports, name: str) -> str:
    body = {"username": name, "password": "correct horse", "auth": {"type": "m.login.dummy"}}
    token: str = (await _request(ports, "", "register", body))["access_token"]
    return token


async def _send(ports: Ports, token: str, room_id: str, text: str, number: int) -> str:
    path = f"rooms/{room_id}/send/m.room.message/s{number}"
    content = {"msgtype": "m.text", "body": text}
    event_id: str = (await _request(ports, token, path, content, method="PUT"))["event_id"]
    return event_id


async def _search(
    ports: Ports, user: str, term: str, *, limit: int = 10, token: str | None = None
) -> dict[str, Any]:
    criteria = {"search_term": term, "order_by": "recent", "filter": {"limit": limit}}
    query = "" if token is None else f"?next_batch={token}"
    body = {"search_categories": {"room_events": criteria}}
    answer = await _request(ports, user, f"search{query}", body)
    results: dict[str, Any] = answer["search_categories"]["room_events"]
    return results


def _ids(results: dict[str, Any]) -> list[str]:
    return [result["result"]["event_id"] for result in results["results"]]


async def _request(
    ports: Ports, token: str, path: str, body: Any, method: str = "POST"
) -> dict[str, Any]:
    async with HttpClient(next(ports)) as client:
        client.token = token or None
        response = await client.request(method, f"/_matrix/client/v3/{path}", json=body)
    assert response.status == 200, response.body
    content: dict[str, Any] = response.json
    return content
