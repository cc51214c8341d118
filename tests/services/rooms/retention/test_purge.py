"""Retention: old messages, content of redacted events, forgotten rooms."""

from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import orjson
import pytest

from hs.core.errors import Forbidden
from hs.core.ids import EventID, RoomID
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.retention.purge import ForgottenRooms, MessagePurge
from hs.settings.sections.retention import PurgeJob, RetentionPolicy, RetentionSettings
from hs.settings.sections.rooms import RoomSettings
from hs.settings.settings import Settings
from hs.storage.database import Database, Tx
from hs.storage.rooms import purge as storage
from hs.storage.rooms import rooms
from hs.storage.rooms.stored_pdus import expand_pdu
from tests.support.composition import SETTINGS
from tests.support.reading import readers_of
from tests.support.rooms import ALICE, BOB, World, open_world

MINUTE = 60_000
DAY = 86_400_000

ROWS_OF = "SELECT event_id, pdu FROM events WHERE room_id = $1 ORDER BY stream_id"
TABLES = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'table'",
    "postgres": "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()",
}
COLUMNS = {
    "sqlite": "SELECT name FROM pragma_table_info($1)",
    "postgres": "SELECT column_name FROM information_schema.columns "
    "WHERE table_schema = current_schema() AND table_name = $1",
}
# Data of users, or for administrators, that outlives the room.
KEPT_OF_ROOMS = {
    "account_data",
    "reports",
    "key_backup_sessions",
    "push_queue",
    "push_throttles",
    "typing_rooms",
}


async def rows_of(tx: Tx, room_id: str) -> dict[str, Any]:
    rows = await tx.fetch(ROWS_OF, room_id)
    return {row[0]: orjson.loads(expand_pdu(bytes(row[1]))) for row in rows}


async def tables_of_rooms(tx: Tx) -> set[str]:
    tables = [row[0] for row in await tx.fetch(TABLES[tx.dialect.engine])]
    return {
        table
        for table in tables
        if "room_id" in {row[0] for row in await tx.fetch(COLUMNS[tx.dialect.engine], table)}
    }


def settings(max_lifetime: int | None = None, **more: Any) -> Settings:
    retention = RetentionSettings(
        enabled=True, default_policy=RetentionPolicy(max_lifetime=max_lifetime), **more
    )
    return attrs.evolve(SETTINGS, retention=retention)


def purge_of(world: World) -> MessagePurge:
    purge = world.process.services.retention.messages
    assert purge is not None
    return purge


def forgotten_rooms_of(world: World) -> ForgottenRooms:
    forgotten = world.process.services.retention.forgotten
    assert forgotten is not None
    return forgotten


async def test_expired_messages_are_hidden_before_they_are_purged(database: Database) -> None:
    async with open_world(database, settings(10 * MINUTE)) as world:
        reading = readers_of(world)
        room_id = await world.create_room(ALICE, join=[BOB])
        await world.send(room_id, ALICE, "old")
        world.clock.advance(9 * MINUTE)
        await world.send(room_id, ALICE, "young")

        assert await reading.bodies(BOB, room_id) == ["old", "young"]
        world.clock.advance(2 * MINUTE)
        assert await reading.bodies(BOB, room_id) == ["young"]


async def test_room_policy_applies_within_the_configured_limits(database: Database) -> None:
    chosen = settings(DAY, allowed_lifetime_min=5 * MINUTE, allowed_lifetime_max=DAY)
    async with open_world(database, chosen) as world:
        policies = world.process.services.reading.retention
        room_id = await world.create_room(ALICE)

        async def lifetime(content: dict[str, Any]) -> int | None:
            await world.set_state(room_id, ALICE, "m.room.retention", content)
            return await policies.lifetime_ms(room_id)

        assert await policies.lifetime_ms(room_id) == DAY
        assert await lifetime({"max_lifetime": 10 * MINUTE}) == 10 * MINUTE
        assert await lifetime({"max_lifetime": MINUTE}) == 5 * MINUTE
        assert await lifetime({"max_lifetime": 2 * DAY}) == DAY
        assert await lifetime({"max_lifetime": "long"}) == DAY
        assert await lifetime({"min_lifetime": MINUTE}) == DAY
        assert policies.described() == {
            "policies": {"*": {"max_lifetime": DAY}},
            "limits": {"max_lifetime": {"min": 5 * MINUTE, "max": DAY}},
        }


async def test_expired_messages_are_purged_except_state_and_extremities(database: Database) -> None:
    async with open_world(database, settings(10 * MINUTE)) as world:
        room_id = await world.create_room(ALICE, join=[BOB])
        state = set(await database.read(rows_of, room_id))
        first = await world.send(room_id, ALICE, "one")
        await world.redact(room_id, ALICE, first.event_id)
        last = await world.send(room_id, ALICE, "last")
        world.clock.advance(11 * MINUTE)
        purge = purge_of(world)

        await purge.purge(PurgeJob())
        await purge.purge(PurgeJob())

        assert set(await database.read(rows_of, room_id)) == {*state, last.event_id}
        later = await world.send(room_id, BOB, "goes on")
        assert await readers_of(world).bodies(ALICE, room_id) == ["goes on"]
        await purge.purge(PurgeJob())
        assert set(await database.read(rows_of, room_id)) == {*state, later.event_id}


