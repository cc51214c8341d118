"""Where this process stands in all streams that clients are told of, and tokens back and forth."""

from collections.abc import Callable
from typing import Any, Final

import attrs
import trio

from hs.core.positions import VectorPosition
from hs.core.tokens import EpochPosition, SyncToken
from hs.lib.caching.lru_cache import LruCache
from hs.repl.feed import Feed
from hs.repl.streams import (
    ACCOUNT_DATA,
    DEVICE_LISTS,
    EVENTS,
    PRESENCE,
    PUSH_RULES,
    RECEIPTS,
    THREAD_SUBSCRIPTIONS,
    TO_DEVICE,
    TYPING,
    StreamDef,
)

MAX_TOKENS: Final = 5_000

# In the order of the text. Positions in memory streams grow over restarts, so that they need no
# epoch of their own: one below the writer's present life is known by its number.
STREAMS: Final[tuple[StreamDef[Any], ...]] = (
    EVENTS,
    RECEIPTS,
    TYPING,
    PRESENCE,
    ACCOUNT_DATA,
    TO_DEVICE,
    DEVICE_LISTS,
    PUSH_RULES,
    THREAD_SUBSCRIPTIONS,
)
_VECTORS: Final[tuple[Callable[[SyncToken], VectorPosition], ...]] = (
    lambda token: token.events,
    lambda token: token.receipts,
    lambda token: token.typing.vector,
    lambda token: token.presence.vector,
    lambda token: token.account_data,
    lambda token: token.to_device,
    lambda token: token.device_lists,
    lambda token: token.push_rules,
    lambda token: token.thread_subscriptions,
)


@attrs.frozen(eq=False)
class Moment:
    """One state of this process's feed: the token, its text, and all vectors."""

    token: SyncToken
    text: str
    vectors: tuple[VectorPosition, ...]


class Positions:
    """Gives the present moment, and reads tokens; both remembered, as many ask for the same."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._moves = -1
        self._moment = Moment(SyncToken(), SyncToken().encode(), ())
        self._read: LruCache[str, SyncToken] = LruCache("sync_tokens", max_entries=MAX_TOKENS)

    def now(self) -> Moment:
        """Give the present moment: all of it was delivered to all subscribers."""
        if self._moves != self._feed.moves:
            self._moves = self._feed.moves
            vectors = tuple([self._feed.position(stream) for stream in STREAMS])
            if vectors != self._moment.vectors:
                token = _token(vectors)
                self._moment = Moment(token, token.encode(), vectors)
                # Who comes back with it has this very token: what did not move since is the same
                # object in both, and needs no comparing.
                self._read.put(self._moment.text, token)
        return self._moment

    def parse(self, text: str) -> SyncToken:
        """Read a token.

        Raises: InvalidParam.
        """
        token = self._read.get(text)
        if token is None:
            token = SyncToken.parse(text)
            self._read.put(text, token)
        return token

    def covers(self, token: SyncToken) -> bool:
        """Tell whether this process has seen all that the holder of a token has seen."""
        moment = self.now()
        if moment.token is token:
            return True
        for vector, seen in zip(_VECTORS, moment.vectors, strict=True):
            wanted = vector(token)
            if (wanted.ahead or wanted.floor > seen.floor) and not seen.covers_all(wanted):
                return False
        return True

    async def wait_for(self, token: SyncToken, timeout_s: float) -> bool:
        """Wait until this process has seen all that the holder of a token has seen."""
        deadline = trio.current_time() + timeout_s
        for stream, vector in zip(STREAMS, _VECTORS, strict=True):
            if self._feed.position(stream).covers_all(vector(token)):
                continue
            left_s = max(0.0, deadline - trio.current_time())
            if not await self._feed.wait_for_position(stream, vector(token), left_s):
                return False
        return True


def _token(vectors: tuple[VectorPosition, ...]) -> SyncToken:
    events, receipts, typing, presence, account_data, to_device, lists, rules, threads = vectors
    return SyncToken(
        events=events,
        receipts=receipts,
        typing=EpochPosition("", typing),
        presence=EpochPosition("", presence),
        account_data=account_data,
        to_device=to_device,
        device_lists=lists,
        push_rules=rules,
        thread_subscriptions=threads,
    )
