"""Rows of the events stream that a process evaluates, and their effect on unread counts."""

from typing import Final

import trio

from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.core.push.unread import RoomCounts
from hs.core.streams import EVENTS, EventRow
from hs.repl.feed import Batch
from hs.services.rooms.append.drafts import Draft
from hs.settings.settings import Settings
from tests.support.composition import SETTINGS, worker_settings
from tests.support.rooms import ALICE, World

SOON_S: Final = 60.0


def evaluating_settings() -> Settings:
    """Return the settings of the process that evaluates; another one writes events."""
    return worker_settings(SETTINGS, "main", "writer", events=("writer",))


def writing_settings() -> Settings:
    """Return the settings of the process that writes the events."""
    return worker_settings(SETTINGS, "writer", "main", events=("writer",))


def reply_to(root_id: EventID) -> Draft:
    """Return the draft of Alice's reply in a thread."""
    relates = {"rel_type": "m.thread", "event_id": root_id}
    content = {"msgtype": "m.text", "body": "reply", "m.relates_to": relates}
    return Draft(event_types.MESSAGE, ALICE, content)


def deliver(world: World, *rows: EventRow) -> None:
    """Deliver rows of the events stream that are new to the process, in one batch."""
    position = world.seen[-1][0]
    numbered = list(enumerate(rows, position + 1))
    world.feed.deliver(Batch(EVENTS, "main", position, numbered[-1][0], numbered))


async def until_unread(world: World, user_id: UserID, room_id: RoomID, expected: int) -> None:
    """Wait until a user has so many unread notifications in a room, including threads."""
    counts = world.process.services.push.counts
    with trio.fail_after(SOON_S):
        while True:
            count = (await counts.counts(user_id, [room_id])).get(room_id, RoomCounts())
            if count.total().notifications == expected:
                return
            await trio.lowlevel.checkpoint()