@attrs.frozen(eq=False)
class Interrupted:
    """A database that calls `happens` after a room's extremities were read."""

    inner: Database
    happens: Callable[[], Awaitable[object]]

    async def read(self, unit: Any, *args: Any) -> Any:
        found = await self.inner.read(unit, *args)
        if unit is storage.forward_extremities:
            await self.happens()
        return found

    async def read_long(self, unit: Any, *args: Any) -> Any:
        return await self.inner.read_long(unit, *args)

    async def write(self, unit: Any, *args: Any) -> Any:
        return await self.inner.write(unit, *args)


async def test_backdated_event_that_arrives_during_the_purge_is_kept(
    database: Database,
) -> None:
    async with open_world(database, settings(MINUTE)) as world:
        room_id = await world.create_room(ALICE)
        old = await world.send(room_id, ALICE, "old")
        await world.send(room_id, ALICE, "end")
        long_ago_ms = world.clock.now_ms()
        world.clock.advance(DAY)
        bridged: list[EventID] = []

        async def bridge() -> None:
            draft = Draft(
                "m.room.message", ALICE, {"body": "bridged"}, origin_server_ts=long_ago_ms
            )
            bridged.extend(event.event_id for event in await world.append(room_id, draft))

        interrupted: Any = Interrupted(database, bridge)
        purge = attrs.evolve(purge_of(world), database=interrupted)

        await purge.purge(PurgeJob())

        held = await database.read(rows_of, room_id)
        assert old.event_id not in held
        assert set(bridged) <= set(held)
        await world.send(room_id, ALICE, "goes on")


async def test_job_purges_only_rooms_within_its_lifetime_range(database: Database) -> None:
    async with open_world(database, settings()) as world:
        quick, slow = await world.create_room(ALICE), await world.create_room(ALICE)
        for room_id, minutes in ((quick, 1), (slow, 30)):
            policy = {"max_lifetime": minutes * MINUTE}
            await world.set_state(room_id, ALICE, "m.room.retention", policy)
            await world.send(room_id, ALICE, "gone")
            await world.send(room_id, ALICE, "end")
        world.clock.advance(DAY)
        purge = purge_of(world)

        assert await purge.purge(PurgeJob(longest_max_lifetime=5 * MINUTE)) == 1
        assert await purge.purge(PurgeJob(longest_max_lifetime=5 * MINUTE)) == 0
        assert await purge.purge(PurgeJob(shortest_max_lifetime=5 * MINUTE)) == 1


async def test_redacted_content_is_deleted_after_the_period(database: Database) -> None:
    rooms = RoomSettings(redaction_retention_period=7 * DAY)
    async with open_world(database, attrs.evolve(SETTINGS, rooms=rooms)) as world:
        contents = world.process.services.retention.redactions
        assert contents is not None
        room_id = await world.create_room(ALICE)
        old = (await world.send(room_id, ALICE, "secret")).event_id
        young = (await world.send(room_id, ALICE, "other")).event_id
        await world.redact(room_id, ALICE, old)
        world.clock.advance(6 * DAY)
        await world.redact(room_id, ALICE, young)

        assert await contents.remove() == 0
        world.clock.advance(2 * DAY)
        assert await contents.remove() == 1
        assert await contents.remove() == 0

        held = await database.read(rows_of, room_id)
        assert held[old]["content"] == {}
        assert held[old]["signatures"]
        assert held[young]["content"]["body"] == "other"
        again = await world.events.get_one(EventID(old))
        assert again is not None
        assert again.event.content == {}


FORGETFUL = attrs.evolve(SETTINGS, rooms=RoomSettings(forgotten_room_retention_period=DAY))


async def forget(world: World, room_id: RoomID, *user_ids: str) -> None:
    for user_id in user_ids:
        await world.database.write(rooms.forget, user_id, room_id)


async def test_forgotten_rooms_are_purged_after_the_period(database: Database) -> None:
    async with open_world(database, FORGETFUL) as world:
        reading = readers_of(world)
        room_id = await world.create_room(ALICE, join=[BOB])
        kept = await world.create_room(ALICE)
        await world.send(room_id, ALICE)
        duty = forgotten_rooms_of(world)
        await world.leave(room_id, BOB)
        await world.leave(room_id, ALICE)
        await forget(world, room_id, BOB)
        world.clock.advance(2 * DAY)
        assert await duty.purge() == []
        await forget(world, room_id, ALICE)

        assert await duty.purge() == []
        world.clock.advance(DAY)
        assert await duty.purge() == [room_id]

        assert await database.read(rows_of, room_id) == {}
        assert set(await reading.memberships.rooms_of(ALICE)) == {kept}
        assert room_id not in world.rooms
        assert not await world.states.current(room_id)
        with pytest.raises(Forbidden):
            await reading.visibility.check_may_read(ALICE, room_id)


async def test_room_that_is_joined_again_is_not_purged(database: Database) -> None:
    async with open_world(database, FORGETFUL) as world:
        room_id = await world.create_room(ALICE)
        duty = forgotten_rooms_of(world)
        await world.leave(room_id, ALICE)
        await forget(world, room_id, ALICE)
        await duty.purge()
        world.clock.advance(DAY)

        await world.join(room_id, BOB)

        assert await duty.purge() == []
        assert await database.read(rows_of, room_id) != {}


async def test_purging_a_room_covers_every_table(database: Database) -> None:
    tables = await database.read(tables_of_rooms)

    # On SQLite, entries of the search index are found by their events.
    tables |= {"search_entries"}
    assert tables - KEPT_OF_ROOMS == {statement.split()[2] for statement in storage.DELETE_ROOM}
