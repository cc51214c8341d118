"""Subscriptions to threads, if they are enabled."""

import attrs

from hs.apis.client.rooms.thread_subscriptions import ThreadSubscriptionsApi
from hs.core.streams import THREAD_SUBSCRIPTIONS
from hs.nursery.part import Part
from hs.nursery.process_base import ProcessBase
from hs.nursery.wiring.rooms.reading import RoomReading
from hs.services.rooms.threads.thread_subscriptions import (
    SubscriptionTable,
    SubscriptionWriter,
    ThreadSubscriptions,
)


@attrs.frozen(eq=False, kw_only=True)
class ThreadServices:
    """Subscriptions to threads; None if they are disabled."""

    subscriptions: ThreadSubscriptions | None
    part: Part


def wire_threads(base: ProcessBase, reading: RoomReading) -> ThreadServices:
    """Build subscriptions to threads."""
    writer = base.owned(
        SubscriptionWriter,
        THREAD_SUBSCRIPTIONS,
        lambda: SubscriptionTable(base.table(THREAD_SUBSCRIPTIONS)),
    )
    if not base.settings.proposals.experimental_features.thread_subscriptions:
        return ThreadServices(subscriptions=None, part=Part())
    threads = ThreadSubscriptions(base.database, base.feed, writer, reading.timelines)
    return ThreadServices(
        subscriptions=threads, part=Part(endpoints=[ThreadSubscriptionsApi(threads)])
    )
