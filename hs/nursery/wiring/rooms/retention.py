"""Retention: purging old messages, redacted content and forgotten rooms."""

import attrs

from hs.apis.client.rooms.retention import RetentionApi
from hs.core.streams import CACHES, EVENTS
from hs.lib.tasks import Duty
from hs.nursery.part import Part
from hs.nursery.plan import BACKGROUND
from hs.nursery.process_base import ProcessBase
from hs.nursery.wiring.rooms.reading import RoomReading
from hs.nursery.wiring.rooms.rooms import Rooms
from hs.services.rooms.retention.purge import (
    FORGOTTEN_EVERY_S,
    REDACTED_EVERY_S,
    ForgottenRooms,
    MessagePurge,
    RedactedContents,
)


@attrs.frozen(eq=False, kw_only=True)
class RetentionServices:
    """What deletes old data; None where the settings keep it for ever."""

    messages: MessagePurge | None
    redactions: RedactedContents | None
    forgotten: ForgottenRooms | None
    part: Part


def wire_retention(base: ProcessBase, rooms: Rooms, reading: RoomReading) -> RetentionServices:
    """Build the endpoint that tells the policy, and the duties that follow it."""
    messages = _old_messages(base, rooms, reading)
    redactions = _redacted_content(base, rooms)
    forgotten = _forgotten_rooms(base, rooms)
    return RetentionServices(
        messages=messages,
        redactions=redactions,
        forgotten=forgotten,
        part=Part(
            endpoints=[RetentionApi(reading.retention)],
            duties=_duties(messages, redactions, forgotten),
        ),
    )


def _old_messages(base: ProcessBase, rooms: Rooms, reading: RoomReading) -> MessagePurge | None:
    settings = base.settings.retention
    if not settings.enabled:
        return None
    return MessagePurge(base.database, rooms.events, reading.retention, settings, base.clock)


def _redacted_content(base: ProcessBase, rooms: Rooms) -> RedactedContents | None:
    period_ms = base.settings.rooms.redaction_retention_period
    if period_ms is None:
        return None
    return RedactedContents(base.database, rooms.events, base.clock, period_ms)


def _forgotten_rooms(base: ProcessBase, rooms: Rooms) -> ForgottenRooms | None:
    """Build the purge of each process that owns rooms: it purges its own."""
    period_ms = base.settings.rooms.forgotten_room_retention_period
    if period_ms is None or rooms.owner is None:
        return None
    return ForgottenRooms(
        database=base.database,
        rooms=rooms.owner.hot,
        cache_drops=base.memory(CACHES),
        clock=base.clock,
        period_ms=period_ms,
        owns=lambda room_id: base.ownership.is_mine(EVENTS, room_id),
    )


def _duties(
    messages: MessagePurge | None,
    redactions: RedactedContents | None,
    forgotten: ForgottenRooms | None,
) -> list[Duty]:
    duties = []
    if messages is not None:
        duties.append(Duty("message retention", messages.run, plan_duty=BACKGROUND))
    if redactions is not None:
        duties.append(
            Duty(
                "redacted content purge",
                redactions.remove,
                plan_duty=BACKGROUND,
                period_s=REDACTED_EVERY_S,
            )
        )
    if forgotten is not None:
        duties.append(Duty("forgotten room purge", forgotten.purge, period_s=FORGOTTEN_EVERY_S))
    return duties
