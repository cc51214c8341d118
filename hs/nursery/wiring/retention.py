"""What goes on by itself: old things go, leavers forget, invites are accepted, notices are sent."""

import attrs

from hs.apis.client.rooms.retention import RetentionApi
from hs.lib.tasks import Duty, every
from hs.nursery.plan import BACKGROUND
from hs.nursery.process_base import Foundation
from hs.nursery.wiring.accounts import Accounts
from hs.nursery.wiring.membership_duties import membership_duties
from hs.nursery.wiring.room_actions import RoomActions
from hs.nursery.wiring.room_reading import Reading
from hs.nursery.wiring.rooms import Rooms
from hs.nursery.wiring.server_notices import consent_duties, notice_duties, wire_notices
from hs.repl.streams import CACHES, EVENTS
from hs.services.accounts.lifecycle.stale_devices import EVERY_S, StaleDevices
from hs.services.admin.server_notices import ServerNotices
from hs.services.rooms.read.retention_policy import RetentionPolicies
from hs.services.rooms.retention.purge import (
    FORGOTTEN_EVERY_S,
    REDACTED_EVERY_S,
    ForgottenRooms,
    MessagePurge,
    RedactedContents,
)


@attrs.frozen(eq=False, kw_only=True)
class Keeping:
    """What each process does of it, what one of all does, and what sends notices."""

    notices: ServerNotices
    retention: RetentionPolicies
    duties: list[Duty]
    lone_duties: list[Duty]


def wire_keeping(
    ground: Foundation, rooms: Rooms, reading: Reading, accounts: Accounts, actions: RoomActions
) -> Keeping:
    """Build it."""
    notices = wire_notices(ground, rooms, accounts)
    lone = [*notice_duties(ground, notices), *consent_duties(ground, notices, accounts)]
    if BACKGROUND in ground.plan.duties:
        lone = [*lone, *_chores(ground, rooms, reading), *_stale_devices(ground, accounts)]
    return Keeping(
        notices=notices,
        retention=reading.retention,
        duties=[
            *_room_duties(ground, rooms),
            *membership_duties(ground, rooms, accounts, actions),
        ],
        lone_duties=lone,
    )


def keeping_apis(keeping: Keeping) -> list[object]:
    """Give the endpoints."""
    return [RetentionApi(keeping.retention)]


def _chores(ground: Foundation, rooms: Rooms, reading: Reading) -> list[Duty]:
    settings, database, clock = ground.settings, ground.database, ground.clock
    chores: list[Duty] = []
    if settings.retention.enabled:
        purge = MessagePurge(database, rooms.events, reading.retention, settings.retention, clock)
        chores.append(Duty("purging old messages", purge.run))
    period_ms = settings.rooms.redaction_retention_period
    if period_ms is not None:
        contents = RedactedContents(database, rooms.events, clock, period_ms)

        async def remove() -> None:
            await contents.remove()
            await every(REDACTED_EVERY_S, contents.remove)

        chores.append(Duty("removing redacted contents", remove))
    return chores


def _stale_devices(ground: Foundation, accounts: Accounts) -> list[Duty]:
    period_ms = ground.settings.server.delete_stale_devices_after
    if period_ms is None:
        return []
    stale = StaleDevices(ground.database, ground.clock, accounts.identity.sessions, period_ms)

    async def delete() -> None:
        await stale.delete()
        await every(EVERY_S, stale.delete)

    return [Duty("deleting stale devices", delete)]


def _room_duties(ground: Foundation, rooms: Rooms) -> list[Duty]:
    period_ms = ground.settings.rooms.forgotten_room_retention_period
    if period_ms is None or rooms.hot is None:
        return []
    forgotten = ForgottenRooms(
        ground.database,
        rooms.hot,
        ground.memory(CACHES),
        ground.clock,
        period_ms,
        lambda room_id: ground.ownership.is_mine(EVENTS, room_id),
    )

    async def purge() -> None:
        await forgotten.purge()
        await every(FORGOTTEN_EVERY_S, forgotten.purge)

    return [Duty("purging forgotten rooms", purge)]
