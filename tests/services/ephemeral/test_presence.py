"""Presence: syncing devices, activity, timeouts and visibility."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import attrs
import orjson
import pytest

from hs.core.errors import Forbidden, InvalidParam
from hs.core.ids import RoomID, UserID
from hs.core.requester import Requester
from hs.core.streams import EVENTS, PRESENCE, EventRow, PresenceRow
from hs.lib.clock import FixedClock
from hs.repl.feed import Batch, Feed
from hs.repl.inproc import local_transport
from hs.repl.memory_writer import MemoryWriter, epoch_at
from hs.services.ephemeral.presence import PresenceService
from hs.services.ephemeral.presence_states import PresenceStates
from hs.services.ephemeral.presence_tracking import SyncingDevices, watch_senders
from hs.services.ephemeral.presence_writer import LocalPresenceWriter
from hs.settings.sections.features import PresenceSettings
from hs.storage.database import Database

ALICE = UserID("@alice:test")
BOB = UserID("@bob:test")
CAROL = UserID("@carol:test")
ROOM = RoomID("!room:test")
SETTINGS = PresenceSettings()


class AliceAndBob:
    """Memberships: Alice and Bob share a room, Carol is in none."""

    async def joined_rooms(self, user_id: UserID) -> Sequence[RoomID]:
        return [ROOM] if user_id in (ALICE, BOB) else []

    async def joined(self, room_id: RoomID) -> AbstractSet[UserID]:
        return {ALICE, BOB}

    async def share_room(self, user_id: UserID, other_id: UserID) -> bool:
        return {user_id, other_id} <= {ALICE, BOB}


@attrs.define(eq=False)
class Scene:
    """A process that tracks and writes presence."""

    feed: Feed
    clock: FixedClock
    writer: LocalPresenceWriter
    devices: SyncingDevices
    states: PresenceStates
    service: PresenceService
    rows: list[PresenceRow] = attrs.Factory(list)

    def published(self) -> list[tuple[str, str]]:
        return [(row.user_id, row.state) for row in self.rows]

    async def advance_ms(self, ms: int) -> None:
        self.clock.advance(ms)
        await self.devices.flush()
        self.writer.expire()


def make_scene(database: Database, settings: PresenceSettings = SETTINGS) -> Scene:
    feed, clock = Feed(), FixedClock()
    stream = MemoryWriter(PRESENCE, "main", local_transport(feed), epoch_at(clock.now_ms()))
    stream.attach()
    states = PresenceStates(database, feed)
    writer = LocalPresenceWriter(stream, database, settings, clock)
    devices = SyncingDevices(
        instance="main", epoch=1, writer=writer, states=states, settings=settings, clock=clock
    )
    service = PresenceService(
        settings=settings,
        states=states,
        neighbours=AliceAndBob(),
        writer=writer,
        devices=devices,
        clock=clock,
    )
    scene = Scene(
        feed=feed, clock=clock, writer=writer, devices=devices, states=states, service=service
    )
    feed.subscribe(PRESENCE, lambda batch: scene.rows.extend(row for _, row in batch.rows))
    return scene


async def test_sending_an_event_makes_the_user_active_again(database: Database) -> None:
    scene = make_scene(database)
    watch_senders(scene.feed, scene.devices, lambda user_id: user_id == ALICE)
    with scene.service.syncing(ALICE, "A", "online"):
        await scene.advance_ms(1)
        await scene.advance_ms(SETTINGS.idle_timeout)
        rows = [
            (
                n,
                EventRow(
                    room_id=ROOM,
                    event_id=f"${n}",
                    type="m.x",
                    sender=sender,
                    state_key=None,
                    depth=n,
                    origin_server_ts=n,
                ),
            )
            for n, sender in ((1, ALICE), (2, BOB))
        ]

        scene.feed.deliver(Batch(EVENTS, "main", 0, 2, rows))
        await scene.advance_ms(1)

    assert scene.published()[-2:] == [(ALICE, "unavailable"), (ALICE, "online")]


async def test_syncing_device_is_published_as_online_once(database: Database) -> None:
    scene = make_scene(database)

    for _ in range(5):
        with scene.service.syncing(ALICE, "A", "online"):
            await scene.advance_ms(10_000)

    assert scene.published() == [(ALICE, "online")]
    assert scene.rows[0].currently_active


async def test_user_who_stops_syncing_goes_offline_after_the_timeout(database: Database) -> None:
    scene = make_scene(database)
    with scene.service.syncing(ALICE, "A", "online"):
        await scene.advance_ms(1)

    await scene.advance_ms(29_000)
    before_timeout = scene.published()
    await scene.advance_ms(2_000)

    assert before_timeout == [(ALICE, "online")]
    assert scene.published() == [(ALICE, "online"), (ALICE, "offline")]


async def test_idle_user_becomes_unavailable_and_active_again(database: Database) -> None:
    scene = make_scene(database)
    with scene.service.syncing(ALICE, "A", "online"):
        await scene.advance_ms(1)
        await scene.advance_ms(60_000)
        await scene.advance_ms(240_000)
        scene.devices.note_active(ALICE)
        await scene.advance_ms(1)

    states = [(row.state, row.currently_active) for row in scene.rows]
    assert states == [("online", True), ("online", False), ("unavailable", False), ("online", True)]


async def test_presence_is_that_of_the_most_present_device(database: Database) -> None:
    scene = make_scene(database)
    with scene.service.syncing(ALICE, "A", "unavailable"):
        await scene.advance_ms(1)
        with scene.service.syncing(ALICE, "B", "online"):
            await scene.advance_ms(1)
        await scene.advance_ms(31_000)

    assert [row.state for row in scene.rows] == ["unavailable", "online", "unavailable"]


async def test_syncing_as_offline_publishes_nothing(database: Database) -> None:
    scene = make_scene(database)

    with scene.service.syncing(ALICE, "A", "offline"):
        await scene.advance_ms(1)

    assert scene.rows == []


async def test_status_is_visible_to_users_in_shared_rooms(database: Database) -> None:
    scene = make_scene(database)
    await scene.service.set_presence(Requester(ALICE, "A"), ALICE, "unavailable", "at lunch")
    scene.clock.advance(500)

    presence = await scene.service.presence_of(Requester(BOB), ALICE)
    changes = await scene.service.changes(BOB, None)

    assert presence == {"presence": "unavailable", "last_active_ago": 500, "status_msg": "at lunch"}
    assert orjson.loads(changes[ALICE]) == {
        "type": "m.presence",
        "sender": ALICE,
        "content": presence,
    }
    assert await scene.service.changes(CAROL, None) == {}
    assert await scene.service.changes(BOB, scene.feed.position(PRESENCE)) == {}
    with pytest.raises(Forbidden):
        await scene.service.presence_of(Requester(CAROL), ALICE)
    assert await scene.service.presence_of(Requester(ALICE), BOB) == {"presence": "offline"}


@pytest.mark.parametrize(
    ("state", "status_msg"), [("away", None), (5, None), (["online"], None), ("online", 7)]
)
async def test_malformed_presence_is_rejected(
    database: Database, state: Any, status_msg: Any
) -> None:
    scene = make_scene(database)

    with pytest.raises(InvalidParam):
        await scene.service.set_presence(Requester(ALICE), ALICE, state, status_msg)


async def test_presence_of_another_user_cannot_be_set(database: Database) -> None:
    scene = make_scene(database)

    with pytest.raises(Forbidden):
        await scene.service.set_presence(Requester(ALICE), BOB, "online", None)


async def test_disabled_presence_publishes_nothing(database: Database) -> None:
    scene = make_scene(database, PresenceSettings(enabled=False))
    await scene.service.set_presence(Requester(ALICE), ALICE, "online", None)
    with scene.service.syncing(ALICE, "A", "online"):
        await scene.advance_ms(1)

    assert scene.rows == []
    assert await scene.service.changes(ALICE, None) == {}
    assert await scene.service.presence_of(Requester(ALICE), ALICE) == {"presence": "offline"}


async def test_presence_survives_a_restart_until_the_timeout(database: Database) -> None:
    scene = make_scene(database)
    await scene.service.set_presence(Requester(ALICE, "A"), ALICE, "online", "hi")
    await scene.writer.save()

    scene = make_scene(database)
    await scene.writer.load()
    initial_changes = await scene.service.changes(BOB, None)
    presence = await scene.service.presence_of(Requester(ALICE), ALICE)
    await scene.advance_ms(31_000)

    assert (presence["presence"], presence["status_msg"]) == ("online", "hi")
    assert initial_changes.keys() == {ALICE}
    assert scene.published() == [(ALICE, "offline")]


async def test_devices_of_a_silent_process_go_offline(database: Database) -> None:
    scene = make_scene(database)
    with scene.service.syncing(ALICE, "A", "online"):
        await scene.devices.flush()
        scene.clock.advance(61_000)
        scene.writer.expire()

        assert [row.state for row in scene.rows][-1] == "offline"
        # The process was alive: it must report its devices again.
        assert not await scene.writer.keep("main", 1)


async def test_user_who_was_set_offline_is_online_at_the_next_sync(database: Database) -> None:
    scene = make_scene(database)
    with scene.service.syncing(ALICE, "A", "online"):
        await scene.advance_ms(1)
    await scene.service.set_presence(Requester(ALICE, "A"), ALICE, "offline", None)
    await scene.advance_ms(1)
    with scene.service.syncing(ALICE, "A", "online"):
        await scene.advance_ms(1)

    assert [row.state for row in scene.rows] == ["online", "offline", "online"]
