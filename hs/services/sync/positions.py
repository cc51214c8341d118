"""This process's position in all streams that /sync follows, as a token, and tokens parsed."""

from typing import Final

import attrs
import trio

from hs.core.positions import VectorPosition
from hs.core.streams import SYNCED_STREAMS, SyncToken
from hs.lib.caching.lru_cache import LruCache
from hs.repl.feed import Feed

MAX_TOKENS: Final = 5_000


@attrs.frozen(eq=False)
class SyncPosition:
    """A position of this process's feed: the token, its text, and the vectors in it.

    The vectors are in the order of SYNCED_STREAMS.
    """

    token: SyncToken
    text: str
    vectors: tuple[VectorPosition, ...]


class SyncPositions:
    """The feed's current position, computed once per move, and a cache of parsed tokens."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
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
            if (position.ahead or position.floor > seen.floor) and not seen.covers_all(position):
                return False
        return True

    async def wait_for(self, token: SyncToken, timeout_s: float) -> bool:
        """Wait until this process has seen all that the token covers; False after the timeout."""
        deadline = trio.current_time() + timeout_s
        for stream, position in zip(SYNCED_STREAMS, token.vectors(), strict=True):
            if self._feed.position(stream).covers_all(position):
                continue
            left_s = max(0.0, deadline - trio.current_time())
            if not await self._feed.wait_for_position(stream, position, left_s):
                return False
        return True
