"""The Prometheus metrics of running processes."""

from collections import defaultdict

import pytest

from tests.support.ledger import CLIENT, Person
from tests.support.servers.http_client import HttpClient
from tests.support.servers.processes import Cluster, ServerProcess

pytestmark = pytest.mark.process


Metrics = defaultdict[str, float]


async def scrape(process: ServerProcess) -> Metrics:
    """Return the metrics of a process by name and labels; 0 for those it does not have."""
    async with HttpClient(process.port) as client:
        response = await client.get("/_synapse/metrics")
    assert response.status == 200
    lines = response.body.decode().splitlines()
    samples = [line.rpartition(" ") for line in lines if not line.startswith("#")]
    return defaultdict(float, {name: float(value) for name, _, value in samples})


async def test_process_counts_its_own_work(cluster: Cluster) -> None:
    main = cluster.processes["main"]
    writer = cluster.processes.get("persister1", main)
    ada = Person([main.port], cluster.rng)
    await ada.register("ada_of_metrics")
    room_id = (await ada.request("POST", f"{CLIENT}/createRoom", {})).json["room_id"]
    message = {"msgtype": "m.text", "body": "count me"}
    before = await scrape(writer)

    await ada.request("PUT", f"{CLIENT}/rooms/{room_id}/send/m.room.message/t1", message)
    await ada.request("GET", f"{CLIENT}/sync?timeout=0")

    of_writer, of_main = await scrape(writer), await scrape(main)
    position = f'hs_stream_position{{stream="events",writer="{writer.name}"}}'
    for name in (
        position,
        'hs_stream_commits_total{stream="events"}',
        'hs_stream_commit_rows_total{stream="events"}',
        'hs_stream_commit_seconds_total{stream="events"}',
        'hs_database_units_total{kind="write"}',
    ):
        assert of_writer[name] > before[name], name
    assert of_writer['synapse_util_caches_cache_max_size{name="events"}'] > 0
    assert of_writer[f'hs_lease_held{{lease="instance:{writer.name}"}}'] == 1
    assert of_writer['hs_database_connections{state="idle"}'] > 0
    assert of_main["hs_http_connections"] >= 1
    assert of_main["synapse_notifier_users"] >= 1
    assert of_main['hs_duty_running{duty="long poll timeouts"}'] == 1
    assert of_main[position] == of_writer[position]


async def test_rpc_and_replication_are_counted_on_both_sides(cluster: Cluster) -> None:
    if cluster.layout != "T2":
        pytest.skip("there is one process only")
    main, writer = cluster.processes["main"], cluster.processes["persister1"]
    ada = Person([main.port], cluster.rng)
    await ada.register("ada_of_calls")
    await ada.request("POST", f"{CLIENT}/createRoom", {})

    caller, callee = await scrape(main), await scrape(writer)

    calls = {name: value for name, value in caller.items() if name.startswith("hs_rpc_calls")}
    assert sum(value for name, value in calls.items() if 'instance="persister1"' in name) >= 1
    assert (
        sum(value for name, value in callee.items() if name.startswith("hs_rpc_answers_total")) >= 1
    )
    for metrics in (caller, callee):
        assert metrics["hs_replication_connected"] == 1
        assert metrics["hs_replication_connections_total"] == 1
        assert metrics['hs_replication_messages_total{direction="in"}'] > 0
        assert metrics['hs_replication_messages_total{direction="out"}'] > 0
    assert 'hs_stream_lag{stream="events",writer="persister1"}' in caller
