"""A worker starts, serves requests and takes over duties while the main process is down."""

import random
from collections.abc import Iterator
from urllib.parse import quote

import pytest
import trio
import yaml

from tests.support.ledger import CLIENT, Person
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.processes import Cluster, running_cluster
from tests.support.servers.redis import RedisServer

pytestmark = [pytest.mark.process, pytest.mark.postgres, pytest.mark.redis]

LIMIT_S = 240.0
MOVED_DUTIES = {"duty:user directory", "duty:device cleanup"}
SELECT_HOLDERS = "SELECT name, holder FROM leases WHERE name LIKE 'duty:%' AND holder <> ''"


@pytest.fixture
def cluster(postgres_server: PostgresServer, redis_server: RedisServer) -> Iterator[Cluster]:
    """A server of three processes."""
    with running_cluster("T2", postgres_server, redis_server) as running:
        yield running


def duty_holders(cluster: Cluster, postgres: PostgresServer) -> dict[str, str]:
    """Return the instance that holds the lease of each leased duty."""
    lines = postgres.psql(SELECT_HOLDERS, database=cluster.database).splitlines()
    pairs = (line.rpartition("|") for line in lines)
    return {name: holder.partition("@")[0] for name, _, holder in pairs}


async def wait_for_duties(
    cluster: Cluster, postgres: PostgresServer, names: set[str], instance: str
) -> None:
    """Wait until an instance holds the leases of these duties."""
    with trio.fail_after(LIMIT_S):
        while True:
            instances = await trio.to_thread.run_sync(duty_holders, cluster, postgres)
            held = {name for name, holder in instances.items() if holder == instance}
            if names <= held:
                return
            await trio.sleep(0.1)


async def test_worker_started_without_main_serves_and_takes_over_duties(
    cluster: Cluster, postgres_server: PostgresServer
) -> None:
    main, worker = cluster.processes["main"], cluster.processes["sync1"]
    alice = Person([worker.port], random.Random(1))
    await alice.register("alice")
    created = await alice.request("POST", f"{CLIENT}/createRoom", {"preset": "public_chat"})
    room = f"{CLIENT}/rooms/{quote(created.json['room_id'])}"
    since = (await alice.request("GET", f"{CLIENT}/sync")).json["next_batch"]
    await wait_for_duties(cluster, postgres_server, MOVED_DUTIES, "main")

    await trio.to_thread.run_sync(main.kill)
    await trio.to_thread.run_sync(worker.stop)
    shared = main.configs[0]
    settings = {"run_background_tasks_on": "sync1", "update_user_directory_from_worker": "sync1"}
    shared.write_text(yaml.safe_dump({**yaml.safe_load(shared.read_text()), **settings}))
    await trio.to_thread.run_sync(worker.start)

    body = {"msgtype": "m.text", "body": "without main"}
    await alice.request("PUT", f"{room}/send/m.room.message/1", body)
    answer = (await alice.request("GET", f"{CLIENT}/sync?since={quote(since)}&timeout=10000")).json
    (joined,) = answer["rooms"]["join"].values()
    assert [event["content"]["body"] for event in joined["timeline"]["events"]] == ["without main"]
    initial_sync = (await alice.request("GET", f"{CLIENT}/sync")).json
    assert initial_sync["rooms"]["join"].keys() == answer["rooms"]["join"].keys()
    await wait_for_duties(cluster, postgres_server, MOVED_DUTIES, "sync1")
