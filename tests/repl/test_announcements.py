"""When processes announce themselves to each other, with Redis in memory."""

import random
from collections import Counter
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from hs.repl.envelope import Envelopes, envelope_key
from hs.repl.feed import Feed
from hs.repl.intake import Intake
from hs.repl.message import MessageKind
from hs.repl.recent_rows import RecentRows
from hs.repl.redis import ANNOUNCE_EVERY, BEAT_S, RedisTransport
from hs.repl.redis_link import RedisAddress, RedisLink
from tests.simulation.determinism import Trace
from tests.support.sql.databases import fresh_inline
from tests.worker_simulation.bus import Bus, RedisConnection

CHANNEL = "test/hs/streams"
PERIODS = 6
PROBE_AND_LISTENER = 2  # connections of a test before the first one that publishes


def link_of(name: str) -> RedisLink:
    return RedisLink(RedisAddress(), CHANNEL, name)


def no_writer(name: str) -> RecentRows:
    raise AssertionError(f"{name} was called")


async def make_envelopes(name: str, number: int) -> Envelopes:
    return Envelopes(envelope_key("secret", "identity"), name, number)


async def test_process_asks_again_for_positions_if_its_question_was_lost(
    autojump_clock: MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus, life = Bus(random.Random(0), Trace(), nursery), SimpleNamespace(is_dead=False, name="")
    opened = list[RedisConnection]()

    async def connect(address: Any) -> RedisConnection:
        await trio.lowlevel.checkpoint()
        opened.append(bus.connect(life))
        if len(opened) == PROBE_AND_LISTENER + 1:
            raise OSError("too many clients")
        return opened[-1]

    monkeypatch.setattr("hs.repl.redis_link._open_stream", connect)
    envelopes, kinds = await make_envelopes("probe", 0), list[MessageKind]()

    def on_messages(received: list[bytes]) -> None:
        kinds.extend(message.kind for each in received for message in envelopes.open(each))

    nursery.start_soon(link_of("probe").listen, lambda: None, on_messages)
    await trio.testing.wait_all_tasks_blocked()
    async with fresh_inline() as database:
        feed = Feed()
        transport = RedisTransport(
            feed,
            "w1",
            link_of("w1"),
            make_envelopes=partial(make_envelopes, "w1", 0),
            intake=Intake(feed, "w1", database, no_writer),
            expected=[],
        )
        await nursery.start(transport.run)
        await trio.sleep(2 * BEAT_S)
        nursery.cancel_scope.cancel()

    assert transport.dropped == 2
    assert kinds[:2] == [MessageKind.REPLICATE, MessageKind.ALIVE]


async def test_processes_announce_themselves_at_one_moment(
    autojump_clock: MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus, life = Bus(random.Random(0), Trace(), nursery), SimpleNamespace(is_dead=False, name="")

    async def connect(address: Any) -> RedisConnection:
        await trio.lowlevel.checkpoint()
        return bus.connect(life)

    monkeypatch.setattr("hs.repl.redis_link._open_stream", connect)
    heard: Counter[float] = Counter()

    def on_messages(envelopes: list[bytes]) -> None:
        heard[round(trio.current_time(), 1)] += len(envelopes)

    async with fresh_inline() as database:
        for number, name in enumerate(("main", "w1", "w2", "w3")):
            feed = Feed()
            transport = RedisTransport(
                feed,
                name,
                link_of(name),
                make_envelopes=partial(make_envelopes, name, number),
                intake=Intake(feed, name, database, no_writer),
                expected=[],
            )
            await nursery.start(transport.run)
            await trio.sleep(2.7)
        await trio.sleep(2 * ANNOUNCE_EVERY * BEAT_S)
        nursery.start_soon(link_of("probe").listen, lambda: None, on_messages)
        await trio.sleep(PERIODS * ANNOUNCE_EVERY * BEAT_S)
        nursery.cancel_scope.cancel()

    assert len(heard) in (PERIODS, PERIODS + 1)
    assert set(heard.values()) == {4}
