"""The log of commits to a table stream, from which other processes fill gaps."""

from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

import attrs

from hs.core.stream_def import StreamDef
from hs.repl.row_codec import encode_rows
from hs.storage import stream_log
from hs.storage.database import Tx
from hs.storage.stream_log import LoggedCommit

R = TypeVar("R")

LOG_KEPT_MS: Final = 15 * 60 * 1000
PRUNE_EVERY_MS: Final = 60 * 1000


@attrs.define(eq=False)
class CommitLog(Generic[R]):
    """The log of one writer."""

    _stream: StreamDef[R]
    _writer: str
    _now_ms: Callable[[], int]
    _pruned_ms: int = 0

    async def append(self, tx: Tx, previous: int, rows: Sequence[tuple[int, R]]) -> None:
        """Append a commit in its transaction, and delete old entries now and then.

        `previous` is the position before the rows.
        """
        slim = self._stream.slim
        encoded = encode_rows([(number, slim(row)) for number, row in rows])
        commit = LoggedCommit(rows[-1][0], previous, encoded)
        now_ms = self._now_ms()
        # The clock may have been set back since the last time.
        if abs(now_ms - self._pruned_ms) > PRUNE_EVERY_MS:
            self._pruned_ms = now_ms
            await stream_log.prune(tx, now_ms - LOG_KEPT_MS)
        await stream_log.append(tx, self._stream.name, self._writer, commit, now_ms)
