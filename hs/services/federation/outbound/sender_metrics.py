"""The metrics of a federation sender."""

from collections import Counter
from collections.abc import Iterator
from typing import Final

import trio

from hs.lib.metrics import MetricFamily, Metrics, MetricSample, counter_family
from hs.services.federation.outbound.destination import Destination
from hs.services.federation.outbound.federation_sender import FederationSender

STATES: Final = ("sending", "waiting", "failing", "behind")


def watch_sender(metrics: Metrics, sender: FederationSender) -> None:
    """Report the destinations of a sender, what waits for them, and what was sent."""
    destinations = MetricFamily(
        "hs_federation_destinations",
        "Destinations that are being sent to, wait for new events, fail, or have to catch up",
        ("state",),
    )
    queued = MetricFamily(
        "hs_federation_queued", "PDUs and EDUs waiting, counted for each server", ("kind",)
    )
    transactions = counter_family(
        "hs_federation_transactions_sent", "Transactions that servers accepted"
    )
    failures = counter_family("hs_federation_transactions_failed", "Transactions that failed")
    sent = counter_family(
        "hs_federation_sent", "PDUs and EDUs accepted, counted for each server", ("kind",)
    )

    def read() -> Iterator[MetricSample]:
        states = Counter(dict.fromkeys(STATES, 0))
        pdus = edus = 0
        for destination in sender.destinations:
            states[_state(destination)] += 1
            pdus += len(destination.pdus)
            edus += len(destination.edus)
        for state, count in states.items():
            yield destinations, (state,), count
        yield queued, ("pdu",), pdus
        yield queued, ("edu",), edus
        counts = sender.delivery.counts
        yield transactions, (), counts.transactions
        yield failures, (), counts.failures
        yield sent, ("pdu",), counts.pdus
        yield sent, ("edu",), counts.edus

    metrics.add_source((destinations, queued, transactions, failures, sent), read)


def _state(destination: Destination) -> str:
    if destination.behind is not None:
        return "behind"
    if destination.retry_s > trio.current_time():
        return "failing"
    return "sending" if destination.is_running else "waiting"
