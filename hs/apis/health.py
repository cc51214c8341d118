"""Health checks, and the metrics of this process."""

from collections.abc import Sequence
from typing import Any, Protocol

import attrs

from hs.apis.web.auth import NONE
from hs.apis.web.render import Response, json_response
from hs.apis.web.route import route
from hs.lib.health import Health, HealthState, NoticedCause
from hs.lib.metrics import CONTENT_TYPE, Metrics


class HealthSource(Protocol):
    """Finds out whether this process can serve requests."""

    async def check(self) -> Health:
        """Return the health, within seconds. Never raises."""
        ...


@attrs.frozen
class HealthApi:
    """`/health`, which checks nothing, and `/health/ready`, which checks all dependencies.

    Anybody may ask: the source must make one check for all requests that come meanwhile. `checks`
    are the groups of causes.
    """

    source: HealthSource
    checks: Sequence[str]

    @route("GET", "/health", auth=NONE)
    async def health(self) -> Response:
        """Return 200, as the process is running."""
        return Response(200, {"content-type": "text/plain; charset=utf-8"}, b"OK")

    @route("GET", "/health/ready", auth=NONE)
    async def ready(self) -> Response:
        """Return 200 if this process can serve requests, else 503; the body has the causes."""
        health = await self.source.check()
        is_ready = health.state is not HealthState.UNREADY
        response: dict[str, Any] = {
            "ready": is_ready,
            "status": health.state.label,
            "causes": [_render_cause(noticed) for noticed in health.causes],
            "checks": {check: _fault_of(health, check) or "ok" for check in self.checks},
        }
        return json_response(response, 200 if is_ready else 503)


def _render_cause(noticed: NoticedCause) -> dict[str, Any]:
    cause = noticed.cause
    return {
        "code": cause.code,
        "status": cause.state.label,
        "subject": cause.subject,
        "message": cause.message,
        "since": noticed.since_ms,
    }


def _fault_of(health: Health, check: str) -> str | None:
    """Return the first cause of a group that makes the process unready, or None."""
    for noticed in health.causes:
        cause = noticed.cause
        if cause.check == check and cause.state is HealthState.UNREADY:
            return cause.message
    return None


@attrs.frozen
class MetricsApi:
    """The metrics for Prometheus."""

    metrics: Metrics

    @route("GET", "/_synapse/metrics", auth=NONE, extra_paths=["/metrics"])
    async def get_metrics(self) -> Response:
        """Return all metrics in the text format of Prometheus."""
        return Response(200, {"content-type": CONTENT_TYPE}, await self.metrics.render_in_thread())
