"""Processes, Redis and PostgreSQL are killed under load, and no acknowledged event is lost.

Every acknowledged event must be exactly once in the database and in the timeline of every client
that was syncing. HS_LEDGER_SECONDS is the duration of the long tests, HS_LEDGER_SEED their seed.
"""

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

from tests.support.ledger import Ledger
from tests.support.servers.ledger_run import (
    differences,
    send_and_read,
    stored_in_postgres,
    texts_in,
)
from tests.support.servers.postgres import PostgresMissing, PostgresServer, running_postgres
from tests.support.servers.processes import Cluster, Layout, make_cluster
from tests.support.servers.redis import RedisServer

pytestmark = pytest.mark.process

SHORT_S: dict[Layout, float] = {"T0": 6.0, "T1": 6.0, "T2": 12.0}
LONG_S = float(os.environ.get("HS_LEDGER_SECONDS", "600"))
# The time between two failures.
PAUSE_S = (0.3, 1.5)
# How long a killed process is down.
DOWN_S = (0.0, 0.5)
# The fraction of Redis failures in which it hangs instead of stopping.
HANG_PROBABILITY = 0.5
# How long the database is down; the longest outages exceed the time that requests wait for it.
DATABASE_DOWN_S = (0.0, 4.0)


@attrs.define
class Stage:
    """A cluster and the servers that it depends on, and the failures to cause in them."""

    cluster: Cluster
    postgres: PostgresServer | None
    redis: RedisServer | None
    seed: int
    rng: random.Random
    # Only a PostgreSQL server that no other test uses may be killed.
    may_kill_postgres: bool = False
    failures: Counter[str] = attrs.Factory(Counter)
    victims: list[str] = attrs.Factory(list)
    last_victim: str = ""

    def fail_next(self) -> Callable[[], None]:
        """Kill the next victim as a power cut would; return the function that restarts it."""
        if not self.victims:
            self.victims = [*self.cluster.processes, *(["redis"] if self.redis else [])]
            if self.may_kill_postgres:
                # As often as all other victims together.
                self.victims += ["postgres"] * len(self.victims)
            self.rng.shuffle(self.victims)
        name = self.victims.pop()
        self.failures[name] += 1
        self.last_victim = name
        if name == "redis":
            assert self.redis is not None
            if self.rng.random() < HANG_PROBABILITY:
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
    def down_s(self) -> tuple[float, float]:
        """The shortest and longest downtime of the last victim."""
        return DATABASE_DOWN_S if self.last_victim == "postgres" else DOWN_S

    def stored_texts(self) -> Counter[str]:
        """Count the messages in the database by text."""
        if self.postgres is not None:
            return stored_in_postgres(self.postgres, self.cluster.database)
        statement = "SELECT pdu FROM events WHERE type = 'm.room.message'"
        with sqlite3.connect(self.cluster.folder / "homeserver.db") as connection:
            return texts_in(row[0] for row in connection.execute(statement))


async def cause_failures(stage: Stage) -> None:
    """Cause failures until cancelled; restart the last victim before returning."""
    while True:
        await trio.sleep(stage.rng.uniform(*PAUSE_S))
        restart = await trio.to_thread.run_sync(stage.fail_next)
        try:
            await trio.sleep(stage.rng.uniform(*stage.down_s))
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(restart)


def prove(stage: Stage, seconds: float) -> None:
    """Run the scenario and compare ledger, database and timelines."""
    ports = stage.cluster.ports

    async def cause_failures_for_a_while(_: Ledger) -> None:
        with trio.move_on_after(seconds):
            await cause_failures(stage)

    try:
        ledger, readers = trio.run(send_and_read, ports, stage.rng, cause_failures_for_a_while)
    except BaseException as error:
        error.add_note(
            f"seed {stage.seed}, failures: {dict(stage.failures)}\n{stage.cluster.logs()}"
        )
        raise
    stage.cluster.stop()

    faults = differences(ledger, readers, stage.stored_texts())
    summary = (
        f"seed {stage.seed}: {len(ledger.acknowledged)} messages, "
        f"failures: {dict(stage.failures)}, gaps: {[reader.gaps for reader in readers]}"
    )
    logging.getLogger(__name__).info(summary)
    assert not faults, "\n".join([summary, *faults[:50], stage.cluster.logs()])
    assert sum(stage.failures.values()) >= 1, summary


@pytest.fixture(
    params=[
        "T0",
        pytest.param("T1", marks=[pytest.mark.postgres, pytest.mark.long]),
        pytest.param("T2", marks=[pytest.mark.postgres, pytest.mark.redis]),
    ]
)
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    """A running server, once per layout."""
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


def test_acknowledged_events_exist_exactly_once(stage: Stage) -> None:
    prove(stage, SHORT_S[stage.cluster.layout])


@pytest.mark.long
def test_acknowledged_events_exist_exactly_once_in_long_run(stage: Stage) -> None:
    prove(stage, LONG_S)


@pytest.fixture(
    params=[
        pytest.param("T1", marks=pytest.mark.long),
        pytest.param("T2", marks=pytest.mark.redis),
    ]
)
def stage_with_own_postgres(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    """A running server with a PostgreSQL server that the test may kill."""
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
                yield Stage(
                    cluster, postgres, redis, seed, random.Random(seed), may_kill_postgres=True
                )
            finally:
                cluster.kill_all()
    except PostgresMissing as error:
        pytest.skip(str(error))


@pytest.mark.postgres
def test_database_crash_loses_no_acknowledged_event(stage_with_own_postgres: Stage) -> None:
    stage_with_own_postgres.victims = ["postgres"] * 100
    prove(stage_with_own_postgres, SHORT_S[stage_with_own_postgres.cluster.layout])


@pytest.mark.long
@pytest.mark.postgres
def test_database_crashes_lose_no_acknowledged_event_in_long_run(
    stage_with_own_postgres: Stage,
) -> None:
    prove(stage_with_own_postgres, LONG_S)
