"""Delayed events: scheduled by any process, sent by one."""

import attrs

from hs.apis.client.rooms.delayed_events import DelayedEventsApi
from hs.lib.tasks import Duty, every
from hs.nursery.plan import BACKGROUND
from hs.nursery.process_base import Foundation
from hs.nursery.wiring.accounts import Accounts
from hs.repl.streams import CACHES
from hs.services.rooms.sending.delayed_event_sender import UPKEEP_PERIOD_S, DelayedSending
from hs.services.rooms.sending.delayed_events import DelayedEvents
from hs.services.rooms.sending.event_sending import Sending


@attrs.frozen(eq=False, kw_only=True)
class Delayed:
    """The service, and what one process of all does."""

    events: DelayedEvents
    duties: list[Duty]


def wire_delayed(ground: Foundation, accounts: Accounts, sending: Sending) -> Delayed:
    """Build delayed events."""
    events = DelayedEvents(
        database=ground.database,
        clock=ground.clock,
        sending=sending,
        rates=accounts.identity.rates,
        announcements=ground.memory(CACHES),
        longest_ms=ground.settings.proposals.max_event_delay_duration,
    )
    duties: list[Duty] = []
    if BACKGROUND in ground.plan.duties:
        sender = DelayedSending(ground.database, ground.feed, ground.clock, events)

        async def forget() -> None:
            await every(UPKEEP_PERIOD_S, sender.forget_old)

        duties.append(Duty("delayed events", sender.run))
        duties.append(Duty("forgetting delayed events", forget))
    return Delayed(events=events, duties=duties)


def delayed_apis(delayed: Delayed) -> list[object]:
    """Give the endpoints, but for those that send at once as well."""
    return [DelayedEventsApi(delayed.events)]
