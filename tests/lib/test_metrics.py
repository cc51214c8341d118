"""Metrics are made once and written out."""

import pytest

from hs.lib.metrics import Metrics


def test_a_metric_is_made_once() -> None:
    metrics = Metrics()

    metrics.counter("cats", "Cats").inc()
    metrics.counter("cats", "Cats").inc()

    assert b"cats_total 2.0" in metrics.render()


def test_a_name_keeps_its_kind() -> None:
    metrics = Metrics()
    metrics.counter("cats", "Cats")

    with pytest.raises(AssertionError):
        metrics.gauge("cats", "Cats")


def test_gauges_are_read_when_scraped() -> None:
    metrics = Metrics()
    cats = [1, 2]
    metrics.gauge_of("cats", "Cats", lambda: len(cats))
    cats.append(3)

    assert b"cats 3.0" in metrics.render()


def test_processes_do_not_share_metrics() -> None:
    Metrics().counter("cats", "Cats").inc()

    assert b"cats" not in Metrics().render()
