"""Tokens of one process are valid at another, and after a restart."""

import attrs
import trio
from immutables import Map

from hs.core.ids import RoomID
from hs.core.positions import VectorPosition
from hs.core.streams import EVENTS
from hs.core.tokens import SyncToken
from hs.services.rooms.append.drafts import Draft
from hs.storage.database import Database
from tests.support.composition import SETTINGS, Neighbourhood, worker_settings
from tests.support.late_rows import LateNeighbourhood
from tests.support.rooms import ALICE, BOB, CAROL
from tests.support.syncing import bodies, keys, main_and_reader, open_syncing


async def test_client_alternates_between_processes(database: Database) -> None:
    neighbours = Neighbourhood()
    main, worker = (
        worker_settings(SETTINGS, name, events=("main", "worker")) for name in ("main", "worker")
    )
    async with (
        open_syncing(database, main, neighbours=neighbours) as at_first,
        open_syncing(database, worker, neighbours=neighbours) as at_second,
    ):
        first, second = at_first.world, at_second.world
        mine = await first.create_room(ALICE, join=[BOB])
        other = await second.create_room(BOB, join=[ALICE])
        token = (await at_first.sync(ALICE))["next_batch"]
        received: list[str] = []

        for n in range(6):
            await first.send(mine, BOB, f"one {n}")
            await second.send(other, BOB, f"two {n}")
            server = at_first if n % 2 else at_second
            answer = await server.sync(ALICE, token, timeout_ms=5_000)
            token = answer["next_batch"]
            for room in answer["rooms"]["join"].values():
                assert not room["timeline"]["limited"]
                received += bodies(room)

        for server in (at_first, at_second):
            assert "rooms" not in await server.sync(ALICE, token)
        assert sorted(received) == sorted(
            f"{name} {n}" for name in ("one", "two") for n in range(6)
        )


async def test_first_sync_at_another_process_resets_lazily_loaded_members(
    database: Database,
) -> None:
    neighbours, (main, reader) = Neighbourhood(), main_and_reader()
    named = [Draft("m.room.name", ALICE, {"name": "n"}, "")]
    lazy = {"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 1}}}
    async with (
        open_syncing(database, main, neighbours=neighbours) as at_first,
        open_syncing(database, reader, neighbours=neighbours) as at_second,
    ):
        first, second = at_first.world, at_second.world
        room_id = await first.create_room(ALICE, join=[BOB, CAROL], state=named)
        await first.send(room_id, BOB)
        token = (await at_first.sync(ALICE, filter=lazy))["next_batch"]
        await at_first.sync(ALICE, token, filter=lazy)
        await first.send(room_id, CAROL)
        await second.feed.wait_for_position(EVENTS, first.feed.position(EVENTS), 60)
        restarted = await at_second.sync(ALICE, filter=lazy)
        members = {
            user_id for _, user_id in keys(restarted["rooms"]["join"][room_id]["state"]["events"])
        }
        assert BOB not in members

        await first.send(room_id, BOB)
        answer = await at_first.sync(ALICE, restarted["next_batch"], filter=lazy)

        state = answer["rooms"]["join"][room_id]["state"]["events"]
        assert keys(state) == {("m.room.member", BOB)}


async def test_client_continues_after_a_restart(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        quiet = await s.world.create_room(ALICE)
        token = (await s.sync(ALICE))["next_batch"]
        await s.world.send(room_id, BOB, "before")
        left = await s.world.create_room(BOB, join=[ALICE])
        await s.world.leave(left, ALICE)
        clock = s.world.clock

    clock.advance(1000)
    async with open_syncing(database, clock=clock) as s:
        await s.world.send(room_id, BOB, "after")
        answer = await s.sync(ALICE, token)

        assert bodies(answer["rooms"]["join"][room_id]) == ["before", "after"]
        assert answer["rooms"]["join"][room_id]["state"]["events"] == []
        assert quiet not in answer["rooms"]["join"]
        assert list(answer["rooms"]["leave"]) == [left]
        assert "rooms" not in await s.sync(ALICE, answer["next_batch"])


async def test_concurrent_messages_are_delivered_exactly_once(database: Database) -> None:
    async with open_syncing(database) as s:
        rooms = [await s.world.create_room(ALICE, join=[BOB]) for _ in range(3)]
        token = (await s.sync(ALICE))["next_batch"]
        expected = {f"{n}.{i}" for n in range(3) for i in range(25)}
        received: list[str] = []

        async def send_all(number: int, room_id: RoomID) -> None:
            for i in range(25):
                await s.world.send(room_id, BOB, f"{number}.{i}")

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for number, room_id in enumerate(rooms):
                    nursery.start_soon(send_all, number, room_id)
                while len(received) < len(expected):
                    answer = await s.sync(
                        ALICE,
                        token,
                        timeout_ms=10_000,
                        filter={"room": {"timeline": {"limit": 100}}},
                    )
                    token = answer["next_batch"]
                    for room in answer["rooms"]["join"].values():
                        received += bodies(room)

        assert len(received) == len(expected)
        assert set(received) == expected
        assert "rooms" not in await s.sync(ALICE, token)


async def test_state_at_a_token_takes_the_position_of_each_writer(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        await s.world.set_state(room_id, ALICE, "m.room.topic", {"topic": "seen"})
        token = SyncToken.parse((await s.sync(ALICE))["next_batch"])
        number = token.events.floor
        ahead = VectorPosition(number - 1, Map({"main": number}))
        since = attrs.evolve(token, events=ahead).encode()
        await s.world.leave(room_id, ALICE)

        left = (await s.sync(ALICE, since))["rooms"]["leave"][room_id]

        assert left["state"]["events"] == []
        assert keys(left["timeline"]["events"]) == {("m.room.member", ALICE)}


async def test_events_before_a_ban_that_is_only_in_the_database_are_sent(
    database: Database,
) -> None:
    late, (main, reader) = LateNeighbourhood(), main_and_reader()
    async with (
        open_syncing(database, main, neighbours=late) as at_first,
        open_syncing(database, reader, neighbours=late) as at_second,
    ):
        room_id = await at_first.world.create_room(ALICE, join=[BOB])
        since = (await at_first.sync(BOB))["next_batch"]
        await at_first.world.send(room_id, ALICE, "before the ban")
        await late.rows[at_second.world.feed].receive()
        await at_first.world.set_membership(room_id, ALICE, BOB, "ban")

        before = await at_second.sync(BOB, since)
        await late.rows[at_second.world.feed].receive()
        after = await at_second.sync(BOB, before["next_batch"])

        assert bodies(before["rooms"]["join"][room_id]) == ["before the ban"]
        assert keys(after["rooms"]["leave"][room_id]["timeline"]["events"]) == {
            ("m.room.member", BOB)
        }
