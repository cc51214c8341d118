"""Pushers: who sets them, and the process that sends what they want."""

import hashlib
from collections.abc import Mapping

import attrs
import trio

from hs.apis.client.push.pushers import PushersApi
from hs.apis.client.push.unsubscribe import UnsubscribeApi
from hs.lib.mail.templates import Templates
from hs.lib.tasks import Duty, every
from hs.nursery.plan import PUSHERS as PUSHERS_DUTY
from hs.nursery.process_base import Foundation, signing_key_of
from hs.nursery.wiring.http_clients import Outside
from hs.nursery.wiring.mail import MailRoom, wire_mail, wire_pages
from hs.nursery.wiring.push import Push
from hs.nursery.wiring.rooms import Rooms
from hs.repl.ownership import shard_of
from hs.repl.streams import PUSHERS
from hs.services.accounts.registration.registration import Newcomers
from hs.services.push.pushers.default_email_pushers import MailForNewcomers
from hs.services.push.pushers.email_content import MailContent
from hs.services.push.pushers.email_pusher import MailLine, MailTools
from hs.services.push.pushers.http_pusher import Line, LineTools
from hs.services.push.pushers.push_gateway import GatewayPushes
from hs.services.push.pushers.pusher_cleanup import UPKEEP_PERIOD_S, PusherUpkeep
from hs.services.push.pushers.pusher_duty import MakeLine, PushSending
from hs.services.push.pushers.pusher_positions import Positions
from hs.services.push.pushers.pusher_table import PusherTable, PusherWriter
from hs.services.push.pushers.pushers import EMAIL, HTTP, Pushers
from hs.services.push.pushers.unsubscribe_links import Unsubscribing
from hs.services.push.unread.push_pruning import PERIOD_S as PRUNING_PERIOD_S
from hs.services.push.unread.push_pruning import PushPruning

SENT_AT_ONCE = 100
SENT_AGAIN_AT_ONCE = 20


@attrs.frozen(eq=False, kw_only=True)
class PusherServices:
    """What the endpoints need of pushers, and what runs for them.

    `duties` are held by one process at a time; `chores` one process does now and then.
    """

    pushers: Pushers
    unsubscribing: Unsubscribing
    pages: Templates
    duties: list[Duty]
    chores: list[Duty]


def wire_pusher_writer(ground: Foundation) -> PusherWriter:
    """Build what changes pushers, or asks the process that does; before accounts."""
    return ground.owned(
        PusherWriter, PUSHERS, lambda: PusherTable(ground.table(PUSHERS), ground.clock)
    )


def wire_pushers(
    ground: Foundation, writer: PusherWriter, rooms: Rooms, push: Push, outside: Outside
) -> PusherServices:
    """Build the services of pushers; after push rules and counts."""
    database, mails = ground.database, wire_mail(ground.settings)
    unsubscribing = Unsubscribing(writer, _base_url(ground), _link_secret(ground))
    upkeep = PusherUpkeep(database, writer)

    async def tidy() -> None:
        await upkeep.tidy()
        await every(UPKEEP_PERIOD_S, upkeep.tidy)

    pruning = PushPruning(database, ground.clock)

    async def forget() -> None:
        await pruning.prune()
        await every(PRUNING_PERIOD_S, pruning.prune)

    positions = Positions(database)
    makers = {HTTP: _gateway_lines(ground, positions, writer, rooms, push, outside)}
    if _mails_notifications(ground, mails):
        makers[EMAIL] = _mail_lines(ground, positions, writer, rooms, push, unsubscribing, mails)
    return PusherServices(
        pushers=Pushers(database, writer, _mails_notifications(ground, mails)),
        unsubscribing=unsubscribing,
        pages=wire_pages(ground.settings),
        duties=_sending_duties(ground, makers, positions),
        chores=[
            Duty("tidying up after pushers", tidy),
            Duty("forgetting old notifications", forget),
        ],
    )


def newcomers_mail(ground: Foundation, writer: PusherWriter) -> list[Newcomers]:
    """Build what has new users mailed what they miss, if the settings say so."""
    email = ground.settings.email
    if not _mails_notifications(ground, wire_mail(ground.settings)):
        return []
    return [MailForNewcomers(ground.database, writer)] if email.notif_for_new_users else []


def pusher_apis(services: PusherServices) -> list[object]:
    """Give the endpoints."""
    return [
        PushersApi(services.pushers),
        UnsubscribeApi(services.unsubscribing, services.pages),
    ]


def _sending_duties(
    ground: Foundation, makers: Mapping[str, MakeLine], positions: Positions
) -> list[Duty]:
    """Give the duty of this process's share of the users, if it has one."""
    instances = ground.settings.workers.pushers
    if PUSHERS_DUTY not in ground.plan.duties or not ground.settings.push.enabled:
        return []
    share, shares = instances.index(ground.plan.instance), len(instances)
    sending = PushSending(
        ground.database,
        ground.feed,
        positions,
        makers,
        lambda user_id: shard_of(user_id, shares) == share,
    )
    return [Duty(f"pushers {share + 1} of {shares}", sending.run, lambda: sending.waiting)]


def _gateway_lines(
    ground: Foundation,
    positions: Positions,
    writer: PusherWriter,
    rooms: Rooms,
    push: Push,
    outside: Outside,
) -> MakeLine:
    settings = ground.settings.push
    tools = LineTools(
        ground.database,
        positions,
        writer,
        ground.clock,
        trio.CapacityLimiter(SENT_AT_ONCE),
        trio.CapacityLimiter(SENT_AGAIN_AT_ONCE),
        settings.jitter_delay,
    )
    gateway = GatewayPushes(
        outside.http, settings, rooms.events, rooms.states, rooms.memberships, push.counts
    )
    return lambda pusher: Line(pusher, gateway, tools)


def _mail_lines(
    ground: Foundation,
    positions: Positions,
    writer: PusherWriter,
    rooms: Rooms,
    push: Push,
    unsubscribing: Unsubscribing,
    mails: MailRoom,
) -> MakeLine:
    settings = ground.settings.email
    content = MailContent(
        mails.templates,
        settings,
        ground.settings.server.server_name,
        unsubscribing,
        rooms.events,
        rooms.states,
        rooms.memberships,
    )
    tools = MailTools(
        ground.database,
        positions,
        writer,
        ground.clock,
        push.counts,
        rooms.events,
        content,
        mails.mailer,
        settings.notif_delay_before_mail,
    )
    return lambda pusher: MailLine(pusher, tools)


def _mails_notifications(ground: Foundation, mails: MailRoom) -> bool:
    return ground.settings.email.enable_notifs and mails.is_open


def _base_url(ground: Foundation) -> str:
    server = ground.settings.server
    return server.public_baseurl or f"https://{server.server_name}/"


def _link_secret(ground: Foundation) -> bytes:
    """Make a secret that all processes of this server share, and nobody else has."""
    signed = signing_key_of(ground.settings).sign(b"links in e-mails that end them")
    return hashlib.sha256(signed.encode()).digest()
