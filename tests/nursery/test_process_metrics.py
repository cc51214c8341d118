"""What a process tells Prometheus, and whether the page about it is true."""

import gc
from pathlib import Path

import pytest

from hs.apis.web.request_log import RequestLog
from hs.lib.aio import Bridge
from hs.lib.caching.lru_cache import LruCache
from hs.lib.clock import SystemClock
from hs.lib.metrics import Family
from hs.nursery.compose import compose
from hs.nursery.plan import plan_of
from hs.nursery.process import Process
from hs.settings.settings import Settings
from hs.storage.database import Database
from tests.nursery.conftest import Load

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
SEVERAL = """
enable_metrics: true
worker_replication_secret: secret
redis: {enabled: true}
instance_map: {main: {host: 127.0.0.1, port: 9093}, second: {host: 127.0.0.1, port: 9094}}
stream_writers: {events: second}
database: {name: psycopg2, args: {database: hs}}
"""


def composed(settings: Settings, bridge: Bridge, database: Database) -> Process:
    return compose(settings, plan_of(settings), SystemClock(), bridge, database)


def row_of(family: Family) -> str:
    labels = ", ".join(f"`{label}`" for label in family.labels) or "–"
    return f"| `{family.name}` | {family.kind} | {labels} | {family.what}. |"


def rows_of_page() -> list[str]:
    lines = PAGE.read_text().splitlines()
    return [line for line in lines if line.startswith(("| `hs_", "| `synapse_"))]


async def test_the_page_lists_every_metric_and_no_other(
    load: Load, alone: str, bridge: Bridge, database: Database
) -> None:
    # No process alone has all.
    main = composed(load(alone, SEVERAL), bridge, database)
    alone_too = composed(load(alone, "enable_metrics: true"), bridge, database)
    RequestLog(main.metrics)
    families = {*main.metrics.families, *alone_too.metrics.families}

    assert sorted(map(row_of, families)) == sorted(rows_of_page())


async def test_every_cache_of_a_process_is_told_of(
    load: Load, alone: str, bridge: Bridge, database: Database
) -> None:
    settings = load(alone, "enable_metrics: true")
    gc.collect()
    before = {id(one) for one in gc.get_objects() if isinstance(one, LruCache)}

    process = composed(settings, bridge, database)

    gc.collect()
    made = {
        one.name for one in gc.get_objects() if isinstance(one, LruCache) and id(one) not in before
    }
    scraped = process.metrics.render().decode()
    assert len(made) > 20
    assert [name for name in made if f'cache_max_size{{name="{name}"}}' not in scraped] == []


async def test_numbers_come_from_the_process_when_it_is_asked(
    load: Load, alone: str, bridge: Bridge, database: Database
) -> None:
    process = composed(load(alone, "enable_metrics: true"), bridge, database)
    before = process.metrics.render().decode()

    process.drain.enter()
    process.base.leases.held.add("instance:main")
    process.supervision.running["tidying"] = True
    process.supervision.restarts["tidying"] += 2

    after = process.metrics.render().decode()
    assert "hs_http_requests_running 0.0" in before
    assert "hs_http_requests_running 1.0" in after
    assert 'hs_lease_held{lease="instance:main"} 1.0' in after
    assert 'hs_duty_restarts_total{duty="tidying"} 2.0' in after


async def test_who_did_not_ask_for_metrics_does_not_pay_for_them(
    load: Load, alone: str, bridge: Bridge, database: Database
) -> None:
    process = composed(load(alone), bridge, database)

    assert "event loop lag" not in [duty.name for duty in process.duties]
    assert process.metrics.families == []


@pytest.mark.parametrize("kind", ["read", "snapshot", "write"])
async def test_units_of_work_are_counted_by_kind(database: Database, kind: str) -> None:
    ask = {
        "read": database.read,
        "snapshot": database.read_snapshot,
        "write": database.write,
    }[kind]

    await ask(_one)

    load = database.load()
    assert {name: tally.count for name, tally in load.units.items() if tally.count} == {kind: 1}
    assert (load.connections_used, load.waiting) == (0, 0)
    assert load.connections >= 1


async def _one(tx: object) -> None:
    """Ask for nothing."""
