"""Before something is answered, a process can have what the others have committed."""

import pytest
import trio

from hs.lib.aio import Bridge
from hs.repl.freshness import Freshness
from hs.storage.database import Database
from tests.repl.conftest import add_note
from tests.repl.nodes import Cluster
from tests.support.redis import RedisServer

pytestmark = pytest.mark.redis


@pytest.mark.parametrize("lost", [frozenset[int](), frozenset({1})])
async def test_what_was_committed_before_is_known_after(
    db: Database, bridge: Bridge, redis: RedisServer, nursery: trio.Nursery, lost: frozenset[int]
) -> None:
    cluster = Cluster(db, bridge, redis, ("w1", "w2"))
    one, two = cluster.node("w1"), cluster.node("w2")
    two.intake.lose = lost
    await nursery.start(one.run)
    await nursery.start(two.run)
    freshness = Freshness(two.feed, "w2", db, two.intake.look)
    await freshness.see_all()
    before = two.texts("w1")

    await one.notes.write(add_note, "just now")
    await freshness.see_all()

    assert (before, two.texts("w1")) == ([], ["just now"])
    nursery.cancel_scope.cancel()
