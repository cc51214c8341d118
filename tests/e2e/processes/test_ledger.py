"""Whatever is killed under load: every acknowledged event is there exactly once.

In the database, and in the timeline of every client that was syncing meanwhile.
HS_LEDGER_SECONDS sets how long the long version runs.
"""

import json
import logging
import os
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest
import trio

from tests.support.ledger import CLIENT, Ledger, Person, Reader, faults_of, send_until
from tests.support.postgres import PostgresMissing, PostgresServer, running_postgres
from tests.support.processes import Cluster, Layout, make_cluster
from tests.support.redis import RedisServer

pytestmark = pytest.mark.process

SHORT_S: dict[Layout, float] = {"T0": 6.0, "T1": 6.0, "T2": 12.0}
LONG_S = float(os.environ.get("HS_LEDGER_SECONDS", "600"))
PEOPLE = 4
ROOMS = 2
CATCH_UP_S = 240.0
ENOUGH = 60
"""Messages without which a run would tell nothing; on a slow machine it takes longer."""
# Between one end and the next.
CALM_S = (0.3, 1.5)
# A process that is killed is away for a while.
AWAY_S = (0.0, 0.5)
# The part of Redis's ends in which it is there and does not answer.
HANGS = 0.5
# A database longer than it is waited for.
DATABASE_AWAY_S = (0.0, 4.0)


@attrs.define
class Stage:
    """A cluster with what it stands on, and the ways of ending parts of it."""

    cluster: Cluster
    postgres: PostgresServer | None
    redis: RedisServer | None
    seed: int
    rng: random.Random
    # A database server of its own may be killed as well.
    may_kill_postgres: bool = False
    ends: Counter[str] = attrs.Factory(Counter)
    victims: list[str] = attrs.Factory(list)
    last_end: str = ""

    def end_something(self) -> Callable[[], None]:
        """End a process as a power cut would; give how to start it again."""
        if not self.victims:
            self.victims = [*self.cluster.processes, *(["redis"] if self.redis else [])]
            if self.may_kill_postgres:
                # Between any two others.
                self.victims += ["postgres"] * len(self.victims)
            self.rng.shuffle(self.victims)
        name = self.victims.pop()
        self.ends[name] += 1
        self.last_end = name
        if name == "redis":
            assert self.redis is not None
            if self.rng.random() < HANGS:
                self.redis.pause()
                return self.redis.resume
            self.redis.stop()
            return self.redis.start
        if name == "postgres":
            assert self.postgres is not None
            self.postgres.stop()
            return self.postgres.start
        self.cluster.processes[name].kill()
        return self.cluster.processes[name].start

    @property
    def away_s(self) -> tuple[float, float]:
        """For how long what ended last is away."""
        return DATABASE_AWAY_S if self.last_end == "postgres" else AWAY_S

    def stored_texts(self) -> Counter[str]:
        """Count the messages in the database by their text."""
        statement = "SELECT pdu FROM events WHERE type = 'm.room.message'"
        if self.postgres is None:
            with sqlite3.connect(self.cluster.folder / "homeserver.db") as connection:
                pdus = [row[0] for row in connection.execute(statement)]
        else:
            readable = statement.replace("pdu", "convert_from(pdu, 'UTF8')", 1)
            pdus = self.postgres.psql(readable, database=self.cluster.database).splitlines()
        return Counter(json.loads(pdu)["content"]["body"] for pdu in pdus)


async def talk(stage: Stage, seconds: float) -> tuple[Ledger, list[Reader]]:
    """Have people talk and read for a while, during which things end and start again."""
    ports = [one.port for one in stage.cluster.processes.values()]
    people = [Person(ports, random.Random(stage.rng.random())) for _ in range(PEOPLE)]
    for number, person in enumerate(people):
        await person.register(f"person{number}")
    rooms = []
    for _ in range(ROOMS):
        made = await people[0].ask("POST", f"{CLIENT}/createRoom", {"preset": "public_chat"})
        rooms.append(str(made.json["room_id"]))
        for person in people[1:]:
            await person.ask("POST", f"{CLIENT}/join/{rooms[-1]}", {})
    ledger, readers = Ledger(), [Reader(person) for person in people]
    enough = trio.Event()
    async with trio.open_nursery() as nursery:
        for person, reader in zip(people, readers, strict=True):
            nursery.start_soon(reader.read_until, enough)
            for room_id in rooms:
                nursery.start_soon(send_until, enough, person, room_id, ledger)
        with trio.move_on_after(seconds):
            await trouble(stage)
        with trio.fail_after(CATCH_UP_S):
            while not _is_enough(ledger, readers):  # noqa: ASYNC110 - a sum of many things
                await trio.sleep(0.1)
        enough.set()
    with trio.fail_after(CATCH_UP_S):
        async with trio.open_nursery() as nursery:
            for reader in readers:
                nursery.start_soon(reader.catch_up, set(ledger.acknowledged.values()))
    return ledger, readers


