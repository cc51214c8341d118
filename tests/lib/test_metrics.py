"""Metrics: registration and rendering."""

import pytest

from hs.lib.metrics import Metrics


def test_same_counter_is_returned_for_same_name() -> None:
    metrics = Metrics()

    metrics.counter("cats", "Cats").inc()
    metrics.counter("cats", "Cats").inc()

    assert b"cats_total 2.0" in metrics.render()


def test_name_cannot_be_reused_for_another_kind() -> None:
    metrics = Metrics()
    metrics.counter("cats", "Cats")

    with pytest.raises(AssertionError):
        metrics.gauge("cats", "Cats")


def test_function_gauge_is_read_at_scrape_time() -> None:
    metrics = Metrics()
    cats = [1, 2]
    metrics.function_gauge("cats", "Cats", lambda: len(cats))
    cats.append(3)

    assert b"cats 3.0" in metrics.render()


def test_instances_do_not_share_metrics() -> None:
    Metrics().counter("cats", "Cats").inc()

    assert b"cats" not in Metrics().render()


async def test_metrics_written_in_a_thread_are_the_same() -> None:
    metrics = Metrics()
    metrics.counter("cats", "Cats", ["colour"]).labels("black").inc()
    metrics.histogram("purrs", "Purrs", []).observe(0.2)
    metrics.function_gauge("mice", "Mice", lambda: 3)

    assert await metrics.render_in_thread() == metrics.render()
