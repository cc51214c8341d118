"""The one database of a server, as one life of a process uses it.

What a killed process does afterwards, while its tasks end, has no effect. Statements may be slow or
fail, and connections may break during commits, so that their outcome is unknown. A process may be
cut off: then its statements fail, at once or after a while, and those of others do not.
"""

import enum
import random
from contextlib import suppress
from typing import Any, Final, ParamSpec, TypeVar

import attrs
import trio

from hs.repl.writers import TableWriter
from hs.storage import leases
from hs.storage.database import (
    CommitUnknown,
    DatabaseLoad,
    DatabaseUnavailable,
    RowMissing,
    Tx,
    Unit,
)
from hs.storage.dialect import SQLITE
from hs.storage.inline import InlineDatabase
from tests.simulation.database import ProcessDied

P = ParamSpec("P")
T = TypeVar("T")


@attrs.define
class DatabaseFaults:
    """The shares of units of work with a fault; a slow one takes up to `slowest_s`."""

    slow: float = 0.05
    slowest_s: float = 0.02
    failed: float = 0.0
    unknown: float = 0.0


SILENCE_S: Final = 15.0
"""After this time without an answer, the driver gives a connection up."""


class Point(enum.Enum):
    """A moment at which something may happen to a process."""

    BEFORE_COMMIT = enum.auto()  # a table writer has sent its statements
    AFTER_COMMIT = enum.auto()
    BEFORE_RENEWAL = enum.auto()  # of the leases
    AFTER_RENEWAL = enum.auto()


_BROKEN: Final = "the connection broke during the commit"


class _Undone(Exception):
    pass


@attrs.define(eq=False)
class SharedDatabase:
    """The database as one life uses it; `faults` are those of all processes."""

    _database: InlineDatabase
    _life: Any
    _chance: random.Random
    _faults: DatabaseFaults
    engine: Final = "sqlite"
    dialect: Final = SQLITE

    async def read(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a read-only unit. Raises: DatabaseUnavailable."""
        await self._connect()
        if self._chance.random() < self._faults.failed:
            raise DatabaseUnavailable("the connection broke")
        result = await self._database.read(unit, *args, **kwargs)
        await self._pause()
        return result

    async def read_snapshot(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a read-only unit. Raises: DatabaseUnavailable."""
        return await self.read(unit, *args, **kwargs)

    async def read_long(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a read-only unit. Raises: DatabaseUnavailable."""
        return await self.read(unit, *args, **kwargs)

    async def write(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a unit, to its end if the caller is cancelled; the process may die around it.

        Raises: DatabaseUnavailable, CommitUnknown.
        """
        await self._connect()
        with trio.CancelScope(shield=True):
            dice, faults = self._chance.random(), self._faults
            if dice < faults.failed:
                raise DatabaseUnavailable("the connection broke")
            if dice < faults.failed + faults.unknown / 2:
                await self._undo(unit, *args, **kwargs)
                raise CommitUnknown(_BROKEN)
            before, after, stream = _points_of(unit)
            if self._life.awaits(before, stream):
                await self._undo(unit, *args, **kwargs)
                await self._reach(before)
            result = await self._database.write(unit, *args, **kwargs)
            if self._life.awaits(after, stream):
                await self._reach(after)
            await self._pause()
            if dice < faults.failed + faults.unknown or self._life.is_cut_off:
                raise CommitUnknown(_BROKEN)
        return result

    async def write_idempotent(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a unit as `write` does."""
        return await self.write(unit, *args, **kwargs)

    def load(self) -> DatabaseLoad:
        """Return the load."""
        return self._database.load()

    async def _reach(self, point: Point | None) -> None:
        """Let happen what is to happen at this point. Raises: ProcessDied, CommitUnknown."""
        trap = self._life.reach(point)
        await trio.sleep(trap.pause_s if trap else 0)
        if self._life.is_dead:
            raise ProcessDied
        if trap and trap.breaks:
            raise CommitUnknown(_BROKEN)

    async def _undo(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> None:
        """Run a unit and roll it back."""

        async def undone(tx: Tx) -> None:
            await unit(tx, *args, **kwargs)
            raise _Undone

        with suppress(_Undone, RowMissing):
            await self._database.write(undone)

    async def _connect(self) -> None:
        await self._pause()
        if self._life.is_cut_off:
            await trio.sleep(self._chance.choice((0, SILENCE_S)))
            raise DatabaseUnavailable("no connection")

    async def _pause(self) -> None:
        if self._life.is_dead:
            raise ProcessDied
        if self._chance.random() < self._faults.slow:
            await trio.sleep(round(self._chance.random() * self._faults.slowest_s, 4))
        if self._life.is_dead:
            raise ProcessDied


def _points_of(unit: object) -> tuple[Point | None, Point | None, str | None]:
    """Return the moments before and after the commit of a unit, and the stream that it writes."""
    writer = getattr(unit, "__self__", None)
    if isinstance(writer, TableWriter):
        return Point.BEFORE_COMMIT, Point.AFTER_COMMIT, writer.stream.name
    if unit in (leases.renew, leases.renew_after):
        return Point.BEFORE_RENEWAL, Point.AFTER_RENEWAL, None
    return None, None, None
