"""Writers of the notes that tests write, and those whose process must end."""

import attrs
import pytest
import trio

from hs.repl.transport import Transport
from hs.repl.writers import TableWriter
from hs.storage.database import Database
from tests.repl.conftest import NOTES, Note


def table_writer(db: Database, transport: Transport, name: str = "w1") -> TableWriter[Note]:
    """Return a writer of notes."""
    return TableWriter(NOTES, name, db, transport, lambda: 1_000_000)


def ignore(error: Exception) -> None:
    """Ignore that the outcome of a commit is not known in time."""


@attrs.define
class FailingWriter:
    """A writer whose `run` must fail with `cause`, which ends its process."""

    writer: TableWriter[Note]
    cause: type[Exception]
    ended: trio.Event = attrs.Factory(trio.Event)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until it fails."""
        with pytest.raises(self.cause):
            await self.writer.run(task_status)
        self.ended.set()
