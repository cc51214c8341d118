"""Searching running servers: each request may go to another process."""

from collections.abc import Iterator
from functools import partial
from itertools import cycle
from typing import Any

import pytest
import trio

from tests.support.http_client import HttpClient
from tests.support.postgres import PostgresServer
from tests.support.processes import Cluster

pytestmark = pytest.mark.process

Ports = Iterator[int]
SOON_S = 60.0


async def test_what_was_sent_is_found_by_whom_it_concerns(cluster: Cluster) -> None:
    ports = cycle([int(url.rpartition(":")[2]) for url in cluster.urls])
    alice = await _register(ports, "finder")
    bob = await _register(ports, "other")
    room_id = (await _ask(ports, alice, "createRoom", {"name": "Garden party"}))["room_id"]
    sent = [await _send(ports, alice, room_id, f"planting number {n}", n) for n in range(5)]

    # Found at once, whichever process is asked.
    found = await _search(ports, alice, "planting")
    assert found["count"] == 5
    assert _ids(found) == sent[::-1]
    assert found["highlights"] == ["planting"]

    pages, token = _ids(await _search(ports, alice, "planting", limit=2)), None
    for _ in range(2):
        first = await _search(ports, alice, "planting", limit=2, token=token)
        token = first["next_batch"]
    pages += _ids(await _search(ports, alice, "planting", limit=2, token=token))
    assert pages == [sent[4], sent[3], sent[0]]

    await _ask(ports, alice, f"rooms/{room_id}/redact/{sent[2]}/r1", {}, method="PUT")
    assert sent[2] not in _ids(await _search(ports, alice, "planting"))
    assert len((await _search(ports, alice, "garden"))["results"]) == 1
    assert (await _search(ports, bob, "planting"))["results"] == []


async def test_who_hangs_up_does_not_keep_the_database_busy(
    cluster: Cluster, request: pytest.FixtureRequest
) -> None:
    if cluster.layout == "T0":
        pytest.skip("the statements of SQLite cannot be seen from outside")
    postgres: PostgresServer = request.getfixturevalue("postgres_server")
    ports = cycle([int(url.rpartition(":")[2]) for url in cluster.urls])
    user = await _register(ports, "impatient")
    await _ask(ports, user, "createRoom", {"name": "Planting"})
    assert (await _search(ports, user, "planting"))["count"] == 1
    held = partial(postgres.psql, _HOLD, database=cluster.database, check=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, held)
        await _until(postgres, _HOLDERS, "1")
        try:
            async with trio.open_nursery() as asking:
                asking.start_soon(_search, ports, user, "planting")
                await _until(postgres, _WAITING, "1")
                asking.cancel_scope.cancel()

            await _until(postgres, _WAITING, "0")
        finally:
            await trio.to_thread.run_sync(postgres.psql, _LET_GO)


_HOLD = "BEGIN; LOCK TABLE search_entries; SELECT pg_sleep(600)"
_OF_HOLDERS = "FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
_HOLDERS = f"SELECT count(*) {_OF_HOLDERS}"
_LET_GO = f"SELECT pg_terminate_backend(pid) {_OF_HOLDERS}"
_WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"


async def _until(postgres: PostgresServer, count: str, wanted: str) -> None:
    with trio.fail_after(SOON_S):
        while await trio.to_thread.run_sync(postgres.psql, count) != wanted:
            await trio.lowlevel.checkpoint()


async def _register(ports: Ports, name: str) -> str:
    body = {"username": name, "password": "correct horse", "auth": {"type": "m.login.dummy"}}
    token: str = (await _ask(ports, "", "register", body))["access_token"]
    return token


async def _send(ports: Ports, token: str, room_id: str, text: str, number: int) -> str:
    path = f"rooms/{room_id}/send/m.room.message/s{number}"
    content = {"msgtype": "m.text", "body": text}
    event_id: str = (await _ask(ports, token, path, content, method="PUT"))["event_id"]
    return event_id


async def _search(
    ports: Ports, user: str, term: str, *, limit: int = 10, token: str | None = None
) -> dict[str, Any]:
    criteria = {"search_term": term, "order_by": "recent", "filter": {"limit": limit}}
    where = "" if token is None else f"?next_batch={token}"
    body = {"search_categories": {"room_events": criteria}}
    answer = await _ask(ports, user, f"search{where}", body)
    found: dict[str, Any] = answer["search_categories"]["room_events"]
    return found


def _ids(found: dict[str, Any]) -> list[str]:
    return [one["result"]["event_id"] for one in found["results"]]


async def _ask(
    ports: Ports, token: str, path: str, body: Any, method: str = "POST"
) -> dict[str, Any]:
    async with HttpClient(next(ports)) as client:
        client.token = token or None
        answer = await client.ask(method, f"/_matrix/client/v3/{path}", json=body)
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json
    return found
