"""Processes connected by a real Redis: no row is lost, whatever happens to messages."""

from collections.abc import Iterator

import pytest
import trio

from hs.lib.aio import Bridge
from hs.repl.envelope import Envelopes, envelope_key
from hs.repl.feed import Interest
from hs.repl.intake import FeedLost
from hs.repl.message import Message, MessageKind, encode_message
from hs.repl.redis_link import Audience, RedisAddress, RedisLink
from hs.storage.database import Database
from tests.repl.conftest import HINTS, NOTES, Note, add_note
from tests.repl.nodes import CHANNEL, Cluster, Node
from tests.support.servers.redis import RedisMissing, RedisServer, running_redis

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
    """Announce positions often, so that the tests are short."""
    monkeypatch.setattr("hs.repl.redis.BEAT_S", 0.05)


async def test_rows_of_each_process_reach_the_other(
    db: Database, bridge: Bridge, redis: RedisServer, nursery: trio.Nursery
) -> None:
    cluster = Cluster(db, bridge, redis, ("w1", "w2"))
    first, second = cluster.node("w1"), cluster.node("w2")
    await nursery.start(first.run)
    await nursery.start(second.run)

    number_of_first = await first.notes.write(add_note, "from first")
    number_of_second = await second.notes.write(add_note, "from second")

    assert await second.feed.wait_for(NOTES, "w1", number_of_first, 60)
    assert await first.feed.wait_for(NOTES, "w2", number_of_second, 60)
    await second.until_seen("w1", ["from first"])
    # Only now, because there is no order between streams.
    second.hints.append_nowait([Note("hint")])
    await first.until_seen("w2", ["from second", "hint"])
    nursery.cancel_scope.cancel()


async def test_gap_in_messages_is_filled_from_the_log_in_order(
    db: Database,
    bridge: Bridge,
    redis: RedisServer,
    nursery: trio.Nursery,
) -> None:
    cluster = Cluster(db, bridge, redis, ("w1", "w2"))
    first, second = cluster.node("w1"), cluster.node("w2")
    second.intake.lose = frozenset({2, 3, 7})
    await nursery.start(first.run)
    await nursery.start(second.run)

    texts = [str(number) for number in range(12)]
    for text in texts:
        await first.notes.write(add_note, text)

    await second.until_seen("w1", texts)
    nursery.cancel_scope.cancel()


async def followers_of_changes(
    cluster: Cluster, nursery: trio.Nursery, lose: frozenset[int]
) -> tuple[Node, Node, Node]:
    """Start three processes; the last takes no plain rows, and loses messages with rows."""
    first, second = cluster.node("w1"), cluster.node("w2")
    last = cluster.node("w3", Interest.CHANGES)
    last.intake.lose = lose
    for node in (first, second, last):
        await nursery.start(node.run)
    return first, second, last


async def test_process_without_plain_rows_gets_changes_and_reaches_positions(
    db: Database, bridge: Bridge, redis: RedisServer, nursery: trio.Nursery
) -> None:
    cluster = Cluster(db, bridge, redis)
    first, second, last = await followers_of_changes(cluster, nursery, frozenset())

    texts = ["plain 1", "change 1", "plain 2", "plain 3", "change 2", "plain 4"]
    for text in texts:
        await first.notes.write(add_note, text)

    await second.until_seen("w1", texts)
    assert await last.feed.wait_for(NOTES, "w1", first.notes.position, 60)
    assert last.texts("w1") == ["change 1", "change 2"]
    assert last.intake.count == 2
    assert not any(lane.repairs for lane in last.intake.followed() if lane.stream == NOTES.name)
    nursery.cancel_scope.cancel()


async def test_process_without_plain_rows_notices_that_it_missed_a_change(
    db: Database, bridge: Bridge, redis: RedisServer, nursery: trio.Nursery
) -> None:
    cluster = Cluster(db, bridge, redis)
    first, _, last = await followers_of_changes(cluster, nursery, frozenset({1}))

    for text in ("change 1", "plain 1", "plain 2"):
        await first.notes.write(add_note, text)

    assert await last.feed.wait_for(NOTES, "w1", first.notes.position, 60)
    assert last.texts("w1") == ["change 1"]
    nursery.cancel_scope.cancel()


