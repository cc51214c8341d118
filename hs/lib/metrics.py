"""Prometheus metrics: their registration, and rendering for the scraper.

Each process has one `Metrics`; tests create their own, so nothing is counted twice or across tests.
Frequent events are counted as plain integers in the component itself, and read at scrape time.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import attrs
import trio
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

CONTENT_TYPE = CONTENT_TYPE_LATEST

# Seconds; from a cached response to a slow join over federation.
LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)

Kind = Literal["counter", "gauge", "histogram"]


@attrs.frozen
class MetricFamily:
    """A metric: its name as scraped, its help text and its labels."""

    name: str
    what: str
    labels: tuple[str, ...] = ()
    kind: Kind = "gauge"


MetricSample = tuple[MetricFamily, tuple[str, ...], float]
"""A value of a family, with the values of the family's labels."""


def counter_family(name: str, what: str, labels: tuple[str, ...] = ()) -> MetricFamily:
    """Describe a counter; its name gets the suffix `_total` that Prometheus requires."""
    return MetricFamily(f"{name}_total", what, labels, "counter")


class Metrics:
    """The metrics of one process; `families` lists those of this server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._render_limiter = trio.CapacityLimiter(1)
        self.families: list[MetricFamily] = []
        self._made: dict[str, Counter | Gauge | Histogram] = {}

    def add_source(
        self, families: Sequence[MetricFamily], read: Callable[[], Iterable[MetricSample]]
    ) -> None:
        """Call `read` for the samples of these families at every scrape."""
        self.families += families
        self.registry.register(_Watched(tuple(families), read))

    def counter(self, name: str, what: str, labels: Sequence[str] = ()) -> Counter:
        """Create or return a counter."""
        counter = self._made.get(name)
        if counter is None:
            counter = self._made[name] = Counter(name, what, labels, registry=self.registry)
            self.families.append(counter_family(name, what, tuple(labels)))
        assert isinstance(counter, Counter), name
        return counter

    def gauge(self, name: str, what: str, labels: Sequence[str] = ()) -> Gauge:
        """Create or return a gauge."""
        gauge = self._made.get(name)
        if gauge is None:
            gauge = self._made[name] = Gauge(name, what, labels, registry=self.registry)
            self.families.append(MetricFamily(name, what, tuple(labels)))
        assert isinstance(gauge, Gauge), name
        return gauge

    def function_gauge(self, name: str, what: str, read: Callable[[], float]) -> None:
        """Create a gauge that is read at every scrape."""
        self.gauge(name, what).set_function(read)

    def histogram(
        self,
        name: str,
        what: str,
        labels: Sequence[str] = (),
        buckets: Iterable[float] = LATENCY_BUCKETS,
    ) -> Histogram:
        """Create or return a histogram."""
        histogram = self._made.get(name)
        if histogram is None:
            histogram = self._made[name] = Histogram(
                name, what, labels, registry=self.registry, buckets=tuple(buckets)
            )
            self.families.append(MetricFamily(name, what, tuple(labels), "histogram"))
        assert isinstance(histogram, Histogram), name
        return histogram

    def add_process_metrics(self) -> None:
        """Add the metrics of the interpreter and of the operating system about this process."""
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    async def render_in_thread(self) -> bytes:
        """Return all metrics in Prometheus' text format, without delaying other tasks for long.

        They are collected here, where nothing changes meanwhile, and written in a thread.
        """
        collected = CollectorRegistry()
        collected.register(_Collected(list(self.registry.collect())))
        return await trio.to_thread.run_sync(
            generate_latest, collected, limiter=self._render_limiter
        )


@attrs.frozen(eq=False)
class _Collected:
    """A collector of the Prometheus library with samples that were read before."""

    families: list[Metric]

    def collect(self) -> list[Metric]:
        """Return the families with their samples."""
        return self.families


@attrs.frozen(eq=False)
class _Watched:
    """A collector of the Prometheus library that reads samples at scrape time."""

    families: tuple[MetricFamily, ...]
    read: Callable[[], Iterable[MetricSample]]

    def describe(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Yield the families without samples."""
        for family in self.families:
            yield _empty(family)

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Yield the families with their current samples."""
        families = {family: _empty(family) for family in self.families}
        for family, labels, number in self.read():
            families[family].add_metric(labels, number)
        yield from families.values()


def _empty(family: MetricFamily) -> GaugeMetricFamily | CounterMetricFamily:
    make = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    return make(family.name, family.what, labels=family.labels)
