"""What goes beyond the released specification and belongs to no other subject."""

import attrs

from hs.apis.client.rooms.mutual_rooms import MutualRoomsApi
from hs.apis.client.rooms.thread_subscriptions import ThreadSubscriptionsApi
from hs.apis.client.server.rtc import RtcApi
from hs.nursery.process_base import Foundation
from hs.nursery.wiring.room_reading import Reading
from hs.repl.streams import THREAD_SUBSCRIPTIONS
from hs.services.rooms.read.mutual_rooms import MutualRooms
from hs.services.rooms.threads.thread_subscriptions import (
    SubscriptionTable,
    SubscriptionWriter,
    ThreadSubscriptions,
)
from hs.settings.sections.proposals import ProposalSettings


@attrs.frozen(eq=False, kw_only=True)
class Proposals:
    """The services; None: switched off."""

    settings: ProposalSettings
    threads: ThreadSubscriptions | None
    mutual_rooms: MutualRooms


def wire_proposals(ground: Foundation, reading: Reading) -> Proposals:
    """Build them."""
    settings = ground.settings.proposals
    writer = ground.owned(
        SubscriptionWriter,
        THREAD_SUBSCRIPTIONS,
        lambda: SubscriptionTable(ground.table(THREAD_SUBSCRIPTIONS)),
    )
    threads = ThreadSubscriptions(ground.database, ground.feed, writer, reading.timelines)
    return Proposals(
        settings=settings,
        threads=threads if settings.experimental_features.thread_subscriptions else None,
        mutual_rooms=MutualRooms(ground.database),
    )


def proposal_apis(proposals: Proposals) -> list[object]:
    """Give the endpoints of those that are on."""
    apis: list[object] = [
        MutualRoomsApi(proposals.mutual_rooms),
        RtcApi(proposals.settings.matrix_rtc),
    ]
    if proposals.threads is not None:
        apis.append(ThreadSubscriptionsApi(proposals.threads))
    return apis
