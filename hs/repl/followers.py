"""Data that is read from tables and kept exact by the rows of streams.

`TableFollower` reads all of its data once. `KeyFollower` reads entries on demand and keeps them in
a cache. Rows arrive while a read is under way; these are the rules that settle the race.

What the proof relies on:

1. A row is published after the commit that it tells of, so a read that begins after the delivery
   sees what was committed.
2. The feed delivers the rows of a writer in order, on the trio thread, and callbacks never await.
3. `apply` accepts a row that the data already has, or has a later one of: it compares positions,
   or it assigns, so that the rows that follow lead to the same end. A read may be ahead of the
   feed, and then such rows are still to come.

A read begins at time b; at time e its task runs again and takes over what was read, by `apply` of
the rows noted meanwhile and without an await in between. A row is delivered at time t.

- No row is lost. If t < b, the read has seen the row (1). If b < t < e, the row is noted, and
  applied at e. If t > e, the row is applied to the data that was taken over.
- No row is applied to data that lacks an earlier row, and no read replaces newer data. What was
  read has all rows from before b; those after b are applied in the order of their delivery (2). Of
  one key, or of one table, at most one read is under way: concurrent callers share it.
- No delivered row is applied twice to the same data: it is noted for the read, and applied to the
  data before it, which the read replaces. A row that the read had seen is harmless (3).
- A row that cannot be applied makes the data invalid, and so does the reset of a memory stream,
  which lost rows. What is kept is dropped, also by calls that have read a key and wait for others.
  A read under way begins again, with nothing noted: the new b is after the invalidation, so the
  argument above holds for it.
- A read that fails takes the noted rows with it and raises to all who share it. The next caller
  begins a new read, which sees these rows (1). If the task of a read is cancelled, one of those
  that share it begins a new one. Rows are noted only during a read, so they take no memory while
  nobody reads.

`LoadingCache` of hs/lib/caching is the relative of `KeyFollower` for entries that rows never
change but only invalidate. Its values are those of the time of the call; those of `KeyFollower`
are of the time of the return, which is what lets a caller go on with them from a position of the
feed.
"""

from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable, Mapping
from typing import Generic, Protocol, TypeVar

from hs.core.stream_def import StreamDef
from hs.lib.caching.single_flight import SingleFlight
from hs.repl.feed import Batch, Feed

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")
T = TypeVar("T")
V = TypeVar("V")


class TableFollower(Generic[T, R]):
    """Data that is read whole once and then follows a stream.

    `read` reads a snapshot, `replace` takes it over in place of everything that was there, and
    `apply` applies one row. Rows that arrive before the first read are ignored. After a reset the
    data is not loaded: call `load` before each use if the stream is a memory stream.
    """

    def __init__(
        self,
        feed: Feed,
        stream: StreamDef[R],
        read: Callable[[], Awaitable[T]],
        replace: Callable[[T], None],
        apply: Callable[[R], None],
    ) -> None:
        self._read = read
        self._replace = replace
        self._apply = apply
        self._is_loaded = False
        self._noted: list[R] | None = None  # during a read, the rows that arrived
        self._must_read_again = False
        self._flights: SingleFlight[None] = SingleFlight()
        feed.subscribe(stream, self._on_rows)

    @property
    def is_loaded(self) -> bool:
        """Whether the data is here, as of the last batch that was delivered."""
        return self._is_loaded

    async def load(self) -> None:
        """Read the data unless it is here; concurrent callers share one read.

        Raises: what `read` raises; the next call reads again.
        """
        while not self._is_loaded:  # a reset may come before a waiting caller runs again
            await self._flights.run(None, self._load)

    async def _load(self) -> None:
        snapshot, noted = await self._read_snapshot()
        # No await from here on: no row comes between what was read and what follows it.
        self._replace(snapshot)
        for row in noted:
            self._apply(row)
        self._is_loaded = True

    async def _read_snapshot(self) -> tuple[T, list[R]]:
        while True:
            noted = self._noted = []
            self._must_read_again = False
            try:
                snapshot = await self._read()
            finally:
                self._noted = None
            if not self._must_read_again:
                return snapshot, noted

    def _on_rows(self, batch: Batch[R]) -> None:
        if batch.reset:
            self._is_loaded = False
            self._must_read_again = True
        if self._is_loaded:
            for _, row in batch.rows:
                self._apply(row)
        elif self._noted is not None:
            self._noted += [row for _, row in batch.rows]