async def test_first_subscriber_of_plain_rows_gets_all_that_follow(
    db: Database, bridge: Bridge, redis: RedisServer, nursery: trio.Nursery
) -> None:
    cluster = Cluster(db, bridge, redis)
    first, _, last = await followers_of_changes(cluster, nursery, frozenset())
    position = await first.notes.write(add_note, "plain 1")
    assert await last.feed.wait_for(NOTES, "w1", position, 60)
    last.feed.subscribe(NOTES, last.on_batch)

    texts = [f"plain {number}" for number in range(2, 9)]
    for text in texts:
        await first.notes.write(add_note, text)

    await last.until_seen("w1", texts)
    nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("fast_beats")
async def test_loss_of_the_last_message_is_noticed_by_the_next_announcement(
    db: Database,
    bridge: Bridge,
    redis: RedisServer,
    nursery: trio.Nursery,
) -> None:
    cluster = Cluster(db, bridge, redis, ("w1", "w2"))
    first, second = cluster.node("w1"), cluster.node("w2")
    second.intake.lose = frozenset({1})
    await nursery.start(first.run)
    await nursery.start(second.run)

    await first.notes.write(add_note, "lonely")

    await second.until_seen("w1", ["lonely"])
    nursery.cancel_scope.cancel()


async def test_lost_rows_of_a_memory_stream_are_fetched_from_its_writer(
    db: Database,
    bridge: Bridge,
    redis: RedisServer,
    nursery: trio.Nursery,
) -> None:
    cluster = Cluster(db, bridge, redis, ("w1", "w2"))
    first, second = cluster.node("w1"), cluster.node("w2")
    second.intake.lose = frozenset({2})
    await nursery.start(first.run)
    await nursery.start(second.run)
    with trio.fail_after(60):
        while second.feed.position_of(HINTS, "w1") is None:
            await second.changed.wait()

    for text in "abc":
        first.hints.append_nowait([Note(text)])
        await trio.testing.wait_all_tasks_blocked(0.01)

    await second.until_seen("w1", list("abc"))
    nursery.cancel_scope.cancel()


async def test_restarted_memory_writer_is_followed_from_its_new_epoch(
    db: Database, bridge: Bridge, redis: RedisServer, nursery: trio.Nursery
) -> None:
    cluster = Cluster(db, bridge, redis, ("w1", "w2"))
    second = cluster.node("w2")
    await nursery.start(second.run)
    for life in ("first", "second"):
        async with trio.open_nursery() as process:
            first = cluster.node("w1")
            await process.start(first.run)
            position = first.hints.append_nowait([Note(life)])
            assert await second.feed.wait_for(HINTS, "w1", position, 60)
            assert second.feed.epoch(HINTS, "w1") == first.hints.epoch
            process.cancel_scope.cancel()

    assert second.texts("w1") == ["first", "second"]
    assert [batch.reset for batch in second.seen if batch.reset]
    nursery.cancel_scope.cancel()


