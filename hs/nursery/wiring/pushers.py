"""Pushers: setting them, and the duty that sends their notifications."""

import hashlib
from collections.abc import Mapping

import attrs
import trio

from hs.apis.client.push.pushers import PushersApi
from hs.apis.client.push.unsubscribe import UnsubscribeApi
from hs.core.streams import PUSHERS
from hs.lib.tasks import Duty
from hs.nursery.part import Part
from hs.nursery.plan import BACKGROUND
from hs.nursery.plan import PUSHERS as PUSHERS_DUTY
from hs.nursery.process_base import ProcessBase
from hs.nursery.wiring.http_clients import HttpClients
from hs.nursery.wiring.mail import MailServices, wire_mail, wire_pages
from hs.nursery.wiring.push import PushServices
from hs.nursery.wiring.rooms.rooms import Rooms
from hs.repl.slots.assignment import shard_of
from hs.services.accounts.registration.registration import NewUserListener
from hs.services.push.pushers.default_email_pushers import DefaultEmailPushers
from hs.services.push.pushers.email_content import NotificationEmailContent
from hs.services.push.pushers.email_pusher import EmailPusher, EmailPusherDependencies
from hs.services.push.pushers.http_pusher import HttpPusher, HttpPusherDependencies
from hs.services.push.pushers.notified_rooms import NotifiedRooms
from hs.services.push.pushers.push_gateway import PushGateway
from hs.services.push.pushers.pusher_cleanup import CLEANUP_PERIOD_S, PusherCleanup
from hs.services.push.pushers.pusher_duty import PusherDuty, PusherFactory
from hs.services.push.pushers.pusher_positions import PusherPositions
from hs.services.push.pushers.pusher_table import PusherTable, PusherWriter
from hs.services.push.pushers.pushers import EMAIL, HTTP, Pushers
from hs.services.push.pushers.unsubscribe_links import UnsubscribeLinks
from hs.services.push.unread.push_pruning import CLEANUP_PERIOD_S as PRUNING_PERIOD_S
from hs.services.push.unread.push_pruning import NotificationCleanup
from hs.services.rooms.read.invite_state import InviteStates
from hs.services.rooms.read.stripped_state import StrippedState

SENT_AT_ONCE = 100
SENT_AGAIN_AT_ONCE = 20


@attrs.frozen(eq=False, kw_only=True)
class PusherServices:
    """The pushers of users, the gateway and the links that their notifications use."""

    pushers: Pushers
    gateway: PushGateway
    unsubscribing: UnsubscribeLinks
    part: Part


def wire_pusher_writer(base: ProcessBase) -> PusherWriter:
    """Build the writer of pushers, or a proxy of it; before accounts."""
    return base.owned(PusherWriter, PUSHERS, lambda: PusherTable(base.table(PUSHERS), base.clock))


def wire_pushers(
    base: ProcessBase, writer: PusherWriter, rooms: Rooms, push: PushServices, http: HttpClients
) -> PusherServices:
    """Build the endpoints of pushers and their duties; after push rules and counts."""
    database, mails = base.database, wire_mail(base.settings)
    unsubscribing = UnsubscribeLinks(writer, _base_url(base), _link_secret(base))
    positions = PusherPositions(database)
    gateway = PushGateway(
        http=http.public,
        settings=base.settings.push,
        events=rooms.events,
        rooms=_notified_rooms(base, rooms),
        members=rooms.memberships,
        counts=push.counts,
    )
    pushers = Pushers(database, writer, _mails_notifications(base, mails))
    makers = {HTTP: _gateway_lines(base, positions, writer, gateway)}
    if _mails_notifications(base, mails):
        makers[EMAIL] = _mail_lines(base, positions, writer, rooms, push, unsubscribing, mails)
    cleanup, pruning = PusherCleanup(database, writer), NotificationCleanup(database, base.clock)
    part = Part(
        endpoints=[
            PushersApi(pushers),
            UnsubscribeApi(unsubscribing, wire_pages(base.settings)),
        ],
        duties=[
            *_sending_duties(base, makers, positions),
            Duty(
                "pusher cleanup",
                cleanup.clean_up,
                plan_duty=BACKGROUND,
                period_s=CLEANUP_PERIOD_S,
            ),
            Duty(
                "notification cleanup",
                pruning.clean_up,
                plan_duty=BACKGROUND,
                period_s=PRUNING_PERIOD_S,
            ),
        ],
    )
    return PusherServices(pushers=pushers, gateway=gateway, unsubscribing=unsubscribing, part=part)


