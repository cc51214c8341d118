"""What real processes tell Prometheus about what they did."""

from collections import defaultdict

import pytest

from tests.support.http_client import HttpClient
from tests.support.ledger import CLIENT, Person
from tests.support.processes import Cluster, ServerProcess

pytestmark = pytest.mark.process


Numbers = defaultdict[str, float]


async def scraped(process: ServerProcess) -> Numbers:
    """Read the metrics of a process: each number by its name and labels, 0 where there is none."""
    async with HttpClient(process.port) as client:
        answer = await client.get("/_synapse/metrics")
    assert answer.status == 200
    lines = answer.body.decode().splitlines()
    pairs = [line.rpartition(" ") for line in lines if not line.startswith("#")]
    return defaultdict(float, {name: float(value) for name, _, value in pairs})


async def test_what_happened_is_told_by_the_process_that_did_it(cluster: Cluster) -> None:
    main = cluster.processes["main"]
    writer = cluster.processes.get("persister1", main)
    ada = Person([main.port], cluster.rng)
    await ada.register("ada_of_metrics")
    room_id = (await ada.ask("POST", f"{CLIENT}/createRoom", {})).json["room_id"]
    message = {"msgtype": "m.text", "body": "count me"}
    before = await scraped(writer)

    await ada.ask("PUT", f"{CLIENT}/rooms/{room_id}/send/m.room.message/t1", message)
    await ada.ask("GET", f"{CLIENT}/sync?timeout=0")

    told, of_main = await scraped(writer), await scraped(main)
    position = f'hs_stream_position{{stream="events",writer="{writer.name}"}}'
    for name in (
        position,
        'hs_stream_commits_total{stream="events"}',
        'hs_stream_commit_rows_total{stream="events"}',
        'hs_stream_commit_seconds_total{stream="events"}',
        'hs_database_units_total{kind="write"}',
    ):
        assert told[name] > before[name], name
    assert told['synapse_util_caches_cache_max_size{name="events"}'] > 0
    assert told[f'hs_lease_held{{lease="instance:{writer.name}"}}'] == 1
    assert told['hs_database_connections{state="idle"}'] > 0
    assert of_main["hs_http_connections"] >= 1
    assert of_main["synapse_notifier_users"] >= 1
    assert of_main['hs_duty_running{duty="long poll timeouts"}'] == 1
    assert of_main[position] == told[position]


async def test_processes_tell_of_each_other(cluster: Cluster) -> None:
    if cluster.layout != "T2":
        pytest.skip("there is one process only")
    main, writer = cluster.processes["main"], cluster.processes["persister1"]
    ada = Person([main.port], cluster.rng)
    await ada.register("ada_of_calls")
    await ada.ask("POST", f"{CLIENT}/createRoom", {})

    caller, called = await scraped(main), await scraped(writer)

    made = {name: number for name, number in caller.items() if name.startswith("hs_rpc_calls")}
    assert sum(number for name, number in made.items() if 'instance="persister1"' in name) >= 1
    assert sum(n for name, n in called.items() if name.startswith("hs_rpc_answers_total")) >= 1
    for numbers in (caller, called):
        assert numbers["hs_replication_connected"] == 1
        assert numbers["hs_replication_connections_total"] == 1
        assert numbers['hs_replication_messages_total{direction="in"}'] > 0
        assert numbers['hs_replication_messages_total{direction="out"}'] > 0
    assert 'hs_stream_lag{stream="events",writer="persister1"}' in caller
