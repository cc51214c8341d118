"""A commit of events whose outcome is not known: requests are answered, repetitions are safe."""

from collections.abc import Callable

import attrs
import pytest
import trio

from hs.core.errors import OutcomeUnknown
from hs.core.ids import RoomID
from hs.repl import writers
from hs.services.rooms.append.committer import NotCommitted
from hs.services.rooms.append.drafts import AppendedEvent, TransactionKey
from hs.storage.database import Database, DatabaseUnavailable
from tests.support.rooms import ALICE, World, open_world, txn_key
from tests.support.sql.forgetful import ForgetfulDatabase


async def wait_until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(60):
        while not condition():  # noqa: ASYNC110 - the database
            await trio.sleep(0.01)


@attrs.define
class Requests:
    """Requests to send messages, each with its transaction ID as text, and their answers."""

    world: World
    errors: dict[str, list[str]] = attrs.Factory(dict)

    async def send(self, key: TransactionKey) -> AppendedEvent | None:
        """Send a message; remember the error."""
        room_id = RoomID(key.scope.split("/")[2])
        try:
            return await self.world.send(room_id, ALICE, key.txn_id, key)
        except NotCommitted as error:
            self.errors.setdefault(key.txn_id, []).append(error.message)
            return None

    def published(self) -> list[str]:
        """Return the IDs of published messages."""
        return [row.event_id for _, row in self.world.seen if row.type == "m.room.message"]


@pytest.mark.parametrize("is_committed", [True, False])
async def test_repeated_request_gives_one_event_whatever_the_outcome(
    database: Database, monkeypatch: pytest.MonkeyPatch, is_committed: bool
) -> None:
    monkeypatch.setattr(writers, "ANSWER_S", 0.2)
    forgetful = ForgetfulDatabase(database, stream="events")
    async with open_world(forgetful) as world, trio.open_nursery() as nursery:
        rooms = [await world.create_room(ALICE) for _ in range(2)]
        requests = Requests(world)
        first, queued = (txn_key(ALICE, rooms[0], name) for name in ("first", "queued"))
        other = txn_key(ALICE, rooms[1], "other")
        forgetful.fault = DatabaseUnavailable("gone")
        forgetful.lose_done, forgetful.lose_undone = is_committed, int(not is_committed)
        nursery.start_soon(requests.send, first)
        await wait_until(lambda: forgetful.refused > 0)
        nursery.start_soon(requests.send, queued)

        await wait_until(lambda: len(requests.errors) == 2)
        for key in (first, queued, other):
            assert await requests.send(key) is None
        assert requests.errors["first"] == [OutcomeUnknown.ANSWER] * 2
        assert len(requests.errors["queued"]) == 2
        assert len(requests.errors["other"]) == 1
        assert OutcomeUnknown.ANSWER not in requests.errors["queued"] + requests.errors["other"]

        forgetful.fault = None
        await wait_until(lambda: world.committer._late is None)
        results = [await requests.send(key) for key in (first, queued, other)]

        assert [result and result.existed for result in results] == [is_committed, False, False]
        assert [result and result.event_id for result in results] == requests.published()
        again = [await requests.send(key) for key in (first, queued, other)]
        assert [result and result.event_id for result in again] == requests.published()
