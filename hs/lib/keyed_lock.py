"""A lock per key, which exists only while the key is in use."""

from collections.abc import Hashable
from typing import Generic, TypeVar

import trio

K = TypeVar("K", bound=Hashable)


class KeyedLock(Generic[K]):
    """A set of locks by key; waiting tasks acquire a lock in order of arrival.

    A free lock is acquired without yielding to other tasks. Not reentrant.
    """

    def __init__(self) -> None:
        self._locks: dict[K, trio.lowlevel.ParkingLot] = {}

    def hold(self, key: K) -> "Hold[K]":
        """Return a context manager for `async with` that acquires and releases the key's lock."""
        return Hold(self._locks, key)

    def is_held(self, key: K) -> bool:
        """Return whether a task holds the key's lock."""
        return key in self._locks


class Hold(Generic[K]):
    """One acquisition of a key's lock."""

    __slots__ = ("_key", "_locks")

    def __init__(self, locks: dict[K, trio.lowlevel.ParkingLot], key: K) -> None:
        self._locks = locks
        self._key = key

    async def __aenter__(self) -> None:
        lot = self._locks.get(self._key)
        if lot is None:
            self._locks[self._key] = trio.lowlevel.ParkingLot()
        else:
            # The releasing task passes the lock on to this one; it is never free in between.
            await lot.park()

    async def __aexit__(self, *_: object) -> None:
        lot = self._locks[self._key]
        if lot:
            lot.unpark()
        else:
            del self._locks[self._key]