class Entries(Protocol[K, V]):
    """A cache of entries, such as an LruCache."""

    def get(self, key: K) -> V | None: ...

    def get_cached(self, keys: Iterable[K]) -> dict[K, V]: ...

    def put(self, key: K, value: V) -> None: ...

    def pop(self, key: K) -> None: ...

    def clear(self) -> None: ...

    def __contains__(self, key: object) -> bool: ...


class KeyFollower(Generic[K, V, R]):
    """Entries of a cache that are read on demand and that rows of streams change.

    `load` reads the values of all the keys it is given. `apply` applies a row to a value and
    returns it: the same object, changed, or another in its place. `keep` puts a value into the
    cache, by default `entries.put`. The owner of the cache subscribes to streams, and calls
    `update` for each row that changes an entry and `invalidate` for each that it cannot apply.
    """

    def __init__(
        self,
        entries: Entries[K, V],
        load: Callable[[list[K]], Awaitable[Mapping[K, V]]],
        apply: Callable[[V, R], V],
        keep: Callable[[K, V], None] | None = None,
    ) -> None:
        self._entries = entries
        self._load = load
        self._apply = apply
        self._keep = keep or entries.put
        self._flights: SingleFlight[K] = SingleFlight()
        # For each key being read, the rows that arrived; None: it has to be read again.
        self._noted: dict[K, list[R] | None] = {}
        # For each call that waits for reads, by its identity, the keys not invalidated meanwhile.
        self._valid: dict[int, set[K]] = {}

    def __contains__(self, key: K) -> bool:
        """Return whether a key is cached or being read, so that its rows matter."""
        return key in self._entries or key in self._noted

    async def get(self, key: K) -> V:
        """Return the value of a key; a kept one comes without yielding.

        Raises: what `load` raises; the next call reads again.
        """
        value = self._entries.get(key)
        return (await self._find((key,), {}))[key] if value is None else value

    async def get_many(self, keys: Collection[K], at_once: int | None = None) -> dict[K, V]:
        """Return the values of keys, reading those that are missing together.

        With `at_once`, one read is for at most so many keys. A value that does not fit into the
        cache is as of the end of its read; one that is invalidated before the return is read again.
        Raises: what `load` raises; the next call reads again.
        """
        return await self._find(keys, self._entries.get_cached(keys), at_once)

    def update(self, key: K, row: R) -> V | None:
        """Apply a row to the value of a key; return the value if it is kept."""
        if self._noted:
            noted = self._noted.get(key)
            if noted is not None:
                noted.append(row)
        entries = self._entries
        # Looked up only if it is kept, so that it does not count as a miss of the cache.
        before = entries.get(key) if key in entries else None
        if before is None:
            return None
        value = self._apply(before, row)
        if value is not before:
            self._keep(key, value)
        return value

    def invalidate(self, key: K) -> None:
        """Have a key read again before its value is returned."""
        self._entries.pop(key)
        if key in self._noted:
            self._noted[key] = None
        for valid in self._valid.values():
            valid.discard(key)

    def invalidate_all(self) -> None:
        """Have all keys read again, as after a reset."""
        self._entries.clear()
        self._noted = dict.fromkeys(self._noted)
        for valid in self._valid.values():
            valid.clear()

    async def _find(
        self, keys: Collection[K], found: dict[K, V], at_once: int | None = None
    ) -> dict[K, V]:
        loaded: dict[K, V] = {}
        valid: set[K] = set()
        self._valid[id(valid)] = valid
        try:
            while missing := [key for key in dict.fromkeys(keys) if key not in found]:
                valid.update(keys)
                size = at_once or len(missing)
                for begin in range(0, len(missing), size):
                    group = missing[begin : begin + size]
                    loaded |= await self._flights.run_many(group, self._load_current)
                # What was read first may have been changed or dropped during the other reads.
                loaded = {key: value for key, value in loaded.items() if key in valid}
                found = {**loaded, **self._entries.get_cached(keys)}
        finally:
            del self._valid[id(valid)]
        return found

    async def _load_current(self, keys: list[K]) -> Mapping[K, V]:
        loaded: dict[K, V] = {}
        stale = keys
        try:
            while stale:
                self._noted.update((key, []) for key in stale)
                loaded.update(await self._load(stale))
                stale = [key for key in keys if self._noted[key] is None]
            # No await from here on: no row comes between what was read and what follows it.
            noted = {key: self._noted[key] or () for key in keys}
        finally:
            for key in keys:
                self._noted.pop(key, None)
        for key in keys:
            value = loaded[key]
            for row in noted[key]:
                value = self._apply(value, row)
            loaded[key] = value
            self._keep(key, value)
        return loaded
