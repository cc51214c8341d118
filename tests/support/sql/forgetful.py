"""A database that loses connections during commits."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import attrs

from hs.repl.writers import TableWriter
from hs.storage import stream_log
from hs.storage.database import CommitUnknown, Database, DatabaseLoad, Tx, Unit
from hs.storage.dialect import Dialect, Engine

P = ParamSpec("P")
T = TypeVar("T")


@attrs.define
class ForgetfulDatabase:
    """A database that loses connections during commits.

    With `lose_done` the next commit is done and its reply lost; the next `lose_undone` commits are
    rolled back. After that, all writes raise `fault`. `refused` counts them. With `stream`, only
    writes of its writer are concerned.
    """

    real: Database
    lose_done: bool = False
    lose_undone: int = 0
    fault: Exception | None = None
    refused: int = 0
    stream: str | None = None

    @property
    def engine(self) -> Engine:
        return self.real.engine

    @property
    def dialect(self) -> Dialect:
        return self.real.dialect

    async def read(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.real.read(unit, *args, **kwargs)

    async def read_snapshot(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.real.read_snapshot(unit, *args, **kwargs)

    def load(self) -> DatabaseLoad:
        return self.real.load()

    async def read_long(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.real.read_long(unit, *args, **kwargs)

    async def write_idempotent(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.write(unit, *args, **kwargs)

    async def write(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if not self._concerns(unit, args):
            return await self.real.write(unit, *args, **kwargs)
        if self.lose_undone and unit is not stream_log.renew_generation:
            self.lose_undone -= 1

            async def undo(tx: Tx) -> None:
                await unit(tx, *args, **kwargs)
                raise CommitUnknown("lost")

            await self.real.write(undo)
        if self.fault is not None and not self.lose_done:
            self.refused += 1
            raise self.fault
        result = await self.real.write(unit, *args, **kwargs)
        if self.lose_done:
            self.lose_done = False
            raise CommitUnknown("lost")
        return result

    def _concerns(self, unit: Callable[..., Any], args: tuple[Any, ...]) -> bool:
        if self.stream is None or (unit is stream_log.renew_generation and args[0] == self.stream):
            return True
        writer = getattr(unit, "__self__", None)
        return isinstance(writer, TableWriter) and writer.stream.name == self.stream
