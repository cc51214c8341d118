"""Pushers: who sets them, and the process that sends what they want."""

import attrs
import trio

from hs.apis.client.pushers import PushersApi
from hs.lib.tasks import Duty, every
from hs.nursery.foundation import Foundation
from hs.nursery.plan import PUSHERS as PUSHERS_DUTY
from hs.nursery.wiring.outside import Outside
from hs.nursery.wiring.push import Push
from hs.nursery.wiring.rooms import Rooms
from hs.repl.ownership import shard_of
from hs.repl.streams import PUSHERS
from hs.services.push.delivery import Pusher
from hs.services.push.gateway import GatewayPushes
from hs.services.push.line import Line, LineTools
from hs.services.push.positions import Positions
from hs.services.push.pusher_table import PusherTable, PusherWriter
from hs.services.push.pusher_upkeep import UPKEEP_PERIOD_S, PusherUpkeep
from hs.services.push.pushers import HTTP, Pushers
from hs.services.push.sending import MakeLine, PushSending

SENT_AT_ONCE = 100


@attrs.frozen(eq=False, kw_only=True)
class PusherServices:
    """What the endpoints need of pushers, and what runs for them.

    `duties` are held by one process at a time; `chores` one process does now and then.
    """

    pushers: Pushers
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
    database = ground.database
    upkeep = PusherUpkeep(database, writer)

    async def tidy() -> None:
        await upkeep.tidy()
        await every(UPKEEP_PERIOD_S, upkeep.tidy)

    return PusherServices(
        pushers=Pushers(database, writer, False),
        duties=_sending_duties(ground, writer, rooms, push, outside),
        chores=[Duty("tidying up after pushers", tidy)],
    )


def pusher_apis(services: PusherServices) -> list[object]:
    """Give the endpoints."""
    return [PushersApi(services.pushers)]


def _sending_duties(
    ground: Foundation, writer: PusherWriter, rooms: Rooms, push: Push, outside: Outside
) -> list[Duty]:
    """Give the duty of this process's share of the users, if it has one."""
    settings, instances = ground.settings.push, ground.settings.workers.pushers
    if PUSHERS_DUTY not in ground.plan.duties or not settings.enabled:
        return []
    share, shares = instances.index(ground.plan.instance), len(instances)
    positions = Positions(ground.database)
    tools = LineTools(
        ground.database,
        positions,
        writer,
        ground.clock,
        trio.CapacityLimiter(SENT_AT_ONCE),
        settings.jitter_delay,
    )
    gateway = GatewayPushes(
        outside.http, settings, rooms.events, rooms.states, rooms.memberships, push.counts
    )

    def gateway_line(pusher: Pusher) -> Line:
        return Line(pusher, gateway, tools)

    makers: dict[str, MakeLine] = {HTTP: gateway_line}
    sending = PushSending(
        ground.database,
        ground.feed,
        positions,
        makers,
        lambda user_id: shard_of(user_id, shares) == share,
    )
    return [Duty(f"pushers {share + 1} of {shares}", sending.run)]
