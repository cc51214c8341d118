"""Processes connected by a real Redis: nothing is lost, whatever happens to messages."""

from collections.abc import Iterator

import pytest
import trio

from hs.lib.aio import Bridge
from hs.repl.intake import FeedLost
from hs.storage.database import Database
from tests.repl.conftest import HINTS, NOTES, Note, add_note
from tests.repl.nodes import Cluster, Node
from tests.support.redis import RedisMissing, RedisServer, running_redis

pytestmark = pytest.mark.redis


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A Redis that the test may kill."""
    try:
        with running_redis() as server:
            yield server
    except RedisMissing as error:
        pytest.skip(str(error))


@pytest.fixture
def fast_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let positions be announced often, so that the tests are short."""
    monkeypatch.setattr("hs.repl.redis.BEAT_S", 0.05)


async def test_rows_of_either_process_reach_the_other(
    db: Database, bridge: Bridge, redis: RedisServer, nursery: trio.Nursery
) -> None:
    cluster = Cluster(db, bridge, redis, ("w1", "w2"))
    one, two = cluster.node("w1"), cluster.node("w2")
    await nursery.start(one.run)
    await nursery.start(two.run)

    first = await one.notes.write(add_note, "from one")
    second = await two.notes.write(add_note, "from two")

    assert await two.feed.wait_for(NOTES, "w1", first, 60)
    assert await one.feed.wait_for(NOTES, "w2", second, 60)
    await two.until_seen("w1", ["from one"])
    # Only now: between streams there is no order.
    two.hints.append_nowait([Note("hint")])
    await one.until_seen("w2", ["from two", "hint"])
    nursery.cancel_scope.cancel()


async def test_a_gap_in_the_messages_is_filled_from_the_log_in_order(
    db: Database,
    bridge: Bridge,
    redis: RedisServer,
    nursery: trio.Nursery,
) -> None:
    cluster = Cluster(db, bridge, redis, ("w1", "w2"))
    one, two = cluster.node("w1"), cluster.node("w2")
    two.intake.lose = frozenset({2, 3, 7})
    await nursery.start(one.run)
    await nursery.start(two.run)

    texts = [str(number) for number in range(12)]
    for text in texts:
        await one.notes.write(add_note, text)

    await two.until_seen("w1", texts)
    nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("fast_beats")
async def test_the_loss_of_the_last_message_is_noticed_by_the_next_announcement(
    db: Database,
    bridge: Bridge,
    redis: RedisServer,
    nursery: trio.Nursery,
) -> None:
    cluster = Cluster(db, bridge, redis, ("w1", "w2"))
    one, two = cluster.node("w1"), cluster.node("w2")
    two.intake.lose = frozenset({1})
    await nursery.start(one.run)
    await nursery.start(two.run)

    await one.notes.write(add_note, "lonely")

    await two.until_seen("w1", ["lonely"])
    nursery.cancel_scope.cancel()


async def test_lost_rows_of_a_memory_stream_come_from_their_writer(
    db: Database,
    bridge: Bridge,
    redis: RedisServer,
    nursery: trio.Nursery,
) -> None:
    cluster = Cluster(db, bridge, redis, ("w1", "w2"))
    one, two = cluster.node("w1"), cluster.node("w2")
    two.intake.lose = frozenset({2})
    await nursery.start(one.run)
    await nursery.start(two.run)
    with trio.fail_after(60):
        while two.feed.position_of(HINTS, "w1") is None:
            await two.changed.wait()

    for text in "abc":
        one.hints.append_nowait([Note(text)])
        await trio.testing.wait_all_tasks_blocked(0.01)

    await two.until_seen("w1", list("abc"))
    nursery.cancel_scope.cancel()


async def test_a_memory_writer_that_restarts_is_followed_from_its_new_epoch(
    db: Database, bridge: Bridge, redis: RedisServer, nursery: trio.Nursery
) -> None:
    cluster = Cluster(db, bridge, redis, ("w1", "w2"))
    two = cluster.node("w2")
    await nursery.start(two.run)
    for life in ("first", "second"):
        async with trio.open_nursery() as process:
            one = cluster.node("w1")
            await process.start(one.run)
            position = one.hints.append_nowait([Note(life)])
            assert await two.feed.wait_for(HINTS, "w1", position, 60)
            assert two.feed.epoch(HINTS, "w1") == one.hints.epoch
            process.cancel_scope.cancel()

    assert two.texts("w1") == ["first", "second"]
    assert [batch.reset for batch in two.seen if batch.reset]
    nursery.cancel_scope.cancel()


