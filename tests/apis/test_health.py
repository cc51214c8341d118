"""Health checks, and the page of metrics."""

from collections.abc import Mapping

import attrs
import trio
import trio.testing

from hs.apis.health import HealthApi, MetricsApi, SharedReadiness
from hs.lib.metrics import Metrics
from tests.support.web import client_for


@attrs.define
class FixedReadiness:
    """A Readiness with fixed results."""

    results: dict[str, str | None]

    async def check(self) -> Mapping[str, str | None]:
        return self.results


async def test_health_of_a_running_process_is_ok() -> None:
    response = await client_for(HealthApi(FixedReadiness({}))).get("/health")

    assert (response.status, response.body) == (200, b"OK")


async def test_readiness_names_the_failed_check() -> None:
    readiness = FixedReadiness({"database": None, "redis": None})
    client = client_for(HealthApi(readiness))

    ready = await client.get("/health/ready")
    readiness.results["redis"] = "no connection"
    unready = await client.get("/health/ready")

    assert (ready.status, ready.json["ready"]) == (200, True)
    assert unready.status == 503
    assert unready.json == {
        "ready": False,
        "checks": {"database": "ok", "redis": "no connection"},
    }


async def test_metrics_are_scraped_as_text() -> None:
    metrics = Metrics()
    metrics.counter("cats", "Cats seen").inc(3)

    response = await client_for(MetricsApi(metrics)).get("/_synapse/metrics")

    assert response.headers["content-type"].startswith("text/plain")
    assert b"cats_total 3.0" in response.body


@attrs.define
class SlowReadiness:
    """A Readiness that counts its checks and takes a second for each."""

    checks: int = 0

    async def check(self) -> Mapping[str, str | None]:
        self.checks += 1
        await trio.sleep(1)
        return {"database": f"check {self.checks}"}


async def test_requests_at_the_same_time_share_one_check(
    autojump_clock: trio.testing.MockClock,
) -> None:
    readiness = SlowReadiness()
    shared = SharedReadiness(readiness)
    results = []

    async def ask() -> None:
        results.append(await shared.check())

    with trio.move_on_after(0.5):
        await shared.check()  # it is cancelled, and the next one begins anew
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(ask)
    await ask()

    assert readiness.checks == 3
    assert results == [{"database": "check 2"}] * 100 + [{"database": "check 3"}]
