"""A process can wait until it has seen what others committed before."""

import pytest
import trio

from hs.lib.aio import Bridge
from hs.repl.freshness import Freshness
from hs.storage.database import Database
from tests.repl.conftest import add_note
from tests.repl.nodes import Cluster
from tests.support.servers.redis import RedisServer

pytestmark = pytest.mark.redis


@pytest.mark.parametrize("lost", [frozenset[int](), frozenset({1})])
async def test_earlier_commits_of_another_process_are_seen(
    db: Database, bridge: Bridge, redis: RedisServer, nursery: trio.Nursery, lost: frozenset[int]
) -> None:
    cluster = Cluster(db, bridge, redis, ("w1", "w2"))
    writer, reader = cluster.node("w1"), cluster.node("w2")
    reader.intake.lose = lost
    await nursery.start(writer.run)
    await nursery.start(reader.run)
    freshness = Freshness(reader.feed, "w2", db, reader.intake.look)
    await freshness.catch_up()
    before = reader.texts("w1")

    await writer.notes.write(add_note, "just now")
    await freshness.catch_up()

    assert (before, reader.texts("w1")) == ([], ["just now"])
    nursery.cancel_scope.cancel()
