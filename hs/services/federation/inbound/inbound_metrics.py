"""Metrics of what other servers send."""

from collections.abc import Iterator

from hs.lib.metrics import MetricFamily, Metrics, MetricSample, counter_family
from hs.services.federation.inbound.edus import InboundEdus
from hs.services.federation.inbound.inbound_pdus import OwnedInboundPdus
from hs.services.federation.inbound.pdu_queues import PduQueues


def watch_edus(metrics: Metrics, edus: InboundEdus) -> None:
    """Report the EDUs that this process has received."""
    received = counter_family(
        "hs_federation_inbound_edus",
        "EDUs of other servers, by type or `unknown`; `skipped` if malformed or not allowed",
        ("type",),
    )

    def read() -> Iterator[MetricSample]:
        for edu_type, count in edus.counts.items():
            yield received, (edu_type,), count

    metrics.add_source((received,), read)


def watch_pdus(metrics: Metrics, pdus: OwnedInboundPdus, queues: PduQueues) -> None:
    """Report the PDUs for the rooms that this process owns."""
    received = counter_family(
        "hs_federation_inbound_pdus", "PDUs of other servers, by outcome", ("outcome",)
    )
    refused = counter_family(
        "hs_federation_inbound_pdus_refused", "PDUs that were refused or rejected", ("origin",)
    )
    given_up = counter_family(
        "hs_federation_inbound_pdus_given_up",
        "PDUs deleted because events that they cite could not be fetched",
    )
    waiting = MetricFamily(
        "hs_federation_inbound_pdus_waiting", "PDUs that wait for events that they cite"
    )
    lag = MetricFamily("hs_federation_inbound_lag_seconds", "Age of the oldest PDU that waits")

    def read() -> Iterator[MetricSample]:
        for outcome, count in pdus.counts.outcomes.items():
            yield received, (outcome,), count
        for origin, count in pdus.counts.refused.items():
            yield refused, (origin,), count
        yield given_up, (), queues.given_up
        yield waiting, (), queues.length
        yield lag, (), queues.lag_s

    metrics.add_source((received, refused, given_up, waiting, lag), read)
