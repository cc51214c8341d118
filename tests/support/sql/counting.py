"""A database that counts the queries it receives.

A process also evaluates push rules after a request; `wait_until_quiet` keeps that out of the count.
"""

from collections.abc import Callable
from typing import Any

import attrs
import trio

from hs.storage.database import Database, Tx
from tests.support.composition import ComposedProcess

WAIT_S = 60.0


@attrs.define
class QueryCount:
    """The queries that a database received; `longest` is the length of their longest list.

    `units` are the names of the units of work that read.
    """

    reads: int = 0
    units: list[str] = attrs.Factory(list)
    longest: int = 0
    statements: list[str] = attrs.Factory(list)


class CountingTx:
    """A transaction that records each statement."""

    def __init__(self, tx: Tx, count: QueryCount) -> None:
        self._tx = tx
        self._count = count

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._tx, name)
        if name == "dialect":
            return attribute

        def call(*args: Any) -> Any:
            self._count.statements.append(f"{name} {args[0]!r}")
            lists = (len(argument) for argument in args[1:] if isinstance(argument, list))
            self._count.longest = max(self._count.longest, *lists, 0)
            return attribute(*args)

        return call


class CountingDatabase:
    """A database that counts its units of work."""

    def __init__(self, database: Database, count: QueryCount) -> None:
        self._database = database
        self._count = count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    async def read(self, unit: Callable[..., Any], *args: Any) -> Any:
        self._count.reads += 1
        self._count.units.append(unit.__name__)
        return await self._database.read(unit, *args)

    async def read_snapshot(self, unit: Callable[..., Any], *args: Any) -> Any:
        self._count.reads += 1
        self._count.units.append(unit.__name__)
        return await self._database.read_snapshot(unit, *args)

    async def write(self, unit: Callable[..., Any], *args: Any) -> Any:
        async def counted(tx: Tx) -> Any:
            return await unit(CountingTx(tx, self._count), *args)

        return await self._database.write(counted)


async def wait_until_quiet(process: ComposedProcess) -> None:
    """Wait until a process has evaluated all events and stored the results."""
    evaluation = process.services.push.evaluation
    assert evaluation is not None, "this process does not evaluate"
    with trio.fail_after(WAIT_S):
        while evaluation.waiting:
            await trio.lowlevel.checkpoint()
        await evaluation.flush()
