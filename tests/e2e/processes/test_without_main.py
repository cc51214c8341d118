"""While the main process is dead: others start, answer, and take over what they are told to."""

import random
from collections.abc import Iterator
from urllib.parse import quote

import pytest
import trio
import yaml

from tests.support.ledger import CLIENT, Person
from tests.support.postgres import PostgresServer
from tests.support.processes import Cluster, running_cluster
from tests.support.redis import RedisServer

pytestmark = [pytest.mark.process, pytest.mark.postgres, pytest.mark.redis]

LIMIT_S = 240.0
MOVED = {"duty:user directory", "duty:forgetting old requests"}
HOLDERS = "SELECT name, holder FROM leases WHERE name LIKE 'duty:%' AND holder <> ''"


@pytest.fixture
def cluster(postgres_server: PostgresServer, redis_server: RedisServer) -> Iterator[Cluster]:
    """A server of three processes."""
    with running_cluster("T2", postgres_server, redis_server) as running:
        yield running


def holders(cluster: Cluster, postgres: PostgresServer) -> dict[str, str]:
    """Give the instance that has each duty that only one process may have."""
    lines = postgres.psql(HOLDERS, database=cluster.database).splitlines()
    pairs = (line.rpartition("|") for line in lines)
    return {name: holder.partition("@")[0] for name, _, holder in pairs}


async def holders_when(
    cluster: Cluster, postgres: PostgresServer, names: set[str], instance: str
) -> None:
    """Wait until an instance has these duties."""
    with trio.fail_after(LIMIT_S):
        while True:
            found = await trio.to_thread.run_sync(holders, cluster, postgres)
            held = {name for name, holder in found.items() if holder == instance}
            if names <= held:
                return
            await trio.sleep(0.1)


async def test_a_worker_that_starts_without_main_answers_and_takes_over_its_duties(
    cluster: Cluster, postgres_server: PostgresServer
) -> None:
    main, worker = cluster.processes["main"], cluster.processes["sync1"]
    alice = Person([worker.port], random.Random(1))
    await alice.register("alice")
    made = await alice.ask("POST", f"{CLIENT}/createRoom", {"preset": "public_chat"})
    room = f"{CLIENT}/rooms/{quote(made.json['room_id'])}"
    since = (await alice.ask("GET", f"{CLIENT}/sync")).json["next_batch"]
    await holders_when(cluster, postgres_server, MOVED, "main")

    await trio.to_thread.run_sync(main.kill)
    await trio.to_thread.run_sync(worker.stop)
    shared = main.configs[0]
    moved = {"run_background_tasks_on": "sync1", "update_user_directory_from_worker": "sync1"}
    shared.write_text(yaml.safe_dump({**yaml.safe_load(shared.read_text()), **moved}))
    await trio.to_thread.run_sync(worker.start)

    body = {"msgtype": "m.text", "body": "without main"}
    await alice.ask("PUT", f"{room}/send/m.room.message/1", body)
    answer = (await alice.ask("GET", f"{CLIENT}/sync?since={quote(since)}&timeout=10000")).json
    (joined,) = answer["rooms"]["join"].values()
    assert [one["content"]["body"] for one in joined["timeline"]["events"]] == ["without main"]
    first = (await alice.ask("GET", f"{CLIENT}/sync")).json
    assert first["rooms"]["join"].keys() == answer["rooms"]["join"].keys()
    await holders_when(cluster, postgres_server, MOVED, "sync1")
