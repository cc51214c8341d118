"""What is kept for how long: messages, redacted contents, rooms that nobody remembers."""

from hs.apis.client.retention import RetentionApi
from hs.lib.tasks import Duty, every
from hs.nursery.foundation import Foundation
from hs.nursery.wiring.reading import Reading
from hs.nursery.wiring.rooms import Rooms
from hs.repl.streams import CACHES, EVENTS
from hs.services.rooms.keeping import (
    FORGOTTEN_EVERY_S,
    REDACTED_EVERY_S,
    ForgottenRooms,
    MessagePurge,
    RedactedContents,
)


def keeping_chores(ground: Foundation, rooms: Rooms, reading: Reading) -> list[Duty]:
    """Give what one process does."""
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


def keeping_duties(ground: Foundation, rooms: Rooms) -> list[Duty]:
    """Give what each process does that owns rooms."""
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


def keeping_apis(reading: Reading) -> list[object]:
    """Give the endpoints."""
    return [RetentionApi(reading.retention)]
