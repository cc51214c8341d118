"""Health checks, and the metrics of this process."""

from collections.abc import Mapping
from typing import Any, Protocol

import attrs
import trio

from hs.apis.web.auth import NONE
from hs.apis.web.render import Response, json_response
from hs.apis.web.route import route
from hs.lib.metrics import CONTENT_TYPE, Metrics


class Readiness(Protocol):
    """Checks whether this process can serve requests."""

    async def check(self) -> Mapping[str, str | None]:
        """Return the fault of each dependency by name, or None if it works. Never raises."""
        ...


@attrs.define(eq=False)
class _Check:
    """A check that is running; `results` are missing if it was cancelled."""

    done: trio.Event = attrs.Factory(trio.Event)
    results: Mapping[str, str | None] | None = None


@attrs.define(eq=False)
class SharedReadiness:
    """A Readiness that makes one check for all requests that come meanwhile.

    Anybody may ask, and a flood of checks would take all connections to the database.
    """

    _readiness: Readiness
    _running: _Check | None = None

    async def check(self) -> Mapping[str, str | None]:
        """Return the fault of each dependency by name, or None if it works. Never raises."""
        while (running := self._running) is not None:
            await running.done.wait()
            if running.results is not None:
                return running.results
        running = self._running = _Check()
        try:
            running.results = await self._readiness.check()
            return running.results
        finally:
            self._running = None
            running.done.set()


@attrs.frozen
class HealthApi:
    """`/health`, which checks nothing, and `/health/ready`, which checks all dependencies."""

    readiness: Readiness

    @route("GET", "/health", auth=NONE)
    async def health(self) -> Response:
        """Return 200, as the process is running."""
        return Response(200, {"content-type": "text/plain; charset=utf-8"}, b"OK")

    @route("GET", "/health/ready", auth=NONE)
    async def ready(self) -> Response:
        """Return 200 if this process can serve requests, else 503; the body has the faults."""
        checks = await self.readiness.check()
        is_ready = not any(checks.values())
        response: dict[str, Any] = {
            "ready": is_ready,
            "checks": {name: fault or "ok" for name, fault in checks.items()},
        }
        return json_response(response, 200 if is_ready else 503)


@attrs.frozen
class MetricsApi:
    """The metrics for Prometheus."""

    metrics: Metrics

    @route("GET", "/_synapse/metrics", auth=NONE, extra_paths=["/metrics"])
    async def get_metrics(self) -> Response:
        """Return all metrics in the text format of Prometheus."""
        return Response(200, {"content-type": CONTENT_TYPE}, await self.metrics.render_in_thread())