async def test_idle_writer_of_another_process_does_not_hold_back_readers(
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


async def test_process_that_starts_later_begins_at_the_positions_in_the_database(
    db: Database, bridge: Bridge, redis: RedisServer, nursery: trio.Nursery
) -> None:
    cluster = Cluster(db, bridge, redis, ("w1", "w2"))
    first = cluster.node("w1")
    await nursery.start(first.run)
    await first.notes.write(add_note, "old")
    second = cluster.node("w2")
    await nursery.start(second.run)

    assert second.feed.position(NOTES).covers("w1", first.notes.committed)
    await first.notes.write(add_note, "new")
    await second.until_seen("w1", ["new"])
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
async def test_without_redis_rows_are_read_from_the_database_and_the_writers(
    db: Database, bridge: Bridge, own_redis: RedisServer, nursery: trio.Nursery
) -> None:
    cluster = Cluster(db, bridge, own_redis, ("w1", "w2"))
    first, second = cluster.node("w1"), cluster.node("w2")
    await nursery.start(first.run)
    await nursery.start(second.run)
    start = first.hints.append_nowait([Note("known")])
    assert await second.feed.wait_for(HINTS, "w1", start, 60)
    own_redis.stop()

    await first.notes.write(add_note, "stored")
    position = first.hints.append_nowait([Note("remembered")])

    assert await second.feed.wait_for(NOTES, "w1", first.notes.committed, 60)
    assert await second.feed.wait_for(HINTS, "w1", position, 60)
    assert sorted(second.texts("w1")) == ["known", "remembered", "stored"]
    nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("fast_beats")
async def test_process_starts_without_redis(
    db: Database, bridge: Bridge, own_redis: RedisServer, nursery: trio.Nursery
) -> None:
    own_redis.stop()
    cluster = Cluster(db, bridge, own_redis, ("w1", "w2"))
    first, second = cluster.node("w1"), cluster.node("w2")
    await nursery.start(first.run)
    await nursery.start(second.run)

    await first.notes.write(add_note, "stored")

    await second.until_seen("w1", ["stored"])
    nursery.cancel_scope.cancel()


async def test_first_messages_after_a_connection_broke_arrive(own_redis: RedisServer) -> None:
    """Among them is the request that the other processes announce their positions."""
    link = RedisLink(RedisAddress(path=own_redis.socket), CHANNEL, "w1")

    with trio.fail_after(60):
        first = await sent_to_itself(link, b"1", own_redis)
        await trio.to_thread.run_sync(own_redis.start)
        second = await sent_to_itself(link, b"2", own_redis)
        await link.aclose()

    assert (first, second) == ([b"1"], [b"2"])


async def sent_to_itself(link: RedisLink, payload: bytes, server: RedisServer) -> list[bytes]:
    """Connect, publish a message, and stop Redis; return what has arrived."""
    received, subscribed, arrived = list[bytes](), trio.Event(), trio.Event()

    def note(messages: list[bytes]) -> None:
        received.extend(messages)
        arrived.set()

    async with trio.open_nursery() as listening:
        listening.start_soon(link.listen, subscribed.set, note)
        await subscribed.wait()
        await link.publish([(Audience.ALL, payload)])
        await arrived.wait()
        listening.cancel_scope.cancel()
    server.stop()
    return received


async def test_process_that_missed_pruned_commits_ends(
    db: Database, bridge: Bridge, redis: RedisServer, nursery: trio.Nursery
) -> None:
    cluster = Cluster(db, bridge, redis, ("w1", "w2"))
    first, second = cluster.node("w1"), cluster.node("w2")
    await nursery.start(first.run)
    await first.notes.write(add_note, "pruned")
    await first.notes.write(add_note, "kept")
    await db.write(lambda tx: tx.execute("DELETE FROM stream_log WHERE position = 1"))

    with pytest.RaisesGroup(FeedLost, flatten_subgroups=True), trio.fail_after(60):
        async with trio.open_nursery() as process:
            second.feed.start_at(NOTES, "w1", 0)
            process.start_soon(second.intake.run)
            await trio.testing.wait_all_tasks_blocked()
            await second.intake.poll()
    nursery.cancel_scope.cancel()


async def test_messages_of_others_on_redis_are_ignored(
    db: Database,
    bridge: Bridge,
    redis: RedisServer,
    nursery: trio.Nursery,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cluster = Cluster(db, bridge, redis, ("w1", "w2"))
    first, second = cluster.node("w1"), cluster.node("w2")
    await nursery.start(first.run)
    await nursery.start(second.run)
    position = Message(MessageKind.POSITION, "w1", "receipts", "w1", prev=10**9, position=10**9)
    stranger = Envelopes(envelope_key("guess", "identity"), "w1", 10**9)
    forged = [*stranger.seal([encode_message(position)]), encode_message(position), b"", b"\xff"]

    for payload in forged:
        redis.publish(CHANNEL, payload)
    await first.notes.write(add_note, "true")

    await second.until_seen("w1", ["true"])
    assert second.feed.position_of(NOTES, "w1") == first.notes.position
    assert second.transport.dropped == len(forged)
    lines = [record for record in caplog.records if "not of this server" in record.getMessage()]
    assert len(lines) == len(cluster.nodes)
    nursery.cancel_scope.cancel()
