"""Whether this process is alive, whether it can serve, and its metrics."""

from collections.abc import Mapping
from typing import Any, Protocol

import attrs

from hs.apis.web.auth import NONE
from hs.apis.web.render import Response, json_response
from hs.apis.web.route import route
from hs.lib.metrics import CONTENT_TYPE, Metrics


class Readiness(Protocol):
    """Tells whether this process can serve."""

    async def check(self) -> Mapping[str, str | None]:
        """Give what was looked at, each with what is wrong with it or None. Never raises."""
        ...


@attrs.frozen
class HealthApi:
    """`/health`, which asks nobody, and `/health/ready`, which asks everybody."""

    readiness: Readiness

    @route("GET", "/health", auth=NONE)
    async def alive(self) -> Response:
        """Answer that the process runs."""
        return Response(200, {"content-type": "text/plain; charset=utf-8"}, b"OK")

    @route("GET", "/health/ready", auth=NONE)
    async def ready(self) -> Response:
        """Answer 200 if requests should come here, 503 with the reasons if not."""
        checks = await self.readiness.check()
        is_ready = not any(checks.values())
        answer: dict[str, Any] = {
            "ready": is_ready,
            "checks": {name: fault or "ok" for name, fault in checks.items()},
        }
        return json_response(answer, 200 if is_ready else 503)


@attrs.frozen
class MetricsApi:
    """The scraper's page."""

    metrics: Metrics

    @route("GET", "/_synapse/metrics", auth=NONE, also=["/metrics"])
    async def scrape(self) -> Response:
        """Give all metrics in Prometheus' text format."""
        return Response(200, {"content-type": CONTENT_TYPE}, self.metrics.render())
