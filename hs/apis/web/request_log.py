"""The access log and the metrics of requests."""

import itertools
import logging
from time import perf_counter

from prometheus_client import Counter, Histogram

from hs.apis.web.buffers import BufferBudget
from hs.apis.web.http_request import HttpRequest
from hs.apis.web.route import Endpoint
from hs.lib.log import REQUEST_ID, BatchedLines
from hs.lib.metrics import Metrics

access_log = logging.getLogger("hs.access")

_MAX_PATH_CHARS = 200


class RequestLog:
    """Logs and counts requests; the server sets the number of `connections` and its `buffers`."""

    def __init__(self, metrics: Metrics) -> None:
        self._responses = metrics.counter(
            "synapse_http_server_response_count", "Responses", ["method", "servlet", "code"]
        )
        self._seconds = metrics.histogram(
            "synapse_http_server_response_time_seconds", "Time to answer", ["method", "servlet"]
        )
        self.connections = 0
        metrics.function_gauge(
            "hs_http_connections", "Open connections from clients", lambda: self.connections
        )
        self.buffers = BufferBudget(0)
        metrics.function_gauge(
            "hs_http_buffered_bytes",
            "Bytes kept for clients that send or read slowly",
            lambda: self.buffers.total.used_bytes,
        )
        self.lines = BatchedLines(access_log)
        self._numbers = itertools.count(1)
        # Looking up the child of a metric by its labels costs more than counting with it.
        self._counters: dict[tuple[str, str, int], Counter] = {}
        self._histograms: dict[tuple[str, str], Histogram] = {}

    def begin(self, method: str) -> float:
        """Set the ID of the request for the log, and return the time at which it began."""
        REQUEST_ID.set(f"{method}-{next(self._numbers)}")
        return perf_counter()

    def end(
        self,
        endpoint: Endpoint | None,
        http_request: HttpRequest,
        status: int,
        size: int,
        started: float,
    ) -> None:
        """Count the request, and log it without its query, which may contain an access token."""
        seconds = perf_counter() - started
        servlet = "unknown" if endpoint is None else endpoint.name
        method = "ANY" if endpoint is None else endpoint.method
        self._count(method, servlet, status, seconds)
        if access_log.isEnabledFor(logging.INFO):
            requester = http_request.requester
            caller = http_request.origin or "-" if requester is None else requester.user_id
            path = endpoint.pattern if endpoint else http_request.raw_path[:_MAX_PATH_CHARS]
            line = (
                f"{http_request.client_ip} {caller} {http_request.method} {path} {status} {size}B "
                f"{seconds * 1000:.1f}ms"
            )
            self.lines.note(line)

    def _count(self, method: str, servlet: str, status: int, seconds: float) -> None:
        counter = self._counters.get((method, servlet, status))
        if counter is None:
            counter = self._responses.labels(method, servlet, str(status))
            self._counters[method, servlet, status] = counter
        counter.inc()
        histogram = self._histograms.get((method, servlet))
        if histogram is None:
            histogram = self._seconds.labels(method, servlet)
            self._histograms[method, servlet] = histogram
        histogram.observe(seconds)