def _notified_rooms(base: ProcessBase, rooms: Rooms) -> NotifiedRooms:
    stripped = StrippedState(base.database, rooms.events, rooms.states)
    return NotifiedRooms(rooms.events, rooms.states, InviteStates(rooms.memberships, stripped))


def newcomers_mail(base: ProcessBase, writer: PusherWriter) -> list[NewUserListener]:
    """Build the e-mail pushers of new users, if the settings ask for them."""
    email = base.settings.email
    if not _mails_notifications(base, wire_mail(base.settings)):
        return []
    return [DefaultEmailPushers(base.database, writer)] if email.notif_for_new_users else []


def _sending_duties(
    base: ProcessBase, makers: Mapping[str, PusherFactory], positions: PusherPositions
) -> list[Duty]:
    """Build the duty that sends to this process's share of the users, if it has one."""
    if not base.settings.push.enabled:
        return []
    sending = base.planned(PUSHERS_DUTY, lambda: _sending(base, makers, positions))
    return [] if sending is None else [sending]


def _sending(
    base: ProcessBase, makers: Mapping[str, PusherFactory], positions: PusherPositions
) -> Duty:
    instances = base.settings.workers.pushers
    share, shares = instances.index(base.plan.instance), len(instances)
    sending = PusherDuty(
        base.database,
        base.feed,
        positions,
        makers,
        lambda user_id: shard_of(user_id, shares) == share,
    )
    return Duty(
        f"pushers {share + 1} of {shares}",
        sending.run,
        lambda: sending.waiting,
        plan_duty=PUSHERS_DUTY,
    )


def _gateway_lines(
    base: ProcessBase, positions: PusherPositions, writer: PusherWriter, gateway: PushGateway
) -> PusherFactory:
    tools = HttpPusherDependencies(
        database=base.database,
        positions=positions,
        writer=writer,
        clock=base.clock,
        slots=trio.CapacityLimiter(SENT_AT_ONCE),
        slow_slots=trio.CapacityLimiter(SENT_AGAIN_AT_ONCE),
        jitter_ms=base.settings.push.jitter_delay,
    )
    return lambda pusher: HttpPusher(pusher, gateway, tools)


def _mail_lines(
    base: ProcessBase,
    positions: PusherPositions,
    writer: PusherWriter,
    rooms: Rooms,
    push: PushServices,
    unsubscribing: UnsubscribeLinks,
    mails: MailServices,
) -> PusherFactory:
    settings = base.settings.email
    content = NotificationEmailContent(
        templates=mails.templates,
        settings=settings,
        server_name=base.settings.server.server_name,
        unsubscribing=unsubscribing,
        rooms=_notified_rooms(base, rooms),
        members=rooms.memberships,
    )
    tools = EmailPusherDependencies(
        database=base.database,
        positions=positions,
        writer=writer,
        clock=base.clock,
        counts=push.counts,
        events=rooms.events,
        content=content,
        mailer=mails.mailer,
        delay_ms=settings.notif_delay_before_mail,
    )
    return lambda pusher: EmailPusher(pusher, tools)


def _mails_notifications(base: ProcessBase, mails: MailServices) -> bool:
    return base.settings.email.enable_notifs and mails.is_configured


def _base_url(base: ProcessBase) -> str:
    server = base.settings.server
    return server.public_baseurl or f"https://{server.server_name}/"


def _link_secret(base: ProcessBase) -> bytes:
    """Return the secret that signs unsubscribe links; all processes of the server share it."""
    signed = base.signer.key.sign(b"links in e-mails that end them")
    return hashlib.sha256(signed.encode()).digest()
