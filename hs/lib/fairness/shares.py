"""A limit on the tasks of each key, so that one user cannot take everything that all share."""

from collections.abc import Hashable
from typing import Generic, TypeVar

import trio

K = TypeVar("K", bound=Hashable)


class ShareExceeded(Exception):
    """Too many tasks are waiting for the share of the same key."""


class Shares(Generic[K]):
    """Lets `running` tasks of each key run, and `waiting` tasks wait in order of arrival.

    A free place is taken without yielding to other tasks. Only keys in use take memory.
    """

    def __init__(self, *, running: int, waiting: int) -> None:
        self._running = running
        self._waiting = waiting
        self._taken: dict[K, int] = {}
        # The waiting tasks of keys without a free place. A freed place is handed to the first.
        self._lots: dict[K, trio.lowlevel.ParkingLot] = {}

    def __len__(self) -> int:
        return len(self._taken)

    def taken(self, key: K) -> int:
        """Return the number of places of a key that are taken."""
        return self._taken.get(key, 0)

    def waiting(self, key: K) -> int:
        """Return the number of tasks that wait for a place of a key."""
        return len(self._lots.get(key, ()))

    def hold(self, key: K) -> "Share[K]":
        """Return a context manager for `async with` that takes one place of a key.

        Raises on entry: ShareExceeded.
        """
        return Share(self, key)

    def acquire_nowait(self, key: K) -> bool:
        """Take a place of a key, if one is free."""
        taken = self._taken.get(key, 0)
        if taken < self._running:
            self._taken[key] = taken + 1
            return True
        return False

    async def acquire(self, key: K) -> None:
        """Wait for a place of a key. Raises: ShareExceeded."""
        taken = self._taken.get(key, 0)
        if taken < self._running:
            self._taken[key] = taken + 1
            return
        if self.waiting(key) >= self._waiting:
            raise ShareExceeded
        lot = self._lots.setdefault(key, trio.lowlevel.ParkingLot())
        try:
            await lot.park()
        finally:
            if not lot and self._lots.get(key) is lot:
                del self._lots[key]

    def release(self, key: K) -> None:
        """Free a place of a key."""
        lot = self._lots.get(key)
        if lot:
            lot.unpark()
        elif self._taken[key] == 1:
            del self._taken[key]
        else:
            self._taken[key] -= 1


class Share(Generic[K]):
    """One place of a key."""

    __slots__ = ("_key", "_shares")

    def __init__(self, shares: Shares[K], key: K) -> None:
        self._shares = shares
        self._key = key

    async def __aenter__(self) -> None:
        await self._shares.acquire(self._key)

    async def __aexit__(self, *_: object) -> None:
        self._shares.release(self._key)
