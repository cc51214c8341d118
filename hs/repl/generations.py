"""The generation of a table writer: what makes its commits valid, until another one is.

Rules:

- A generation becomes invalid when the next life of the process takes over the name (`take_over`),
  when this writer asks for the outcome of a commit (`position_after`), and when other processes
  take over what it writes because it does not respond (it is *fenced*; hs/repl/slots).
- Only a writer that was fenced, and not replaced, may have a new one (`renew`). Everything that it
  accepted before that is void, as others may have written the same keys meanwhile: `fences` counts.
- An attempt to commit keeps the generation with which it began, also when it is repeated.
"""

import secrets
from collections.abc import Callable

import attrs
import trio

from hs.core.errors import Unavailable
from hs.storage import stream_log
from hs.storage.database import Database

SETTLE_PAUSE_S = 0.5


class WriterReplaced(Unavailable):
    """Another process has taken over the name of this writer; nothing was written."""

    def __init__(self, stream: str, writer: str) -> None:
        super().__init__(f"another process has taken over writing stream {stream} as {writer}")


def _new_generation() -> str:
    return secrets.token_hex(8)


@attrs.define(eq=False)
class Generation:
    """The generation of a writer of a stream; `current` is valid by what this process knows.

    `on_fenced` is called when the database says that this writer was fenced; None if that does not
    happen, because no other process may write the same keys.
    """

    stream: str
    writer: str
    _database: Database
    _on_fenced: Callable[[], None] | None
    fences: int = attrs.field(default=0, init=False)
    current: str = attrs.field(factory=_new_generation, init=False)
    _asked: str = attrs.field(default="", init=False)

    async def take_over(self) -> dict[str, int]:
        """Make this generation the valid one; return the positions of all writers of the stream."""
        return await self._database.write(
            stream_log.take_over, self.stream, self.writer, self.current
        )

    async def renew(self) -> None:
        """Get a new generation if this writer was fenced; what it had accepted is void.

        Raises: WriterReplaced; DatabaseError.
        """
        self.fences += 1
        while True:
            before, self._asked = self.current, _new_generation()
            valid = await self._database.write(
                stream_log.renew_fenced, self.stream, self.writer, before, self._asked
            )
            if valid == self._asked:
                self.current = valid
                return
            if valid is None and self.current == before:
                raise WriterReplaced(self.stream, self.writer)
            if valid == before:
                return

    async def was_fenced(self, generation: str) -> bool:
        """Return whether a commit of a generation was rejected because this writer was fenced.

        Raises: DatabaseError.
        """
        return await self._position_if_fenced(generation) is not None

    async def position_after(self, generation: str) -> int:
        """Return the writer's position, which no commit of the generation can change any more.

        It is replaced by a new one, unless the writer was fenced. Asks on while the database is
        away. Raises: WriterReplaced.
        """
        next_generation = _new_generation()
        while True:
            try:
                position = await self._database.write(
                    stream_log.renew_generation,
                    self.stream,
                    self.writer,
                    generation,
                    next_generation,
                )
                if position is not None:
                    self.current = next_generation
                else:
                    position = await self._position_if_fenced(generation)
            except Unavailable:
                await trio.sleep(SETTLE_PAUSE_S)
                continue
            if position is None:
                raise WriterReplaced(self.stream, self.writer)
            return position

    async def _position_if_fenced(self, generation: str) -> int | None:
        if self._on_fenced is None:
            return None
        found = await self._database.read(stream_log.position_and_life, self.stream, self.writer)
        if found is None:
            return None
        position, life = found
        if life == stream_log.FENCED:
            self._on_fenced()
            return position
        # Renewed meanwhile, or at this moment.
        return position if life in (self.current, self._asked) and life != generation else None
