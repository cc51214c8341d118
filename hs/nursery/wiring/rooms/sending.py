"""Sending events, at once and delayed."""

import attrs

from hs.apis.client.rooms.delayed_events import DelayedEventsApi
from hs.apis.client.rooms.send import SendApi
from hs.core.streams import CACHES
from hs.lib.tasks import Duty
from hs.nursery.part import Part
from hs.nursery.plan import BACKGROUND
from hs.nursery.process_base import ProcessBase
from hs.nursery.wiring.accounts.accounts import SessionServices
from hs.nursery.wiring.rooms.aliases import AliasServices
from hs.nursery.wiring.rooms.membership import MembershipServices
from hs.nursery.wiring.rooms.rooms import Rooms
from hs.services.rooms.aliases.canonical_aliases import CanonicalAliasCheck
from hs.services.rooms.sending.delayed_event_sender import UPKEEP_PERIOD_S, DelayedSending
from hs.services.rooms.sending.delayed_events import DelayedEvents
from hs.services.rooms.sending.event_sending import EventSender
from hs.services.rooms.sending.related_redactions import RelatedRedactions
from hs.services.rooms.sending.relation_checks import RelationChecks


@attrs.frozen(eq=False, kw_only=True)
class SendingServices:
    """Delayed events; `sender` is None in a process that does not send them when they are due."""

    delayed: DelayedEvents
    sender: DelayedSending | None
    part: Part


def wire_sending(
    base: ProcessBase,
    rooms: Rooms,
    sessions: SessionServices,
    aliases: AliasServices,
    members: MembershipServices,
) -> SendingServices:
    """Build sending, and the duty that sends delayed events when they are due."""
    sending = EventSender(
        appender=rooms.appender,
        events=rooms.events,
        relations=RelationChecks(base.database, rooms.events),
        canonical_aliases=CanonicalAliasCheck(aliases.resolver, rooms.states),
        membership=members.membership,
    )
    delayed = DelayedEvents(
        database=base.database,
        clock=base.clock,
        sending=sending,
        rates=sessions.rates,
        announcements=base.memory(CACHES),
        longest_ms=base.settings.proposals.max_event_delay_duration,
    )
    redacting = RelatedRedactions(base.database, rooms.appender, sending)
    sender = base.planned(
        BACKGROUND, lambda: DelayedSending(base.database, base.feed, base.clock, delayed)
    )
    return SendingServices(
        delayed=delayed,
        sender=sender,
        part=Part(
            endpoints=[SendApi(sending, delayed, redacting), DelayedEventsApi(delayed)],
            duties=[] if sender is None else _duties(sender),
        ),
    )


def _duties(sender: DelayedSending) -> list[Duty]:
    return [
        Duty("delayed events", sender.run, plan_duty=BACKGROUND),
        Duty(
            "delayed event cleanup",
            sender.forget_old,
            plan_duty=BACKGROUND,
            period_s=UPKEEP_PERIOD_S,
            at_start=False,
        ),
    ]
