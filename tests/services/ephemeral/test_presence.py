"""Presence: syncing devices, activity, timeouts and visibility."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import attrs
import orjson
import pytest

from hs.core.errors import Forbidden, InvalidParam, UserSuspended
from hs.core.ids import RoomID, UserID
from hs.core.requester import Requester
from hs.core.streams import PRESENCE, PresenceRow
from hs.lib.clock import FixedClock
from hs.repl.calls.reply import RpcUnavailable
from hs.repl.memory_writer import epoch_at
from hs.services.ephemeral.presence import PresenceService
from hs.services.ephemeral.presence_tracking import SyncingDevices
from hs.services.ephemeral.presence_writer import REMOTE_TIMEOUT_MS, LocalPresenceWriter
from hs.settings.sections.features import PresenceSettings
from hs.storage.database import Database
from tests.support.composition import SETTINGS as SERVER_SETTINGS
from tests.support.counting import counting_steps
from tests.support.rooms import ALICE, BOB, CAROL, World, open_world

SETTINGS = PresenceSettings()
HOUR_MS = 3_600_000
TO_2050_MS = 26 * 365 * 24 * HOUR_MS


@attrs.frozen(eq=False)
class Scene:
    """A process that tracks and writes presence; Alice and Bob share a room, Carol is in none."""

    world: World
    room_id: RoomID
    rows: list[PresenceRow] = attrs.Factory(list)

    def __attrs_post_init__(self) -> None:
        self.world.feed.subscribe(
            PRESENCE, lambda batch: self.rows.extend(row for _, row in batch.rows)
        )

    @property
    def clock(self) -> FixedClock:
        return self.world.clock

    @property
    def service(self) -> PresenceService:
        return self.world.process.services.ephemeral.presence

    @property
    def devices(self) -> SyncingDevices:
        return self.service.devices

    @property
    def writer(self) -> LocalPresenceWriter:
        writer = self.service.writer
        assert isinstance(writer, LocalPresenceWriter)
        return writer

    def published(self) -> list[tuple[str, str]]:
        return [(row.user_id, row.state) for row in self.rows]

    async def advance_ms(self, ms: int) -> None:
        self.clock.advance(ms)
        await self.devices.flush()
        self.writer.expire()


@attrs.frozen(eq=False)
class LossyWriter:
    """A writer whose replies to keepalives are lost."""

    writer: LocalPresenceWriter

    async def keep(self, instance: str, epoch: int) -> bool:
        await self.writer.keep(instance, epoch)
        raise RpcUnavailable("main", "the reply was lost")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.writer, name)


@asynccontextmanager
async def open_scene(
    database: Database, settings: PresenceSettings = SETTINGS
) -> AsyncIterator[Scene]:
    async with open_world(database, attrs.evolve(SERVER_SETTINGS, presence=settings)) as world:
        yield Scene(world, await world.create_room(ALICE, join=[BOB]))


async def test_only_the_end_of_activity_is_published_without_ending_long_polls(
    database: Database,
) -> None:
    async with open_scene(database) as scene:
        with scene.service.syncing(ALICE, "A", "online"):
            await scene.advance_ms(1)
            await scene.advance_ms(SETTINGS.last_active_granularity)
            await scene.advance_ms(SETTINGS.idle_timeout)

    shown = [(row.state, row.currently_active, row.is_quiet) for row in scene.rows]
    assert shown[:3] == [
        ("online", True, False),
        ("online", False, True),
        ("unavailable", False, False),
    ]


async def test_sending_an_event_makes_the_user_active_again(database: Database) -> None:
    async with open_scene(database) as scene:
        with scene.service.syncing(ALICE, "A", "online"):
            await scene.advance_ms(1)
            await scene.advance_ms(SETTINGS.idle_timeout)

            for sender in (ALICE, BOB):
                await scene.world.send(scene.room_id, sender)
            await scene.advance_ms(1)

        assert scene.published()[-2:] == [(ALICE, "unavailable"), (ALICE, "online")]


async def test_syncing_device_is_published_as_online_once(database: Database) -> None:
    async with open_scene(database) as scene:
        for _ in range(5):
            with scene.service.syncing(ALICE, "A", "online"):
                await scene.advance_ms(10_000)

        assert scene.published() == [(ALICE, "online")]
        assert scene.rows[0].currently_active


async def test_user_who_stops_syncing_goes_offline_after_the_timeout(database: Database) -> None:
    async with open_scene(database) as scene:
        with scene.service.syncing(ALICE, "A", "online"):
            await scene.advance_ms(1)

        await scene.advance_ms(29_000)
        before_timeout = scene.published()
        await scene.advance_ms(2_000)

        assert before_timeout == [(ALICE, "online")]
        assert scene.published() == [(ALICE, "online"), (ALICE, "offline")]


async def test_idle_user_becomes_unavailable_and_active_again(database: Database) -> None:
    async with open_scene(database) as scene:
        with scene.service.syncing(ALICE, "A", "online"):
            await scene.advance_ms(1)
            await scene.advance_ms(60_000)
            await scene.advance_ms(240_000)
            scene.devices.note_active(ALICE)
            await scene.advance_ms(1)

        states = [(row.state, row.currently_active) for row in scene.rows]
        assert states == [
            ("online", True),
            ("online", False),
            ("unavailable", False),
            ("online", True),
        ]


async def test_presence_is_that_of_the_most_present_device(database: Database) -> None:
    async with open_scene(database) as scene:
        with scene.service.syncing(ALICE, "A", "unavailable"):
            await scene.advance_ms(1)
            with scene.service.syncing(ALICE, "B", "online"):
                await scene.advance_ms(1)
            await scene.advance_ms(31_000)

        assert [row.state for row in scene.rows] == ["unavailable", "online", "unavailable"]


async def test_syncing_as_offline_publishes_nothing(database: Database) -> None:
    async with open_scene(database) as scene:
        with scene.service.syncing(ALICE, "A", "offline"):
            await scene.advance_ms(1)

        assert scene.rows == []


async def test_status_is_visible_to_users_in_shared_rooms(database: Database) -> None:
    async with open_scene(database) as scene:
        await scene.service.set_presence(Requester(ALICE, "A"), ALICE, "unavailable", "at lunch")
        scene.clock.advance(500)

        presence = await scene.service.presence_of(Requester(BOB), ALICE)
        changes = await scene.service.changes(BOB, None)

        assert presence == {
            "presence": "unavailable",
            "last_active_ago": 500,
            "status_msg": "at lunch",
        }
        assert orjson.loads(changes[ALICE]) == {
            "type": "m.presence",
            "sender": ALICE,
            "content": presence,
        }
        assert await scene.service.changes(CAROL, None) == {}
        assert await scene.service.changes(BOB, scene.world.feed.position(PRESENCE)) == {}
        with pytest.raises(Forbidden):
            await scene.service.presence_of(Requester(CAROL), ALICE)
        assert await scene.service.presence_of(Requester(ALICE), BOB) == {"presence": "offline"}


@pytest.mark.parametrize(
    ("state", "status_msg"), [("away", None), (5, None), (["online"], None), ("online", 7)]
)
async def test_malformed_presence_is_rejected(
    database: Database, state: Any, status_msg: Any
) -> None:
    async with open_scene(database) as scene:
        with pytest.raises(InvalidParam):
            await scene.service.set_presence(Requester(ALICE), ALICE, state, status_msg)


async def test_presence_of_another_user_cannot_be_set(database: Database) -> None:
    async with open_scene(database) as scene:
        with pytest.raises(Forbidden):
            await scene.service.set_presence(Requester(ALICE), BOB, "online", None)


async def test_disabled_presence_publishes_nothing(database: Database) -> None:
    async with open_scene(database, PresenceSettings(enabled=False)) as scene:
        await scene.service.set_presence(Requester(ALICE), ALICE, "online", None)
        with scene.service.syncing(ALICE, "A", "online"):
            await scene.advance_ms(1)

        assert scene.rows == []
        assert await scene.service.changes(ALICE, None) == {}
        assert await scene.service.presence_of(Requester(ALICE), ALICE) == {"presence": "offline"}


async def test_presence_survives_a_restart_until_the_timeout(database: Database) -> None:
    async with open_scene(database) as scene:
        await scene.service.set_presence(Requester(ALICE, "A"), ALICE, "online", "hi")
        await scene.writer.save()

    async with open_scene(database) as scene:
        await scene.writer.load()
        initial_changes = await scene.service.changes(BOB, None)
        presence = await scene.service.presence_of(Requester(ALICE), ALICE)
        await scene.advance_ms(31_000)

        assert (presence["presence"], presence["status_msg"]) == ("online", "hi")
        assert initial_changes.keys() == {ALICE}
        assert scene.published() == [(ALICE, "offline")]


async def test_users_of_other_servers_stay_until_their_servers_should_have_repeated_it(
    database: Database,
) -> None:
    remote = UserID("@dave:other.example")
    async with open_scene(database) as scene:
        await scene.writer.set_remote([PresenceRow(remote, "online", 1, None, True)])
        await scene.writer.save()

    async with open_scene(database) as scene:
        await scene.writer.load()
        await scene.advance_ms(31_000)
        before = scene.published()
        await scene.advance_ms(REMOTE_TIMEOUT_MS)

        assert (before, scene.published()) == ([], [(remote, "offline")])


async def test_loading_changes_nothing_that_was_published_since_the_record(
    database: Database,
) -> None:
    async with open_scene(database) as scene:
        await scene.service.set_presence(Requester(ALICE, "A"), ALICE, "online", None)
        await scene.writer.save()
        await scene.service.set_presence(Requester(ALICE, "A"), ALICE, "offline", None)

        await scene.writer.load()
        await scene.service.set_presence(Requester(ALICE, "B"), ALICE, "unavailable", None)

        assert [row.state for row in scene.rows] == ["online", "offline", "unavailable"]


async def test_devices_of_a_silent_process_go_offline(database: Database) -> None:
    async with open_scene(database) as scene:
        epoch = epoch_at(scene.clock.now_ms())
        with scene.service.syncing(ALICE, "A", "online"):
            await scene.devices.flush()
            scene.clock.advance(61_000)
            scene.writer.expire()

            assert [row.state for row in scene.rows][-1] == "offline"
            # The process was alive: it must report its devices again.
            assert not await scene.writer.keep("main", epoch)


async def test_devices_are_reported_if_the_request_for_them_was_lost(database: Database) -> None:
    async with open_scene(database) as scene:
        with scene.service.syncing(ALICE, "A", "online"):
            await scene.devices.flush()
            scene.clock.advance(61_000)
            scene.writer.expire()
            devices = attrs.evolve(scene.devices, writer=LossyWriter(scene.writer))
            with pytest.raises(RpcUnavailable):
                await devices.flush()

            await devices.flush()

        assert scene.published()[-1] == (ALICE, "online")


async def test_user_who_was_set_offline_is_online_at_the_next_sync(database: Database) -> None:
    async with open_scene(database) as scene:
        with scene.service.syncing(ALICE, "A", "online"):
            await scene.advance_ms(1)
        await scene.service.set_presence(Requester(ALICE, "A"), ALICE, "offline", None)
        await scene.advance_ms(1)
        with scene.service.syncing(ALICE, "A", "online"):
            await scene.advance_ms(1)

        assert [row.state for row in scene.rows] == ["online", "offline", "online"]


async def test_offline_users_are_forgotten_once_they_are_stored(database: Database) -> None:
    async with open_scene(database) as scene:
        with scene.service.syncing(ALICE, "A", "online"):
            await scene.advance_ms(1)
        await scene.advance_ms(SETTINGS.sync_online_timeout + 1)
        assert scene.published()[-1] == (ALICE, "offline")
        assert scene.writer.users_in_memory == 1

        await scene.writer.save()

        assert scene.writer.users_in_memory == 0


async def test_suspended_user_sets_no_status_message(database: Database) -> None:
    async with open_scene(database) as scene:
        suspended = Requester(ALICE, "A", suspended=True)

        with pytest.raises(UserSuspended):
            await scene.service.set_presence(suspended, ALICE, "online", "buy this")
        await scene.service.set_presence(suspended, ALICE, "unavailable", None)

        assert scene.published() == [(ALICE, "unavailable")]
        assert scene.rows[0].status_msg is None


@pytest.mark.parametrize("jump_ms", [HOUR_MS, -HOUR_MS, TO_2050_MS])
async def test_presence_does_not_depend_on_the_date(database: Database, jump_ms: int) -> None:
    async with open_scene(database) as scene:
        with scene.service.syncing(ALICE, "A", "online"):
            await scene.advance_ms(1)
            scene.clock.jump(jump_ms)
            await scene.advance_ms(1)
        scene.clock.jump(-jump_ms)
        await scene.advance_ms(SETTINGS.sync_online_timeout - 1)
        scene.clock.jump(jump_ms)
        await scene.advance_ms(SETTINGS.sync_online_timeout // 2)
        with scene.service.syncing(ALICE, "A", "online"):
            await scene.advance_ms(1)
            scene.clock.jump(-jump_ms)
            scene.devices.note_active(ALICE)
            await scene.advance_ms(1)
            await scene.advance_ms(SETTINGS.last_active_granularity)
            scene.clock.jump(jump_ms)
            await scene.advance_ms(SETTINGS.idle_timeout - SETTINGS.last_active_granularity)

    assert scene.published() == [
        (ALICE, "online"),
        (ALICE, "offline"),
        (ALICE, "online"),
        (ALICE, "online"),  # no longer currently active
        (ALICE, "unavailable"),
    ]


async def test_flush_looks_only_at_devices_that_have_expired(database: Database) -> None:
    async with open_scene(database) as scene, AsyncExitStack() as requests:
        with counting_steps() as without_devices:
            await scene.devices.flush()
        for number in range(500):
            with scene.service.syncing(ALICE, f"gone {number}", "online"):
                requests.enter_context(scene.service.syncing(ALICE, f"open {number}", "online"))
        await scene.devices.flush()

        with counting_steps() as with_devices:
            await scene.devices.flush()

        assert with_devices.count < without_devices.count + 100
