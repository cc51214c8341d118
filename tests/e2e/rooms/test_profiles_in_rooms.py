"""A new name reaches all rooms of its user, whichever process is killed before it has."""

import random
from collections.abc import Iterator
from urllib.parse import quote

import pytest
import trio

from tests.support.ledger import CLIENT, Person
from tests.support.postgres import PostgresServer
from tests.support.processes import Cluster, running_cluster
from tests.support.redis import RedisServer

pytestmark = pytest.mark.process

LIMIT_S = 240.0
ROOMS = 30


@pytest.fixture(params=["T0", pytest.param("T1", marks=pytest.mark.postgres)])
def server(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """One process, on each engine."""
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


async def in_rooms(person: Person) -> list[str]:
    """Register somebody and put them into rooms."""
    await person.register("alice")
    made = [await person.ask("POST", f"{CLIENT}/createRoom", {}) for _ in range(ROOMS)]
    return [one.json["room_id"] for one in made]


async def change(person: Person, field: str, value: str) -> None:
    """Change a field of somebody's profile."""
    await person.ask("PUT", f"{CLIENT}/profile/{quote(person.user_id)}/{field}", {field: value})


async def shown_everywhere(person: Person, room_ids: list[str], field: str, value: str) -> None:
    """Wait until all rooms show somebody's field."""
    with trio.fail_after(LIMIT_S):
        for room_id in room_ids:
            await shown(person, room_id, field, value)


async def shown(person: Person, room_id: str, field: str, value: str) -> None:
    """Wait until one room does."""
    target = f"{CLIENT}/rooms/{quote(room_id)}/state/m.room.member/{quote(person.user_id)}"
    while True:
        if (await person.ask("GET", target)).json.get(field) == value:
            return
        await trio.sleep(0.1)


async def test_a_server_that_is_killed_at_once_shows_the_name_after_its_start(
    server: Cluster,
) -> None:
    main = server.processes["main"]
    alice = Person([main.port], random.Random(1))
    rooms = await in_rooms(alice)

    await change(alice, "displayname", "Al")
    await trio.to_thread.run_sync(main.kill)
    await trio.to_thread.run_sync(main.start)

    await shown_everywhere(alice, rooms, "displayname", "Al")


@pytest.mark.postgres
@pytest.mark.redis
async def test_what_a_worker_took_is_shown_by_the_process_with_the_duty(cluster: Cluster) -> None:
    main, worker = cluster.processes["main"], cluster.processes["sync1"]
    alice = Person([worker.port], random.Random(1))
    rooms = await in_rooms(alice)
    await change(alice, "displayname", "Al")
    await shown_everywhere(alice, rooms, "displayname", "Al")

    await trio.to_thread.run_sync(main.kill)
    await change(alice, "avatar_url", "mxc://hs.test/al")
    await trio.to_thread.run_sync(worker.kill)
    await trio.to_thread.run_sync(main.start)
    await trio.to_thread.run_sync(worker.start)

    await shown_everywhere(alice, rooms, "avatar_url", "mxc://hs.test/al")
