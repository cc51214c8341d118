"""Content reports: what can be reported, and what is stored."""

import pytest

from hs.core.errors import NotFound
from hs.core.ids import EventID, RoomID, UserID
from hs.core.requester import Requester
from hs.services.admin import reports as reports_module
from hs.storage.database import Database, Tx
from tests.support.rooms import ALICE, BOB, CAROL, open_world

ALL = "SELECT reporter, room_id, event_id, user_id, reason, score FROM reports ORDER BY id"


async def stored_reports(tx: Tx) -> list[tuple[object, ...]]:
    return [tuple(row) for row in await tx.fetch(ALL)]


async def test_reports_of_rooms_events_and_users_are_stored(database: Database) -> None:
    async with open_world(database) as world:
        reports = world.process.services.admin.reports
        room_id = await world.create_room(ALICE, join=[BOB])
        event_id = (await world.send(room_id, ALICE)).event_id

        await reports.report_room(Requester(CAROL), room_id, "")
        await reports.report_event(Requester(BOB), room_id, event_id, "rude", -100)
        await reports.report_user(Requester(BOB), ALICE, "still rude")

        assert await database.read(stored_reports) == [
            (CAROL, room_id, None, None, "", None),
            (BOB, room_id, event_id, ALICE, "rude", -100),
            (BOB, None, None, ALICE, "still rude", None),
        ]


async def test_unknown_rooms_events_and_users_cannot_be_reported(database: Database) -> None:
    async with open_world(database) as world:
        reports = world.process.services.admin.reports
        room_id = await world.create_room(ALICE)
        event_id = (await world.send(room_id, ALICE)).event_id

        with pytest.raises(NotFound):
            await reports.report_room(Requester(ALICE), RoomID("!none:test.example"), "")
        with pytest.raises(NotFound):
            await reports.report_event(Requester(ALICE), room_id, EventID("$none"), None, None)
        with pytest.raises(NotFound):
            await reports.report_event(Requester(BOB), room_id, event_id, None, None)
        with pytest.raises(NotFound):
            await reports.report_user(Requester(ALICE), UserID("@none:test.example"), "")


async def test_only_the_latest_reports_of_a_user_are_kept(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports_module, "MAX_REPORTS", 2)
    async with open_world(database) as world:
        reports = world.process.services.admin.reports
        room_id = await world.create_room(ALICE)
        await reports.report_room(Requester(CAROL), room_id, "kept")
        for reason in ("one", "two", "three"):
            await reports.report_room(Requester(BOB), room_id, reason)

        reasons = [reason for *_, reason, _ in await database.read(stored_reports)]
        assert reasons == ["kept", "two", "three"]
