"""This process's position in all streams that /sync follows, as a token, and tokens parsed.

A client may come with a token that this process has not reached yet:

- Another process has issued it. This process waits until the rows arrive, but not long for those
  of memory streams: nobody has them if their writer is dead.
- It is of the future: the database was restored from a backup, so the stream ends before it, and
  its numbers will be given to other rows. The client must not wait for them, as it would miss all
  rows up to there: it gets the response to a first sync, which says what is in its rooms now, and
  by `limited` that there is a gap.
- Only a memory stream is behind it, whose writer has lost its rows: to the client, everything in
  this stream is new.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import attrs
import trio

from hs.core.errors import Unavailable
from hs.core.positions import EpochPosition, VectorPosition
from hs.core.stream_def import StreamKind
from hs.core.streams import PRESENCE
from hs.core.sync_token import SYNCED_STREAMS, SyncToken
from hs.lib.caching.lru_cache import LruCache
from hs.repl.feed import Feed

MAX_TOKENS: Final = 5_000
MEMORY_S: Final = 0.5
"""How long a client waits for rows of memory streams, of which the writer may be gone for good."""

_PRESENCE_SLOT: Final = SYNCED_STREAMS.index(PRESENCE)

StoredPositions = Callable[[], Awaitable[Sequence[tuple[str, str, int]]]]
"""Reads (stream, writer, position) of all commits from the database."""

log = logging.getLogger(__name__)


class PositionsLate(Unavailable):
    """This process has not received yet what the token covers."""


@attrs.frozen(eq=False)
class SyncPosition:
    """A position of this process's feed: the token, its text, and the vectors in it.

    The vectors are in the order of SYNCED_STREAMS.
    """

    token: SyncToken
    text: str
    vectors: tuple[VectorPosition, ...]


class SyncPositions:
    """The feed's current position, computed once per move, and a cache of parsed tokens.

    `stored` is None if there are no other processes: then this one has seen everything.
    """

    def __init__(self, feed: Feed, stored: StoredPositions | None = None) -> None:
        self._feed = feed
        self._stored = stored
        self._moves = -1
        self._moment = SyncPosition(SyncToken(), SyncToken().encode(), ())
        self._parsed: LruCache[str, SyncToken] = LruCache("sync_tokens", max_entries=MAX_TOKENS)

    def now(self) -> SyncPosition:
        """Return the current position; all rows up to it were delivered to all subscribers."""
        if self._moves != self._feed.moves:
            self._moves = self._feed.moves
            vectors = tuple([self._feed.position(stream) for stream in SYNCED_STREAMS])
            if vectors != self._moment.vectors:
                token = SyncToken.at(vectors)
                self._moment = SyncPosition(token, token.encode(), vectors)
                # A client that comes back with this text gets this very token. The vectors of
                # streams that have not moved since are then the same objects as those of the
                # token now, which saves comparing them.
                self._parsed.put(self._moment.text, token)
        return self._moment

    def parse(self, text: str) -> SyncToken:
        """Parse a token.

        Raises: InvalidParam.
        """
        token = self._parsed.get(text)
        if token is None:
            token = SyncToken.parse(text)
            self._parsed.put(text, token)
        return token

    def covers(self, token: SyncToken) -> bool:
        """Return whether this process has seen all rows up to the positions in a token."""
        moment = self.now()
        if moment.token is token:
            return True
        for position, seen in zip(token.vectors(), moment.vectors, strict=True):
            if position is not seen and not seen.covers_all(position):
                return False
        return True

    async def reach(self, token: SyncToken, timeout_s: float) -> SyncToken | None:
        """Wait until this process has seen what the token covers, if there is such a moment.

        Return the token, perhaps without its positions in memory streams; None if it is of the
        future, so that the client must start again. Raises: PositionsLate after the timeout.
        """
        if self.covers(token):
            return token
        if self._stored is not None and await self._wait_for(token, timeout_s):
            return token
        remaining = self._without_lost_memory(token)
        if self.covers(remaining):
            return remaining
        if self._stored is not None and not _is_ahead(remaining, await self._stored()):
            raise PositionsLate("this process has not received yet what the token covers")
        log.info("a sync token is ahead of the database, answering as for a first sync: %s", token)
        return None

    def _without_lost_memory(self, token: SyncToken) -> SyncToken:
        """Return the token without its positions in memory streams that end before them."""
        lost: dict[str, Any] = {
            stream.name: EpochPosition()
            for stream, position in zip(SYNCED_STREAMS, token.vectors(), strict=True)
            if stream.kind is StreamKind.MEMORY
            and not self._feed.position(stream).covers_all(position)
        }
        return attrs.evolve(token, **lost)

    async def _wait_for(self, token: SyncToken, timeout_s: float) -> bool:
        """Wait until this process has seen all that the token covers; False after the timeout."""
        deadline = trio.current_time() + timeout_s
        return await self._wait_for_streams(
            token, StreamKind.TABLE, deadline
        ) and await self._wait_for_streams(
            token, StreamKind.MEMORY, min(deadline, trio.current_time() + MEMORY_S)
        )

    async def _wait_for_streams(self, token: SyncToken, kind: StreamKind, deadline: float) -> bool:
        for stream, position in zip(SYNCED_STREAMS, token.vectors(), strict=True):
            if stream.kind is not kind or self._feed.position(stream).covers_all(position):
                continue
            left_s = max(0.0, deadline - trio.current_time())
            if not await self._feed.wait_for_position(stream, position, left_s):
                return False
        return True


def only_presence_moved(since: SyncToken, position: SyncPosition) -> bool:
    """Return whether nothing but presence has changed since a token."""
    before, now, slot = since.vectors(), position.vectors, _PRESENCE_SLOT
    return (
        since.sticky is None
        and before[:slot] == now[:slot]
        and before[slot + 1 :] == now[slot + 1 :]
    )


def _is_ahead(token: SyncToken, stored: Sequence[tuple[str, str, int]]) -> bool:
    """Return whether the token is ahead of the last commit to one of the table streams."""
    last: dict[str, int] = {}
    for name, _, position in stored:
        last[name] = max(position, last.get(name, 0))
    return any(
        stream.kind is StreamKind.TABLE and position.most() > last.get(stream.name, 0)
        for stream, position in zip(SYNCED_STREAMS, token.vectors(), strict=True)
    )
