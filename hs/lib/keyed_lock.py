"""A lock for each key, kept only while somebody holds it."""

from collections.abc import Hashable
from typing import Generic, TypeVar

import trio

K = TypeVar("K", bound=Hashable)


class KeyedLock(Generic[K]):
    """Lets one task at a time into the section of a key, first come, first served.

    A free key is taken without yielding to other tasks. Not reentrant.
    """

    def __init__(self) -> None:
        self._held: dict[K, trio.lowlevel.ParkingLot] = {}

    def hold(self, key: K) -> "Hold[K]":
        """Enter with `async with`: waits until the key is free, frees it at the end."""
        return Hold(self._held, key)

    def is_held(self, key: K) -> bool:
        """Tell whether somebody is in the section of the key now."""
        return key in self._held


class Hold(Generic[K]):
    """One passage through a key's section."""

    __slots__ = ("_held", "_key")

    def __init__(self, held: dict[K, trio.lowlevel.ParkingLot], key: K) -> None:
        self._held = held
        self._key = key

    async def __aenter__(self) -> None:
        lot = self._held.get(self._key)
        if lot is None:
            self._held[self._key] = trio.lowlevel.ParkingLot()
        else:
            # Whoever leaves hands the section over to us; it is not free in between.
            await lot.park()

    async def __aexit__(self, *_: object) -> None:
        lot = self._held[self._key]
        if lot:
            lot.unpark()
        else:
            del self._held[self._key]
