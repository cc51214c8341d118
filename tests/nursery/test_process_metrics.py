"""The metrics of a process, and the page of documentation that lists them."""

import gc
from pathlib import Path

import pytest

from hs.apis.web.request_log import RequestLog
from hs.lib.aio import Bridge
from hs.lib.caching.lru_cache import LruCache
from hs.lib.clock import SystemClock
from hs.lib.metrics import MetricFamily
from hs.nursery.compose import compose
from hs.nursery.plan import plan_of
from hs.nursery.process import Process
from hs.settings.settings import Settings
from hs.storage.database import Database
from tests.nursery.conftest import Load

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
SEVERAL_PROCESSES = """
enable_metrics: true
worker_replication_secret: secret
redis: {enabled: true}
instance_map: {main: {host: 127.0.0.1, port: 9093}, second: {host: 127.0.0.1, port: 9094}}
stream_writers: {events: second}
database: {name: psycopg2, args: {database: hs}}
"""


def composed_process(settings: Settings, bridge: Bridge, database: Database) -> Process:
    return compose(settings, plan_of(settings), SystemClock(), bridge, database)


def row_of(family: MetricFamily) -> str:
    labels = ", ".join(f"`{label}`" for label in family.labels) or "–"
    return f"| `{family.name}` | {family.kind} | {labels} | {family.what}. |"


def rows_of_page() -> list[str]:
    lines = PAGE.read_text().splitlines()
    return [line for line in lines if line.startswith(("| `hs_", "| `synapse_"))]


async def test_documentation_lists_exactly_the_metrics(
    load: Load, single_process: str, bridge: Bridge, database: Database
) -> None:
    # No single process has all metrics.
    main = composed_process(load(single_process, SEVERAL_PROCESSES), bridge, database)
    single = composed_process(load(single_process, "enable_metrics: true"), bridge, database)
    RequestLog(main.metrics)
    families = {*main.metrics.families, *single.metrics.families}

    assert sorted(map(row_of, families)) == sorted(rows_of_page())


async def test_every_cache_has_metrics(
    load: Load, single_process: str, bridge: Bridge, database: Database
) -> None:
    settings = load(single_process, "enable_metrics: true")
    gc.collect()
    before = {id(cache) for cache in gc.get_objects() if isinstance(cache, LruCache)}

    process = composed_process(settings, bridge, database)

    gc.collect()
    names = {
        cache.name
        for cache in gc.get_objects()
        if isinstance(cache, LruCache) and id(cache) not in before
    }
    scraped = process.metrics.render().decode()
    assert len(names) > 20
    assert [name for name in names if f'cache_max_size{{name="{name}"}}' not in scraped] == []


async def test_metrics_show_current_state_of_process(
    load: Load, single_process: str, bridge: Bridge, database: Database
) -> None:
    process = composed_process(load(single_process, "enable_metrics: true"), bridge, database)
    before = process.metrics.render().decode()

    process.drain.enter()
    process.supervision.running["tidying"] = True
    process.supervision.restarts["tidying"] += 2

    async with process.base.leases.hold("instance:main"):
        after = process.metrics.render().decode()
    assert "hs_http_requests_running 0.0" in before
    assert "hs_http_requests_running 1.0" in after
    assert 'hs_lease_held{lease="instance:main"} 1.0' in after
    assert 'hs_duty_restarts_total{duty="tidying"} 2.0' in after


async def test_nothing_is_measured_without_enable_metrics(
    load: Load, single_process: str, bridge: Bridge, database: Database
) -> None:
    process = composed_process(load(single_process), bridge, database)

    assert "event loop lag" not in [duty.name for duty in process.duties]
    assert process.metrics.families == []


@pytest.mark.parametrize("kind", ["read", "snapshot", "write"])
async def test_units_of_work_are_counted_by_kind(database: Database, kind: str) -> None:
    run_unit = {
        "read": database.read,
        "snapshot": database.read_snapshot,
        "write": database.write,
    }[kind]

    await run_unit(_no_queries)

    load = database.load()
    assert {name: tally.count for name, tally in load.units.items() if tally.count} == {kind: 1}
    assert (load.connections_used, load.waiting) == (0, 0)
    assert load.connections >= 1


async def _no_queries(tx: object) -> None:
    """Run no query."""
