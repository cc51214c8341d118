"""Profile changes reach all rooms of the user, although processes are killed meanwhile."""

import json
import random
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

import pytest
import trio

from tests.support.ledger import CLIENT, Person
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.processes import Cluster, running_cluster
from tests.support.servers.redis import RedisServer

pytestmark = pytest.mark.process

LIMIT_S = 240.0
ROOMS = 30
FIELDS = 20


@pytest.fixture(params=["T0", pytest.param("T1", marks=[pytest.mark.postgres, pytest.mark.long])])
def server(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A server of one process, with SQLite and with PostgreSQL."""
    postgres: PostgresServer | None = None
    if request.param == "T1":
        postgres = request.getfixturevalue("postgres_server")
    with running_cluster(request.param, postgres, None) as running:
        yield running


@pytest.fixture
def cluster(postgres_server: PostgresServer, redis_server: RedisServer) -> Iterator[Cluster]:
    """A server of three processes."""
    with running_cluster("T2", postgres_server, redis_server) as running:
        yield running


async def register_with_rooms(person: Person) -> list[str]:
    """Register a user, create their rooms and return the room IDs."""
    await person.register("alice")
    created = [await person.request("POST", f"{CLIENT}/createRoom", {}) for _ in range(ROOMS)]
    return [response.json["room_id"] for response in created]


async def set_profile_field(person: Person, field: str, value: str) -> None:
    """Set a field of the user's profile."""
    await person.request("PUT", f"{CLIENT}/profile/{quote(person.user_id)}/{field}", {field: value})


async def wait_for_all_rooms(person: Person, room_ids: list[str], field: str, value: str) -> None:
    """Wait until the member events in all rooms have the new value."""
    with trio.fail_after(LIMIT_S):
        for room_id in room_ids:
            await wait_for_room(person, room_id, field, value)


async def wait_for_room(person: Person, room_id: str, field: str, value: str) -> None:
    """Wait until the member event in one room has the new value."""
    target = f"{CLIENT}/rooms/{quote(room_id)}/state/m.room.member/{quote(person.user_id)}"
    while True:
        if (await person.request("GET", target)).json.get(field) == value:
            return
        await trio.sleep(0.1)


async def test_killed_server_updates_rooms_after_restart(
    server: Cluster,
) -> None:
    main = server.processes["main"]
    alice = Person([main.port], random.Random(1))
    rooms = await register_with_rooms(alice)

    await set_profile_field(alice, "displayname", "Al")
    await trio.to_thread.run_sync(main.kill)
    await trio.to_thread.run_sync(main.start)

    await wait_for_all_rooms(alice, rooms, "displayname", "Al")


@pytest.mark.postgres
@pytest.mark.redis
async def test_main_process_applies_change_accepted_by_worker(cluster: Cluster) -> None:
    main, worker = cluster.processes["main"], cluster.processes["sync1"]
    alice = Person([worker.port], random.Random(1))
    rooms = await register_with_rooms(alice)
    await set_profile_field(alice, "displayname", "Al")
    await wait_for_all_rooms(alice, rooms, "displayname", "Al")

    await trio.to_thread.run_sync(main.kill)
    await set_profile_field(alice, "avatar_url", "mxc://hs.test/al")
    await trio.to_thread.run_sync(worker.kill)
    await trio.to_thread.run_sync(main.start)
    await trio.to_thread.run_sync(worker.start)

    await wait_for_all_rooms(alice, rooms, "avatar_url", "mxc://hs.test/al")


@pytest.mark.postgres
@pytest.mark.redis
async def test_profile_updates_of_two_processes_at_once_arrive_once(cluster: Cluster) -> None:
    ports = {name: process.port for name, process in cluster.processes.items()}
    alice = Person([ports["main"]], random.Random(1))
    writers = [Person([ports[name]], random.Random(2)) for name in ("sync1", "persister1")]
    await alice.register("alice")
    room = {"preset": "public_chat"}
    room_id = (await alice.request("POST", f"{CLIENT}/createRoom", room)).json["room_id"]
    for number, writer in enumerate(writers):
        await writer.register(f"writer{number}")
        await writer.request("POST", f"{CLIENT}/join/{quote(room_id)}", {})
    fields = [f"org.example.f{number}" for number in range(FIELDS)]
    since = (await sync_profiles(alice, fields, None))["next_batch"]

    async with trio.open_nursery() as nursery:
        for writer in writers:
            for field in fields:
                nursery.start_soon(set_profile_field, writer, field, field)
    received: list[tuple[str, str]] = []
    with trio.fail_after(LIMIT_S):
        while len(received) < len(writers) * FIELDS:
            response = await sync_profiles(alice, fields, since, timeout_ms=10_000)
            since = response["next_batch"]
            received += updates_of(response)
    last = await sync_profiles(alice, fields, since)

    expected = [(writer.user_id, field) for writer in writers for field in fields]
    assert sorted(received) == sorted(expected)
    assert updates_of(last) == []


async def sync_profiles(
    person: Person, fields: list[str], since: str | None, timeout_ms: int = 0
) -> Any:
    """Sync with a filter that names profile fields."""
    sync_filter = json.dumps({"org.matrix.msc4429.profile_fields": {"ids": fields}})
    query = {"filter": sync_filter, "timeout": timeout_ms, "set_presence": "offline"}
    if since is not None:
        query["since"] = since
    return (await person.request("GET", f"{CLIENT}/sync?{urlencode(query)}")).json


def updates_of(response: Any) -> list[tuple[str, str]]:
    """Return the (user ID, field) of each profile update in a response."""
    users = response.get("org.matrix.msc4429.users", {})
    return [(user, field) for user in users for field in users[user]["profile_updates"]]
