"""What is told about each request: one log line, and metrics by the path's pattern."""

import itertools
import logging
from time import perf_counter

from prometheus_client import Counter, Histogram

from hs.apis.web.http_request import Call
from hs.apis.web.route import Endpoint
from hs.lib.log import REQUEST_ID, BatchedLines
from hs.lib.metrics import Metrics

access = logging.getLogger("hs.access")


class Observer:
    """Counts and logs requests; servers keep the count of `connections`."""

    def __init__(self, metrics: Metrics) -> None:
        self._responses = metrics.counter(
            "synapse_http_server_response_count", "Responses", ["method", "servlet", "code"]
        )
        self._seconds = metrics.histogram(
            "synapse_http_server_response_time_seconds", "Time to answer", ["method", "servlet"]
        )
        self.connections = 0
        metrics.gauge_of(
            "hs_http_connections", "Open connections from clients", lambda: self.connections
        )
        self.lines = BatchedLines(access)
        self._numbers = itertools.count(1)
        # Finding a labelled child costs more than counting with it.
        self._count_of: dict[tuple[str, str, int], Counter] = {}
        self._time_of: dict[tuple[str, str], Histogram] = {}

    def begin(self, method: str) -> float:
        """Give the request its ID, and start its time."""
        REQUEST_ID.set(f"{method}-{next(self._numbers)}")
        return perf_counter()

    def end(
        self, endpoint: Endpoint | None, call: Call, status: int, size: int, began: float
    ) -> None:
        """Count the request, and log it without its query, which may hold a token."""
        seconds = perf_counter() - began
        servlet = "unknown" if endpoint is None else endpoint.name
        method = "ANY" if endpoint is None else endpoint.method
        self._count(method, servlet, status, seconds)
        if access.isEnabledFor(logging.INFO):
            who = call.requester.user_id if call.requester is not None else call.origin or "-"
            target = call.target if endpoint is None else endpoint.pattern
            line = (
                f"{call.client_ip} {who} {call.method} {target} {status} {size}B "
                f"{seconds * 1000:.1f}ms"
            )
            self.lines.note(line)

    def _count(self, method: str, servlet: str, status: int, seconds: float) -> None:
        count = self._count_of.get((method, servlet, status))
        if count is None:
            count = self._responses.labels(method, servlet, str(status))
            self._count_of[method, servlet, status] = count
        count.inc()
        time = self._time_of.get((method, servlet))
        if time is None:
            time = self._time_of[method, servlet] = self._seconds.labels(method, servlet)
        time.observe(seconds)
