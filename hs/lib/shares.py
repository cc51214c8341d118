"""A limit on the tasks of each key, so that one user cannot take everything that all share."""

from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

import trio

K = TypeVar("K", bound=Hashable)


class ShareExceeded(Exception):
    """Too many tasks are waiting for the share of the same key."""


class Shares(Generic[K]):
    """Lets `running` tasks of each key run, and `waiting` tasks wait; keys in use take memory."""

    def __init__(self, *, running: int, waiting: int) -> None:
        self._running = running
        self._waiting = waiting
        self._semaphores: dict[K, trio.Semaphore] = {}

    def __len__(self) -> int:
        return len(self._semaphores)

    @asynccontextmanager
    async def hold(self, key: K) -> AsyncIterator[None]:
        """Wait for a place among the tasks of a key, and hold it. Raises: ShareExceeded."""
        semaphore = self._semaphores.get(key)
        if semaphore is None:
            semaphore = self._semaphores[key] = trio.Semaphore(self._running)
        elif semaphore.statistics().tasks_waiting >= self._waiting:
            raise ShareExceeded
        try:
            async with semaphore:
                yield
        finally:
            # A free place means that none waits.
            if semaphore.value == self._running:
                self._semaphores.pop(key, None)
