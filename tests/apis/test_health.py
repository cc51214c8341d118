"""Health checks, and the page of metrics."""

from collections.abc import Mapping

import attrs

from hs.apis.health import HealthApi, MetricsApi
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
