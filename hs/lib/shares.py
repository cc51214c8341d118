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
        self._semaphores: dict[K, trio.Semaphore] = {}

    def __len__(self) -> int:
        return len(self._semaphores)

    def hold(self, key: K) -> "Share[K]":
        """Return a context manager for `async with` that takes one place of a key.

        Raises on entry: ShareExceeded.
        """
        return Share(self, key)

    async def acquire(self, key: K) -> None:
        """Wait for a place of a key. Raises: ShareExceeded."""
        semaphore = self._semaphores.get(key)
        if semaphore is None:
            semaphore = self._semaphores[key] = trio.Semaphore(self._running)
        try:
            semaphore.acquire_nowait()
        except trio.WouldBlock:
            if semaphore.statistics().tasks_waiting >= self._waiting:
                raise ShareExceeded from None
            await semaphore.acquire()

    def release(self, key: K) -> None:
        """Free a place of a key."""
        semaphore = self._semaphores[key]
        semaphore.release()
        # All places are free only if no task is waiting.
        if semaphore.value == self._running:
            del self._semaphores[key]


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
