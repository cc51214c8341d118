"""Prometheus metrics: made once per registry, and written out for the scraper.

Each process has one `Metrics`; tests make their own, so nothing is counted twice or across. What
happens often is counted in plain integers by whoever does it, and looked at when it is scraped.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import attrs
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

CONTENT_TYPE = CONTENT_TYPE_LATEST

# Seconds; from a cached answer to a slow join over federation.
LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)

Kind = Literal["counter", "gauge", "histogram"]


@attrs.frozen
class Family:
    """A metric: its name as it is scraped, what it tells, and by what it is told apart."""

    name: str
    what: str
    labels: tuple[str, ...] = ()
    kind: Kind = "gauge"


Sample = tuple[Family, tuple[str, ...], float]
"""A number, with the values of its family's labels."""


def rising(name: str, what: str, labels: tuple[str, ...] = ()) -> Family:
    """Describe a count that only rises; as Prometheus wants it, its name ends in `_total`."""
    return Family(f"{name}_total", what, labels, "counter")


class Metrics:
    """The metrics of one process; `families` lists those that are ours."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self.families: list[Family] = []
        self._made: dict[str, Counter | Gauge | Histogram] = {}

    def watch(self, families: Sequence[Family], read: Callable[[], Iterable[Sample]]) -> None:
        """Have `read` asked for the samples of these families whenever they are scraped."""
        self.families += families
        self.registry.register(_Watched(tuple(families), read))

    def counter(self, name: str, what: str, labels: Sequence[str] = ()) -> Counter:
        """Make, or find, a count that only rises."""
        found = self._made.get(name)
        if found is None:
            found = self._made[name] = Counter(name, what, labels, registry=self.registry)
            self.families.append(rising(name, what, tuple(labels)))
        assert isinstance(found, Counter), name
        return found

    def gauge(self, name: str, what: str, labels: Sequence[str] = ()) -> Gauge:
        """Make, or find, a number that rises and falls."""
        found = self._made.get(name)
        if found is None:
            found = self._made[name] = Gauge(name, what, labels, registry=self.registry)
            self.families.append(Family(name, what, tuple(labels)))
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
            self.families.append(Family(name, what, tuple(labels), "histogram"))
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


@attrs.frozen(eq=False)
class _Watched:
    """What Prometheus' library asks for numbers."""

    families: tuple[Family, ...]
    read: Callable[[], Iterable[Sample]]

    def describe(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Tell the names, without looking."""
        for family in self.families:
            yield _empty(family)

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Look."""
        found = {family: _empty(family) for family in self.families}
        for family, labels, number in self.read():
            found[family].add_metric(labels, number)
        yield from found.values()


def _empty(family: Family) -> GaugeMetricFamily | CounterMetricFamily:
    make = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    return make(family.name, family.what, labels=family.labels)
