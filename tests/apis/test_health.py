"""What balancers and scrapers see."""

from collections.abc import Mapping

import attrs

from hs.apis.health import HealthApi, MetricsApi
from hs.lib.metrics import Metrics
from tests.support.web import client_for


@attrs.define
class Checks:
    """A Readiness with fixed answers."""

    found: dict[str, str | None]

    async def check(self) -> Mapping[str, str | None]:
        return self.found


async def test_an_alive_process_says_ok() -> None:
    answer = await client_for(HealthApi(Checks({}))).get("/health")

    assert (answer.status, answer.body) == (200, b"OK")


async def test_readiness_names_what_is_wrong() -> None:
    checks = Checks({"database": None, "redis": None})
    client = client_for(HealthApi(checks))

    ready = await client.get("/health/ready")
    checks.found["redis"] = "no connection"
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

    answer = await client_for(MetricsApi(metrics)).get("/_synapse/metrics")

    assert answer.headers["content-type"].startswith("text/plain")
    assert b"cats_total 3.0" in answer.body
