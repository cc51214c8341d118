"""Tokens of the future: of a database restored from a backup, or of a clock that was set back."""

import attrs
import pytest
import trio

from hs.core.errors import MatrixError
from hs.core.positions import EpochPosition, VectorPosition
from hs.core.tokens import SyncToken
from hs.lib.clock import FixedClock
from hs.services.sync.positions import MEMORY_S
from hs.storage.database import Database
from tests.support.composition import Neighbourhood
from tests.support.rooms import ALICE, BOB
from tests.support.sliding import open_sliding
from tests.support.syncing import bodies, main_and_reader, open_syncing

LOST = 12
SENT = 24
FIVE = {"room": {"timeline": {"limit": 5}}}


def of_the_future(token: str) -> str:
    """Return the token of a client that had received more events than the backup has."""
    position = SyncToken.parse(token)
    return attrs.evolve(position, events=VectorPosition(position.events.floor + LOST)).encode()


@pytest.mark.parametrize("is_shared", [False, True])
async def test_client_gets_all_messages_after_a_backup_was_restored(
    database: Database, is_shared: bool
) -> None:
    main, _ = main_and_reader()
    opened = (
        open_syncing(database, main, neighbours=Neighbourhood())
        if is_shared
        else open_syncing(database)
    )
    received: list[str] = []
    async with opened as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        token = of_the_future((await s.sync(ALICE))["next_batch"])

        for number in range(SENT):
            await s.world.send(room_id, BOB, f"message {number}")
            response = await s.sync(ALICE, token, timeout_ms=30_000)
            received += bodies(response["rooms"]["join"][room_id])
            token = response["next_batch"]

    assert received == [f"message {number}" for number in range(SENT)]


async def test_gap_after_a_token_of_the_future_is_told(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        token = of_the_future((await s.sync(ALICE))["next_batch"])
        for number in range(SENT - LOST):
            await s.world.send(room_id, BOB, f"message {number}")
        token = of_the_future((await s.sync(ALICE))["next_batch"])

        response = await s.sync(ALICE, token, timeout_ms=30_000, filter=FIVE)

        timeline = response["rooms"]["join"][room_id]["timeline"]
        assert timeline["limited"]
        assert timeline["prev_batch"]
        assert len(timeline["events"]) == 5
        assert await s.sync(ALICE, response["next_batch"]) != response


async def test_sliding_sync_begins_again_after_a_token_of_the_future(database: Database) -> None:
    async with open_sliding(database) as s:
        await s.world.create_room(ALICE, join=[BOB])
        pos = (await s.sync(ALICE))["pos"]
        token, slash, number = pos.rpartition("_c")
        assert slash

        with pytest.raises(MatrixError, match="pos") as error:
            await s.sync(ALICE, f"{of_the_future(token)}_c{number}", timeout_ms=30_000)

        assert error.value.errcode == "M_UNKNOWN_POS"


async def test_restart_with_the_same_clock_does_not_delay_clients(database: Database) -> None:
    clock = FixedClock()
    async with open_syncing(database, clock=clock) as s:
        await s.world.create_room(ALICE, join=[BOB])
        await s.set_presence(BOB, "online")
        token = (await s.sync(ALICE))["next_batch"]
    before = SyncToken.parse(token)

    clock.advance(-3_600_000)
    async with open_syncing(database, clock=clock) as s:
        after = SyncToken.parse((await s.sync(ALICE, token))["next_batch"])

    assert after.presence.vector.floor > before.presence.vector.floor
    assert after.typing.vector.floor > before.typing.vector.floor


async def test_lost_positions_in_memory_streams_are_no_reason_to_start_again(
    database: Database,
) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        position = SyncToken.parse((await s.sync(ALICE))["next_batch"])
        ahead = EpochPosition("", VectorPosition(10**17))
        await s.set_typing(room_id, BOB)
        token = attrs.evolve(position, typing=ahead, presence=ahead).encode()

        response = await s.sync(ALICE, token)

        room = response["rooms"]["join"][room_id]
        assert room["timeline"]["events"] == []
        assert room["ephemeral"]["events"][0]["content"] == {"user_ids": [BOB]}


async def test_client_waits_only_a_moment_for_rows_of_a_dead_writer(database: Database) -> None:
    main, reader = main_and_reader()
    neighbours = Neighbourhood()
    async with (
        open_syncing(database, main, neighbours=neighbours),
        open_syncing(database, reader, neighbours=neighbours) as s,
    ):
        room_id = await s.world.create_room(ALICE, join=[BOB])
        position = SyncToken.parse((await s.sync(ALICE))["next_batch"])
        lost = EpochPosition("", position.typing.vector.advance("dead", 10**17))
        await s.set_typing(room_id, BOB)
        began = trio.current_time()

        response = await s.sync(ALICE, attrs.evolve(position, typing=lost).encode())

        assert trio.current_time() - began <= 2 * MEMORY_S
        assert room_id in response["rooms"]["join"]
