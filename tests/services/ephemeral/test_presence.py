"""Presence: what devices do, what time does, and who sees it."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import attrs
import orjson
import pytest

from hs.core.errors import Forbidden, InvalidParam
from hs.core.ids import RoomID, UserID
from hs.core.requester import Requester
from hs.lib.clock import FixedClock
from hs.repl.feed import Batch, Feed
from hs.repl.inproc import alone
from hs.repl.memory_writer import MemoryWriter, epoch_at
from hs.repl.rows import EventRow, PresenceRow
from hs.repl.streams import EVENTS, PRESENCE
from hs.services.ephemeral.presence import PresenceService
from hs.services.ephemeral.presence_states import PresenceStates
from hs.services.ephemeral.presence_tracking import SyncingDevices, watch_senders
from hs.services.ephemeral.presence_writer import PresenceMemory
from hs.settings.sections.features import PresenceSettings
from hs.storage.database import Database

ALICE = UserID("@alice:test")
BOB = UserID("@bob:test")
CAROL = UserID("@carol:test")
ROOM = RoomID("!room:test")
SETTINGS = PresenceSettings()


class AliceAndBob:
    """Two who share a room; Carol is alone."""

    async def joined_rooms(self, user_id: UserID) -> Sequence[RoomID]:
        return [ROOM] if user_id in (ALICE, BOB) else []

    async def joined(self, room_id: RoomID) -> AbstractSet[UserID]:
        return {ALICE, BOB}

    async def share_room(self, user_id: UserID, other_id: UserID) -> bool:
        return {user_id, other_id} <= {ALICE, BOB}


@attrs.define(eq=False)
class Scene:
    """One process that tracks presence."""

    feed: Feed
    clock: FixedClock
    memory: PresenceMemory
    devices: SyncingDevices
    states: PresenceStates
    service: PresenceService
    rows: list[PresenceRow] = attrs.Factory(list)

    def told(self) -> list[tuple[str, str]]:
        return [(row.user_id, row.state) for row in self.rows]

    async def pass_ms(self, ms: int) -> None:
        self.clock.advance(ms)
        await self.devices.tell()
        self.memory.expire()


def make_scene(database: Database, settings: PresenceSettings = SETTINGS) -> Scene:
    feed, clock = Feed(), FixedClock()
    writer = MemoryWriter(PRESENCE, "main", alone(feed), epoch_at(clock.now_ms()))
    writer.attach()
    states = PresenceStates(database, feed)
    memory = PresenceMemory(writer, database, settings, clock)
    devices = SyncingDevices("main", 1, memory, states, settings, clock)
    service = PresenceService(settings, states, AliceAndBob(), memory, devices, clock)
    scene = Scene(feed, clock, memory, devices, states, service)
    feed.subscribe(PRESENCE, lambda batch: scene.rows.extend(row for _, row in batch.rows))
    return scene


async def test_sending_makes_one_active_again(database: Database) -> None:
    scene = make_scene(database)
    watch_senders(scene.feed, scene.devices, lambda user_id: user_id == ALICE)
    with scene.service.syncing(ALICE, "A", "online"):
        await scene.pass_ms(1)
        await scene.pass_ms(SETTINGS.idle_timeout)
        sent = [
            (n, EventRow(ROOM, f"${n}", "m.x", who, None, n, n))
            for n, who in ((1, ALICE), (2, BOB))
        ]

        scene.feed.deliver(Batch(EVENTS, "main", 0, 2, sent))
        await scene.pass_ms(1)

    assert scene.told()[-2:] == [(ALICE, "unavailable"), (ALICE, "online")]


async def test_syncing_tells_that_one_is_online_once(database: Database) -> None:
    scene = make_scene(database)

    for _ in range(5):
        with scene.service.syncing(ALICE, "A", "online"):
            await scene.pass_ms(10_000)

    assert scene.told() == [(ALICE, "online")]
    assert scene.rows[0].currently_active


async def test_who_stops_syncing_goes_offline_after_a_while(database: Database) -> None:
    scene = make_scene(database)
    with scene.service.syncing(ALICE, "A", "online"):
        await scene.pass_ms(1)

    await scene.pass_ms(29_000)
    before = scene.told()
    await scene.pass_ms(2_000)

    assert before == [(ALICE, "online")]
    assert scene.told() == [(ALICE, "online"), (ALICE, "offline")]


async def test_who_does_nothing_becomes_unavailable_and_back(database: Database) -> None:
    scene = make_scene(database)
    with scene.service.syncing(ALICE, "A", "online"):
        await scene.pass_ms(1)
        await scene.pass_ms(60_000)
        await scene.pass_ms(240_000)
        scene.devices.note_active(ALICE)
        await scene.pass_ms(1)

    states = [(row.state, row.currently_active) for row in scene.rows]
    assert states == [("online", True), ("online", False), ("unavailable", False), ("online", True)]


async def test_the_most_present_device_counts(database: Database) -> None:
    scene = make_scene(database)
    with scene.service.syncing(ALICE, "A", "unavailable"):
        await scene.pass_ms(1)
        with scene.service.syncing(ALICE, "B", "online"):
            await scene.pass_ms(1)
        await scene.pass_ms(31_000)

    assert [row.state for row in scene.rows] == ["unavailable", "online", "unavailable"]


async def test_syncing_offline_tells_nothing(database: Database) -> None:
    scene = make_scene(database)

    with scene.service.syncing(ALICE, "A", "offline"):
        await scene.pass_ms(1)

    assert scene.rows == []


async def test_a_status_is_shown_to_those_who_share_a_room(database: Database) -> None:
    scene = make_scene(database)
    await scene.service.set_presence(Requester(ALICE, "A"), ALICE, "unavailable", "at lunch")
    scene.clock.advance(500)

    seen = await scene.service.presence_of(Requester(BOB), ALICE)
    changes = await scene.service.changes(BOB, None)

    assert seen == {"presence": "unavailable", "last_active_ago": 500, "status_msg": "at lunch"}
    assert orjson.loads(changes[ALICE]) == {
        "type": "m.presence",
        "sender": ALICE,
        "content": seen,
    }
    assert await scene.service.changes(CAROL, None) == {}
    assert await scene.service.changes(BOB, scene.feed.position(PRESENCE)) == {}
    with pytest.raises(Forbidden):
        await scene.service.presence_of(Requester(CAROL), ALICE)
    assert await scene.service.presence_of(Requester(ALICE), BOB) == {"presence": "offline"}


@pytest.mark.parametrize(
    ("state", "status_msg"), [("away", None), (5, None), (["online"], None), ("online", 7)]
)
async def test_malformed_presence_is_refused(
    database: Database, state: Any, status_msg: Any
) -> None:
    scene = make_scene(database)

    with pytest.raises(InvalidParam):
        await scene.service.set_presence(Requester(ALICE), ALICE, state, status_msg)


async def test_nobody_sets_the_presence_of_another(database: Database) -> None:
    scene = make_scene(database)

    with pytest.raises(Forbidden):
        await scene.service.set_presence(Requester(ALICE), BOB, "online", None)


async def test_presence_that_is_off_shows_nothing(database: Database) -> None:
    scene = make_scene(database, PresenceSettings(enabled=False))
    await scene.service.set_presence(Requester(ALICE), ALICE, "online", None)
    with scene.service.syncing(ALICE, "A", "online"):
        await scene.pass_ms(1)

    assert scene.rows == []
    assert await scene.service.changes(ALICE, None) == {}
    assert await scene.service.presence_of(Requester(ALICE), ALICE) == {"presence": "offline"}


async def test_states_survive_a_restart_until_nobody_syncs(database: Database) -> None:
    scene = make_scene(database)
    await scene.service.set_presence(Requester(ALICE, "A"), ALICE, "online", "hi")
    await scene.memory.save()

    scene = make_scene(database)
    await scene.memory.load()
    first = await scene.service.changes(BOB, None)
    kept = await scene.service.presence_of(Requester(ALICE), ALICE)
    await scene.pass_ms(31_000)

    assert (kept["presence"], kept["status_msg"]) == ("online", "hi")
    assert first.keys() == {ALICE}
    assert scene.told() == [(ALICE, "offline")]


async def test_the_devices_of_a_dead_process_go_offline(database: Database) -> None:
    scene = make_scene(database)
    with scene.service.syncing(ALICE, "A", "online"):
        await scene.devices.tell()
        scene.clock.advance(61_000)
        scene.memory.expire()

        assert [row.state for row in scene.rows][-1] == "offline"
        # It was not dead after all: it is asked to say again what it knows.
        assert not await scene.memory.keep("main", 1)


async def test_who_said_to_be_offline_is_back_with_the_next_sync(database: Database) -> None:
    scene = make_scene(database)
    with scene.service.syncing(ALICE, "A", "online"):
        await scene.pass_ms(1)
    await scene.service.set_presence(Requester(ALICE, "A"), ALICE, "offline", None)
    await scene.pass_ms(1)
    with scene.service.syncing(ALICE, "A", "online"):
        await scene.pass_ms(1)

    assert [row.state for row in scene.rows] == ["online", "offline", "online"]
