"""Health checks, and the page of metrics."""

import attrs

from hs.apis.health import HealthApi, MetricsApi
from hs.lib.health import Cause, Health, HealthState, NoticedCause
from hs.lib.metrics import Metrics
from tests.support.web import client_for

CHECKS = ("database", "replication")


@attrs.define
class FixedHealth:
    """A source with a fixed result."""

    health: Health

    async def check(self) -> Health:
        return self.health


def health_with(code: str, state: HealthState) -> Health:
    cause = Cause(code=code, check="replication", subject="main", message="it hangs", state=state)
    return Health(causes=(NoticedCause(cause=cause, since_ms=7),))


async def test_health_of_a_running_process_is_ok() -> None:
    response = await client_for(HealthApi(FixedHealth(Health()), CHECKS)).get("/health")

    assert (response.status, response.body) == (200, b"OK")


async def test_readiness_is_ready_degraded_or_unready_with_causes() -> None:
    source = FixedHealth(Health())
    client = client_for(HealthApi(source, CHECKS))

    ready = await client.get("/health/ready")
    source.health = health_with("process_hung", HealthState.DEGRADED)
    degraded = await client.get("/health/ready")
    source.health = health_with("secret_differs", HealthState.UNREADY)
    unready = await client.get("/health/ready")

    all_ok = {"database": "ok", "replication": "ok"}
    assert ready.status == 200
    assert ready.json == {"ready": True, "status": "ready", "causes": [], "checks": all_ok}
    cause = {"subject": "main", "message": "it hangs", "since": 7}
    assert degraded.status == 200
    assert degraded.json == {
        "ready": True,
        "status": "degraded",
        "causes": [{"code": "process_hung", "status": "degraded", **cause}],
        "checks": all_ok,
    }
    assert unready.status == 503
    assert unready.json == {
        "ready": False,
        "status": "unready",
        "causes": [{"code": "secret_differs", "status": "unready", **cause}],
        "checks": {"database": "ok", "replication": "it hangs"},
    }


async def test_metrics_are_scraped_as_text() -> None:
    metrics = Metrics()
    metrics.counter("cats", "Cats seen").inc(3)

    response = await client_for(MetricsApi(metrics)).get("/_synapse/metrics")

    assert response.headers["content-type"].startswith("text/plain")
    assert b"cats_total 3.0" in response.body