def _is_enough(ledger: Ledger, readers: list[Reader]) -> bool:
    return len(ledger.acknowledged) >= ENOUGH and any(one.gaps for one in readers)


async def trouble(stage: Stage) -> None:
    """End and start things until cancelled; what is ended is started before this is left."""
    while True:
        await trio.sleep(stage.rng.uniform(*CALM_S))
        start = await trio.to_thread.run_sync(stage.end_something)
        try:
            await trio.sleep(stage.rng.uniform(*stage.away_s))
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(start)


def prove(stage: Stage, seconds: float) -> None:
    """Run the scenario and compare ledger, database and timelines."""
    try:
        ledger, readers = trio.run(talk, stage, seconds)
    except BaseException as error:
        error.add_note(f"seed {stage.seed}, ended: {dict(stage.ends)}\n{stage.cluster.logs()}")
        raise
    stage.cluster.stop()

    stored = stage.stored_texts()
    faults = [f"{text} is stored {count} times" for text, count in stored.items() if count != 1]
    faults += [f"{text} is lost" for text in ledger.acknowledged if text not in stored]
    for reader in readers:
        faults += faults_of(reader, ledger)
    summary = (
        f"seed {stage.seed}: {len(ledger.acknowledged)} messages, ended: {dict(stage.ends)}, "
        f"gaps: {[reader.gaps for reader in readers]}"
    )
    logging.getLogger(__name__).info(summary)
    assert not faults, "\n".join([summary, *faults[:50], stage.cluster.logs()])
    assert sum(stage.ends.values()) >= 1, summary


@pytest.fixture(
    params=[
        "T0",
        pytest.param("T1", marks=pytest.mark.postgres),
        pytest.param("T2", marks=[pytest.mark.postgres, pytest.mark.redis]),
    ]
)
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    """A running server of each layout in turn."""
    layout: Layout = request.param
    seed = int(os.environ.get("HS_LEDGER_SEED", random.randrange(10**6)))
    postgres: PostgresServer | None = None
    redis: RedisServer | None = None
    if layout != "T0":
        postgres = request.getfixturevalue("postgres_server")
    if layout == "T2":
        redis = request.getfixturevalue("redis_server")
    cluster = make_cluster(layout, tmp_path, postgres, redis, {})
    try:
        cluster.start()
        yield Stage(cluster, postgres, redis, seed, random.Random(seed))
    finally:
        cluster.kill_all()


def test_what_was_acknowledged_is_there_exactly_once(stage: Stage) -> None:
    prove(stage, SHORT_S[stage.cluster.layout])


@pytest.mark.long
def test_what_was_acknowledged_is_there_exactly_once_for_long(stage: Stage) -> None:
    prove(stage, LONG_S)


@pytest.fixture(params=["T1", pytest.param("T2", marks=pytest.mark.redis)])
def shaken(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    """A running server on a PostgreSQL that the test may kill."""
    layout: Layout = request.param
    seed = int(os.environ.get("HS_LEDGER_SEED", random.randrange(10**6)))
    redis: RedisServer | None = None
    if layout == "T2":
        redis = request.getfixturevalue("redis_server")
    try:
        with running_postgres(synchronous_commit="on") as postgres:
            cluster = make_cluster(layout, tmp_path, postgres, redis, {})
            try:
                cluster.start()
                yield Stage(cluster, postgres, redis, seed, random.Random(seed), True)
            finally:
                cluster.kill_all()
    except PostgresMissing as error:
        pytest.skip(str(error))


@pytest.mark.postgres
def test_a_database_that_dies_takes_nothing_along_that_was_acknowledged(shaken: Stage) -> None:
    shaken.victims = ["postgres"] * 100
    prove(shaken, SHORT_S[shaken.cluster.layout])


@pytest.mark.long
@pytest.mark.postgres
def test_a_database_that_dies_takes_nothing_along_for_long(shaken: Stage) -> None:
    prove(shaken, LONG_S)
