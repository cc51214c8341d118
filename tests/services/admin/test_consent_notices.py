"""Consent notices: sent to users once per version of the terms."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs

from hs.core.ids import EventID, UserID
from hs.services.admin.consent_notices import with_consent_uri
from hs.settings.sections.consent import ConsentSettings
from hs.storage.accounts import consents
from hs.storage.database import Database, Tx
from tests.services.admin.test_server_notices import NOTICES, NOTICES_USER
from tests.support.composition import SETTINGS
from tests.support.rooms import ALICE, BOB, CAROL, World, open_world

USER = "INSERT INTO users (user_id, created_ms, is_guest) VALUES ($1, 0, $2)"
DEVICE = """
INSERT INTO devices (user_id, device_id, created_ms, last_seen_ms) VALUES ($1, 'PHONE', 0, $2)
"""
TEXT = {"msgtype": "m.text", "body": "Agree at %(consent_uri)s", "n": [{"a": "%(consent_uri)s"}]}


async def add(tx: Tx, user_id: str, seen_ms: int | None, is_guest: int = 0) -> None:
    await tx.execute(USER, user_id, is_guest)
    if seen_ms is not None:
        await tx.execute(DEVICE, user_id, seen_ms)


@asynccontextmanager
async def open_terms(database: Database, **settings: Any) -> AsyncIterator[World]:
    """Start a process that asks its users to agree to version 1 of the terms."""
    consent = ConsentSettings(**{"version": "1", "server_notice_content": TEXT, **settings})
    async with open_world(
        database, attrs.evolve(SETTINGS, server_notices=NOTICES, consent=consent)
    ) as world:
        yield world


async def send_due(world: World) -> int:
    return await world.process.services.admin.consent_notices.send_due()


async def notices_to(world: World, user_id: UserID) -> list[dict[str, Any]]:
    """Return the contents of the messages that this process sent to a user."""
    rooms = await world.memberships.rooms_of(user_id)
    ids = [EventID(row.event_id) for _, row in world.seen if row.room_id in rooms]
    events = [stored.event for stored in (await world.events.get(ids)).values()]
    return [dict(event.content) for event in events if event.type == "m.room.message"]


async def test_active_users_are_notified_once_per_version(database: Database) -> None:
    async with open_terms(database) as world:
        now_ms = world.clock.now_ms()
        for user_id, seen_ms in (
            (ALICE, now_ms),
            (BOB, now_ms),
            (CAROL, None),
            (NOTICES_USER, now_ms),
        ):
            await database.write(add, user_id, seen_ms)
        await database.write(consents.record_consent, BOB, "1", 0)

        assert await send_due(world) == 1
        assert await send_due(world) == 0

        uri = world.process.services.core.sessions.threepids.consent.rule.uri_for(ALICE)
        assert await notices_to(world, ALICE) == [with_consent_uri(TEXT, uri)]
        assert await notices_to(world, BOB) == []
    async with open_terms(database, version="2") as world:
        assert await send_due(world) == 2
        assert len(await notices_to(world, ALICE)) == 1


async def test_guests_are_notified_if_configured(database: Database) -> None:
    async with open_terms(database) as world:
        await database.write(add, ALICE, world.clock.now_ms(), 1)
        assert await send_due(world) == 0
    async with open_terms(database, send_server_notice_to_guests=True) as world:
        assert await send_due(world) == 1