async def test_a_silent_writer_of_another_process_does_not_hold_back_readers(
    db: Database, bridge: Bridge, redis: RedisServer, nursery: trio.Nursery
) -> None:
    cluster = Cluster(db, bridge, redis)
    nodes = [cluster.node(name) for name in cluster.names]
    for node in nodes:
        await nursery.start(node.run)

    for _ in range(5):
        number = await nodes[0].notes.write(add_note, "x")

        for node in nodes:
            for writer in cluster.names:
                assert await node.feed.wait_for(NOTES, writer, number, 60)
            assert node.feed.position(NOTES).encode() == str(number)
    nursery.cancel_scope.cancel()


async def test_a_process_that_starts_later_begins_where_the_tables_are(
    db: Database, bridge: Bridge, redis: RedisServer, nursery: trio.Nursery
) -> None:
    cluster = Cluster(db, bridge, redis, ("w1", "w2"))
    one = cluster.node("w1")
    await nursery.start(one.run)
    await one.notes.write(add_note, "old")
    two = cluster.node("w2")
    await nursery.start(two.run)

    assert two.feed.position(NOTES).covers("w1", one.notes.committed)
    await one.notes.write(add_note, "new")
    await two.until_seen("w1", ["new"])
    nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("fast_beats")
async def test_killing_redis_under_load_loses_nothing(
    database: Database, bridge: Bridge, own_redis: RedisServer, nursery: trio.Nursery
) -> None:
    cluster = Cluster(database, bridge, own_redis, ("w1", "w2"))
    nodes = [cluster.node("w1"), cluster.node("w2")]
    for node in nodes:
        await nursery.start(node.run)
    texts = [str(number) for number in range(300)]

    async def load(node: Node) -> None:
        for text in texts:
            await node.notes.write(add_note, text)
            await trio.sleep(0.004)

    async def break_redis() -> None:
        for _ in range(2):
            await trio.sleep(0.2)
            own_redis.stop()
            await trio.sleep(0.2)
            await trio.to_thread.run_sync(own_redis.start)

    async with trio.open_nursery() as working:
        for node in nodes:
            working.start_soon(load, node)
        working.start_soon(break_redis)

    await nodes[0].until_seen("w2", texts)
    await nodes[1].until_seen("w1", texts)
    nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("fast_beats")
async def test_without_redis_changes_are_found_in_the_database_and_at_the_writers(
    db: Database, bridge: Bridge, own_redis: RedisServer, nursery: trio.Nursery
) -> None:
    cluster = Cluster(db, bridge, own_redis, ("w1", "w2"))
    one, two = cluster.node("w1"), cluster.node("w2")
    await nursery.start(one.run)
    await nursery.start(two.run)
    start = one.hints.append_nowait([Note("known")])
    assert await two.feed.wait_for(HINTS, "w1", start, 60)
    own_redis.stop()

    await one.notes.write(add_note, "stored")
    position = one.hints.append_nowait([Note("remembered")])

    assert await two.feed.wait_for(NOTES, "w1", one.notes.committed, 60)
    assert await two.feed.wait_for(HINTS, "w1", position, 60)
    assert sorted(two.texts("w1")) == ["known", "remembered", "stored"]
    nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("fast_beats")
async def test_a_process_starts_without_redis(
    db: Database, bridge: Bridge, own_redis: RedisServer, nursery: trio.Nursery
) -> None:
    own_redis.stop()
    cluster = Cluster(db, bridge, own_redis, ("w1", "w2"))
    one, two = cluster.node("w1"), cluster.node("w2")
    await nursery.start(one.run)
    await nursery.start(two.run)

    await one.notes.write(add_note, "stored")

    await two.until_seen("w1", ["stored"])
    nursery.cancel_scope.cancel()


async def test_a_process_that_missed_more_than_is_kept_ends(
    db: Database, bridge: Bridge, redis: RedisServer, nursery: trio.Nursery
) -> None:
    cluster = Cluster(db, bridge, redis, ("w1", "w2"))
    one, two = cluster.node("w1"), cluster.node("w2")
    await nursery.start(one.run)
    await one.notes.write(add_note, "pruned")
    await one.notes.write(add_note, "kept")
    await db.write(lambda tx: tx.execute("DELETE FROM stream_log WHERE position = 1"))

    with pytest.RaisesGroup(FeedLost, flatten_subgroups=True), trio.fail_after(60):
        async with trio.open_nursery() as process:
            two.feed.start_at(NOTES, "w1", 0)
            process.start_soon(two.intake.run)
            await trio.testing.wait_all_tasks_blocked()
            await two.intake.poll()
    nursery.cancel_scope.cancel()
