"""Databases in memory that outlive the processes which use them.

A crash ends the use of a database at once: whatever the process does afterwards while its tasks end
has no effect, as if it had been killed.
"""

import random
from typing import Final, ParamSpec, TypeVar

import attrs
import trio

from hs.storage.database import DatabaseLoad, Unit
from hs.storage.dialect import SQLITE
from hs.storage.inline import InlineDatabase

P = ParamSpec("P")
T = TypeVar("T")

SLOW: Final = 0.05
SLOWEST_S: Final = 0.05


class ProcessDied(Exception):
    """The process was killed."""


@attrs.define(eq=False)
class MortalDatabase:
    """A database as one life of a process uses it; some calls take long."""

    _database: InlineDatabase
    _chance: random.Random
    is_dead: bool = False
    engine: Final = "sqlite"
    dialect: Final = SQLITE

    async def read(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a read-only unit."""
        await self._pause()
        result = await self._database.read(unit, *args, **kwargs)
        await self._pause()
        return result

    async def read_snapshot(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a read-only unit."""
        return await self.read(unit, *args, **kwargs)

    async def read_long(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a read-only unit."""
        return await self.read(unit, *args, **kwargs)

    async def write(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a unit; the process may die before it or after it."""
        await self._pause()
        with trio.CancelScope(shield=True):  # a write that is cancelled runs to its end
            result = await self._database.write(unit, *args, **kwargs)
            await self._pause()
        return result

    async def write_idempotent(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a unit as `write` does."""
        return await self.write(unit, *args, **kwargs)

    def load(self) -> DatabaseLoad:
        """Return the load."""
        return self._database.load()

    async def _pause(self) -> None:
        if self.is_dead:
            raise ProcessDied
        if self._chance.random() < SLOW:
            await trio.sleep(round(self._chance.random() * SLOWEST_S, 4))
        if self.is_dead:
            raise ProcessDied
