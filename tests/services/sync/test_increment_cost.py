"""The function calls of the response to one message, which each member of a room gets.

What an increment does not contain must not be prepared for it. The limits leave room for a few more
calls; another section may well need none for the increment of one room.
"""

import sys
from types import FrameType

import attrs
import pytest

from hs.core.requester import Requester
from hs.services.sync.sync_context import SyncRequest
from hs.storage.database import Database
from tests.support.rooms import ALICE, BOB, CAROL
from tests.support.syncing import Syncing, open_syncing

CALLS_OF_INCREMENT = 250
CALLS_OF_POLL = 75


@attrs.define
class Calls:
    """Counts the calls of Python functions while it is entered."""

    count: int = 0

    def __enter__(self) -> "Calls":
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _profile(self, frame: FrameType, event: str, argument: object) -> None:
        self.count += event == "call"


async def calls_of_increment(s: Syncing, messages: int) -> int:
    """Return the calls for the response of one member after another member's response."""
    room_id = await s.world.create_room(ALICE, join=[BOB, CAROL])
    requests = [Requester(user_id, "DEVICE") for user_id in (BOB, CAROL)]
    since = [(await s.sync(each.user_id))["next_batch"] for each in requests]
    count = 0
    for _ in range(3):  # the first responses fill caches
        for _ in range(messages):
            await s.world.send(room_id, ALICE)
        since[0] = (await s.sync(BOB, since[0]))["next_batch"]
        request = SyncRequest(requests[1], since[1])
        with Calls() as calls:
            await s.services.sync.sync.sync(request)
        count = calls.count
        since[1] = (await s.sync(CAROL, since[1]))["next_batch"]
    return count


@pytest.mark.parametrize("messages", [1, 3])
async def test_increment_of_one_room_takes_few_calls(database: Database, messages: int) -> None:
    async with open_syncing(database) as s:
        calls = await calls_of_increment(s, messages)

        assert calls <= CALLS_OF_INCREMENT


async def test_poll_without_changes_takes_few_calls(database: Database) -> None:
    async with open_syncing(database) as s:
        await s.world.create_room(ALICE)
        since = (await s.sync(ALICE))["next_batch"]
        since = (await s.sync(ALICE, since))["next_batch"]

        with Calls() as calls:
            await s.services.sync.sync.sync(SyncRequest(Requester(ALICE, "DEVICE"), since))

        assert calls.count <= CALLS_OF_POLL
