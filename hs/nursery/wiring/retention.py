"""Retention: purging old messages, redacted content and forgotten rooms."""

from hs.apis.client.rooms.retention import RetentionApi
from hs.core.streams import CACHES, EVENTS
from hs.lib.tasks import Duty
from hs.nursery.part import Part
from hs.nursery.plan import BACKGROUND
from hs.nursery.process_base import ProcessBase
from hs.nursery.wiring.room_reading import RoomReading
from hs.nursery.wiring.rooms import Rooms
from hs.services.rooms.retention.purge import (
    FORGOTTEN_EVERY_S,
    REDACTED_EVERY_S,
    ForgottenRooms,
    MessagePurge,
    RedactedContents,
)


def wire_retention(base: ProcessBase, rooms: Rooms, reading: RoomReading) -> Part:
    """Build the endpoint that tells the policy, and the duties that follow it."""
    return Part(
        endpoints=[RetentionApi(reading.retention)],
        duties=[
            *_old_messages(base, rooms, reading),
            *_redacted_content(base, rooms),
            *_forgotten_rooms(base, rooms),
        ],
    )


def _old_messages(base: ProcessBase, rooms: Rooms, reading: RoomReading) -> list[Duty]:
    settings = base.settings.retention
    if not settings.enabled:
        return []
    purge = MessagePurge(base.database, rooms.events, reading.retention, settings, base.clock)
    return [Duty("message retention", purge.run, plan_duty=BACKGROUND)]


def _redacted_content(base: ProcessBase, rooms: Rooms) -> list[Duty]:
    period_ms = base.settings.rooms.redaction_retention_period
    if period_ms is None:
        return []
    contents = RedactedContents(base.database, rooms.events, base.clock, period_ms)
    return [
        Duty(
            "redacted content purge",
            contents.remove,
            plan_duty=BACKGROUND,
            period_s=REDACTED_EVERY_S,
        )
    ]


def _forgotten_rooms(base: ProcessBase, rooms: Rooms) -> list[Duty]:
    """Build the duty of each process that owns rooms: it purges its own."""
    period_ms = base.settings.rooms.forgotten_room_retention_period
    if period_ms is None or rooms.owner is None:
        return []
    forgotten = ForgottenRooms(
        database=base.database,
        rooms=rooms.owner.hot,
        cache_drops=base.memory(CACHES),
        clock=base.clock,
        period_ms=period_ms,
        owns=lambda room_id: base.ownership.is_mine(EVENTS, room_id),
    )
    return [Duty("forgotten room purge", forgotten.purge, period_s=FORGOTTEN_EVERY_S)]
