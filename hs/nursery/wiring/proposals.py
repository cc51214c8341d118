"""What goes beyond the released specification and belongs to no other subject."""

import attrs

from hs.apis.client.thread_subscriptions import ThreadSubscriptionsApi
from hs.nursery.foundation import Foundation
from hs.nursery.wiring.reading import Reading
from hs.repl.streams import THREAD_SUBSCRIPTIONS
from hs.services.rooms.thread_subscriptions import (
    SubscriptionTable,
    SubscriptionWriter,
    ThreadSubscriptions,
)


@attrs.frozen(eq=False, kw_only=True)
class Proposals:
    """The services; None: switched off."""

    threads: ThreadSubscriptions | None


def wire_proposals(ground: Foundation, reading: Reading) -> Proposals:
    """Build them."""
    writer = ground.owned(
        SubscriptionWriter,
        THREAD_SUBSCRIPTIONS,
        lambda: SubscriptionTable(ground.table(THREAD_SUBSCRIPTIONS)),
    )
    threads = ThreadSubscriptions(ground.database, ground.feed, writer, reading.timelines)
    is_on = ground.settings.proposals.experimental_features.thread_subscriptions
    return Proposals(threads=threads if is_on else None)


def proposal_apis(proposals: Proposals) -> list[object]:
    """Give the endpoints of those that are on."""
    return [] if proposals.threads is None else [ThreadSubscriptionsApi(proposals.threads)]
