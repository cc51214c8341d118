"""Presence that is not stored yet."""

import trio

from hs.core.streams import PresenceRow
from hs.repl.slots.fences import unfenced
from hs.services.ephemeral.unsaved_presence import UnsavedPresence
from hs.storage.database import Database
from hs.storage.ephemeral import presence
from tests.support.rooms import ALICE


async def test_changes_are_stored_after_others_saved_while_there_were_none(
    database: Database,
) -> None:
    unsaved = UnsavedPresence(database, unfenced)

    async def save_next() -> None:
        await unsaved.wait()
        await unsaved.save()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(save_next)
            await trio.testing.wait_all_tasks_blocked()
            # As a hand-over of slots does that waits for the end of a call.
            assert not await unsaved.save()
            unsaved.add(PresenceRow(ALICE, "online", 1))

    assert [record.user_id for record in await database.read(presence.list_not_offline)] == [ALICE]
