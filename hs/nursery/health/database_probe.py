"""Whether the database answers, accepts writes, and has the schema and the time of this process."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import attrs

from hs.lib.health import Cause, HealthState, Probe
from hs.storage.database import Database, DatabaseError, DatabaseHung, Tx
from hs.storage.dialect import Statement
from hs.storage.migrate import Migration

DATABASE: Final = "database"
SCHEMA: Final = "schema"
CLOCK: Final = "clock"
CLOCK_MS: Final = 5_000
"""By how much the clocks of processes may differ: leases and expiry times bear that."""

_FACTS: Final = Statement(
    """
    SELECT (SELECT count(*) FROM schema_migrations), (SELECT max(number) FROM schema_migrations),
        (extract(epoch FROM clock_timestamp()) * 1000)::bigint, pg_is_in_recovery()::integer
    """,
    "SELECT count(*), max(number), NULL, 0 FROM schema_migrations",
)
# How the engines say that a disk is full.
_FULL: Final = ("disk is full", "no space left", "disk full")


@attrs.frozen
class DatabaseFacts:
    """What one query tells; `now_ms` is None if the database has no clock of its own."""

    migrations: int
    last_migration: int
    now_ms: int | None
    is_standby: bool


@attrs.frozen(eq=False)
class DatabaseProbe:
    """Asks the database with one query."""

    _database: Database
    _migrations: Sequence[Migration]
    _now_ms: Callable[[], int]

    @property
    def probe(self) -> Probe:
        """The probe."""
        message = "the database does not answer: look whether it, its disk and the network work"
        return Probe(look=self.look, late=_unready("database_hung", message))

    async def look(self) -> Sequence[Cause]:
        """Return what is wrong with the database."""
        before_ms = self._now_ms()
        try:
            facts = await self._database.read(_read_facts)
        except DatabaseHung as error:
            return [_unready("database_hung", f"the database does not answer: {error}")]
        except DatabaseError as error:
            return [_unready("database_unreachable", f"the database does not answer: {error}")]
        return list(self._causes(facts, before_ms, self._now_ms()))

    def known_causes(self) -> Iterator[Cause]:
        """Yield the faults that the database's users have met already."""
        fault = self._database.load().fault
        if fault is None:
            return
        if "not answer" in fault:
            yield _unready("database_hung", fault)
            return
        is_full = any(words in fault.lower() for words in _FULL)
        code = "database_disk_full" if is_full else "database_refuses_writes"
        yield _unready(code, f"writes are refused: {fault}")

    def _causes(self, facts: DatabaseFacts, before_ms: int, after_ms: int) -> Iterator[Cause]:
        if facts.is_standby:
            message = "the database is a standby and refuses writes: connect to its primary"
            yield _unready("database_standby", message)
        last = self._migrations[-1].number
        if facts.last_migration > last:
            yield Cause(
                code="schema_newer",
                check=SCHEMA,
                message=f"a newer version of hs has migrated the database (migration "
                f"{facts.last_migration}): restart this process with that version",
            )
        elif facts.migrations < len(self._migrations):
            yield _unready(
                "schema_older",
                f"the database lacks migrations of this version (it has {facts.migrations} of "
                f"{len(self._migrations)}): restart the main process, or run `hs migrate`",
                SCHEMA,
            )
        if facts.now_ms is None:
            return
        # The database's time lies between the two, unless the clocks differ.
        difference_ms = max(before_ms - facts.now_ms, facts.now_ms - after_ms)
        if difference_ms > CLOCK_MS:
            yield Cause(
                code="clock_differs",
                check=CLOCK,
                message=f"the clock of this host and that of the database differ by "
                f"{difference_ms / 1000:.0f} s: synchronize both by NTP",
            )


async def _read_facts(tx: Tx) -> DatabaseFacts:
    row = await tx.fetchrow(_FACTS)
    assert row is not None
    return DatabaseFacts(row[0], row[1] or 0, row[2], bool(row[3]))


def _unready(code: str, message: str, check: str = DATABASE) -> Cause:
    return Cause(
        code=code, check=check, message=message, subject="database", state=HealthState.UNREADY
    )
