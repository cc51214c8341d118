"""Lost database connections while events are written: acknowledged events are stored."""

from collections.abc import AsyncIterator

import pytest
import trio

from hs.lib.aio import Bridge
from hs.services.rooms.append.committer import NotCommitted
from hs.services.rooms.append.drafts import AppendedEvent
from hs.storage.database import Database, DatabaseUnavailable
from tests.support.rooms import ALICE, open_world, txn_key
from tests.support.servers.postgres import PostgresServer
from tests.support.sql.databases import TESTED, fresh_postgres

KILL = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{TESTED}'"
KILLS = 5


@pytest.fixture
async def postgres(postgres_server: PostgresServer, bridge: Bridge) -> AsyncIterator[Database]:
    """A fresh PostgreSQL database."""
    async with fresh_postgres(postgres_server, bridge) as opened:
        yield opened


@pytest.mark.postgres
async def test_acknowledged_events_survive_lost_connections(
    postgres: Database, postgres_server: PostgresServer
) -> None:
    acknowledged: list[AppendedEvent] = []
    stopped = False

    async with open_world(postgres) as world:
        room_id = await world.create_room(ALICE)

        async def send_until_stopped(device: str) -> None:
            number = 0
            while not stopped:
                key = txn_key(ALICE, room_id, str(number), device)
                try:
                    acknowledged.append(await world.send(room_id, ALICE, txn=key))
                    number += 1
                except (NotCommitted, DatabaseUnavailable):
                    await trio.lowlevel.checkpoint()  # the request is repeated

        async with trio.open_nursery() as nursery:
            for device in ("ONE", "TWO", "THREE"):
                nursery.start_soon(send_until_stopped, device)
            for _ in range(KILLS):
                await trio.to_thread.run_sync(postgres_server.psql, KILL)
                done = len(acknowledged)
                with trio.fail_after(60):
                    while len(acknowledged) < done + 5:
                        await trio.lowlevel.checkpoint()
            stopped = True

        ids = [event.event_id for event in acknowledged]
        assert len(set(ids)) == len(ids)
        for event_id in ids:
            world.events.forget(event_id)
        stored = await world.events.get(ids)
        published = [row.event_id for _, row in world.seen if row.type == "m.room.message"]
        assert set(stored) == set(ids)
        assert len(published) == len(set(published))
        assert set(ids) <= set(published)
        chain = sorted(stored.values(), key=lambda each: each.event.depth)
        assert len({each.event.depth for each in chain}) == len(chain)
