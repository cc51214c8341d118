"""The one database of a server, as one life of a process uses it.

What a killed process does afterwards, while its tasks end, has no effect. Statements may be slow or
fail, and connections may break during commits, so that their outcome is unknown.
"""

import random
from collections.abc import Callable
from typing import Any, Final, ParamSpec, TypeVar

import attrs
import trio

from hs.repl.writers import TableWriter
from hs.storage.database import (
    CommitUnknown,
    DatabaseLoad,
    DatabaseUnavailable,
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


BEFORE_COMMIT: Final = "before a commit"
AFTER_COMMIT: Final = "after a commit"


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
        await self._pause()
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
        await self._pause()
        with trio.CancelScope(shield=True):
            dice, faults = self._chance.random(), self._faults
            if dice < faults.failed:
                raise DatabaseUnavailable("the connection broke")
            if dice < faults.failed + faults.unknown / 2:
                await self._undo(unit, *args, **kwargs)
            await self._reach(BEFORE_COMMIT, unit)
            result = await self._database.write(unit, *args, **kwargs)
            await self._reach(AFTER_COMMIT, unit)
            await self._pause()
            if dice < faults.failed + faults.unknown:
                raise CommitUnknown("the connection broke during the commit")
        return result

    def load(self) -> DatabaseLoad:
        """Return the load."""
        return self._database.load()

    async def _reach(self, point: str, unit: Callable[..., object]) -> None:
        """Let happen what is to happen at this point of the commit of a table writer."""
        if self._life.trap is not None and isinstance(getattr(unit, "__self__", None), TableWriter):
            self._life.reach(point)
            await trio.lowlevel.checkpoint()
            if self._life.is_dead:
                raise ProcessDied

    async def _undo(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> None:
        """Run a unit and roll it back. Raises: CommitUnknown."""

        async def undone(tx: Tx) -> None:
            await unit(tx, *args, **kwargs)
            raise _Undone

        try:
            await self._database.write(undone)
        except _Undone:
            raise CommitUnknown("the connection broke during the commit") from None

    async def _pause(self) -> None:
        if self._life.is_dead:
            raise ProcessDied
        if self._chance.random() < self._faults.slow:
            await trio.sleep(round(self._chance.random() * self._faults.slowest_s, 4))
        if self._life.is_dead:
            raise ProcessDied
