"""Consent notices: sent to users once per version of the terms."""

from typing import Any

import attrs

from hs.core.ids import UserID
from hs.services.admin.consent_notices import ConsentNotices, with_consent_uri
from hs.settings.sections.consent import ConsentSettings
from hs.storage.accounts import consents
from hs.storage.database import Database, Tx
from tests.services.admin.test_server_notices import NOTICES_USER, RecordedTags, notices_of
from tests.support.room_actions import Actions, open_actions
from tests.support.rooms import ALICE, BOB, CAROL

USER = "INSERT INTO users (user_id, created_ms, is_guest) VALUES ($1, 0, $2)"
DEVICE = """
INSERT INTO devices (user_id, device_id, created_ms, last_seen_ms) VALUES ($1, 'PHONE', 0, $2)
"""
TEXT = {"msgtype": "m.text", "body": "Agree at %(consent_uri)s", "n": [{"a": "%(consent_uri)s"}]}


async def add(tx: Tx, user_id: str, seen_ms: int | None, is_guest: int = 0) -> None:
    await tx.execute(USER, user_id, is_guest)
    if seen_ms is not None:
        await tx.execute(DEVICE, user_id, seen_ms)


async def notices_to(actions: Actions, user_id: UserID) -> list[dict[str, Any]]:
    rooms = await actions.memberships.rooms_of(user_id)
    events = [event for room_id in rooms for event in await actions.events_of(room_id)]
    return [dict(event.content) for event in events if event.type == "m.room.message"]


async def test_active_users_are_notified_once_per_version(database: Database) -> None:
    async with open_actions(database) as actions:
        now_ms = actions.world.clock.now_ms()
        settings = ConsentSettings(version="1", server_notice_content=TEXT)
        consent_notices = ConsentNotices(
            database,
            actions.world.clock,
            settings,
            lambda user_id: f"https://x/{user_id}",
            notices_of(actions, RecordedTags()),
        )
        for user_id, seen_ms in (
            (ALICE, now_ms),
            (BOB, now_ms),
            (CAROL, None),
            (NOTICES_USER, now_ms),
        ):
            await database.write(add, user_id, seen_ms)
        await database.write(consents.record_consent, BOB, "1", 0)

        assert await consent_notices.send_due() == 1
        assert await consent_notices.send_due() == 0

        assert await notices_to(actions, ALICE) == [with_consent_uri(TEXT, f"https://x/{ALICE}")]
        assert await notices_to(actions, BOB) == []
        next_version = attrs.evolve(consent_notices, settings=attrs.evolve(settings, version="2"))
        assert await next_version.send_due() == 2
        assert len(await notices_to(actions, ALICE)) == 2


async def test_guests_are_notified_if_configured(database: Database) -> None:
    async with open_actions(database) as actions:
        clock = actions.world.clock
        await database.write(add, ALICE, clock.now_ms(), 1)
        settings = ConsentSettings(version="1", server_notice_content=TEXT)
        notices = notices_of(actions, RecordedTags())
        consent_notices = ConsentNotices(database, clock, settings, str, notices)

        assert await consent_notices.send_due() == 0
        with_guests = attrs.evolve(settings, send_server_notice_to_guests=True)
        assert await attrs.evolve(consent_notices, settings=with_guests).send_due() == 1
