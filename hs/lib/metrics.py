"""Prometheus metrics: made once per registry, and written out for the scraper.

Each process has one `Metrics`; tests make their own, so nothing is counted twice or across.
"""

from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

CONTENT_TYPE = CONTENT_TYPE_LATEST

# Seconds; from a cached answer to a slow join over federation.
LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)


class Metrics:
    """The metrics of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._made: dict[str, Counter | Gauge | Histogram] = {}

    def counter(self, name: str, what: str, labels: Sequence[str] = ()) -> Counter:
        """Make, or find, a count that only rises."""
        found = self._made.get(name)
        if found is None:
            found = self._made[name] = Counter(name, what, labels, registry=self.registry)
        assert isinstance(found, Counter), name
        return found

    def gauge(self, name: str, what: str, labels: Sequence[str] = ()) -> Gauge:
        """Make, or find, a number that rises and falls."""
        found = self._made.get(name)
        if found is None:
            found = self._made[name] = Gauge(name, what, labels, registry=self.registry)
        assert isinstance(found, Gauge), name
        return found

    def gauge_of(self, name: str, what: str, read: Callable[[], float]) -> None:
        """Make a gauge that is read when it is scraped."""
        self.gauge(name, what).set_function(read)

    def histogram(
        self,
        name: str,
        what: str,
        labels: Sequence[str] = (),
        buckets: Iterable[float] = LATENCY_BUCKETS,
    ) -> Histogram:
        """Make, or find, a distribution."""
        found = self._made.get(name)
        if found is None:
            found = self._made[name] = Histogram(
                name, what, labels, registry=self.registry, buckets=tuple(buckets)
            )
        assert isinstance(found, Histogram), name
        return found

    def watch_process(self) -> None:
        """Add what the interpreter and the operating system tell about this process."""
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def render(self) -> bytes:
        """Write all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
