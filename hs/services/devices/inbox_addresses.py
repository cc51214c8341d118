"""A cache of device inboxes, so that the writer of to-device messages need not look them up.

An inbox is a number that belongs to one device for ever. A deleted device may be created again
under the same ID, with another inbox. A message must not be stored for a deleted device.

- The transaction that deletes a device adds its inbox to `closed_inboxes`. When the writer is
  notified (`InboxWriter.forget`), it deletes the messages in the user's closed inboxes and the
  user's rows of that table. Only the writer removes rows from it.
- Cached inboxes are therefore valid in a transaction if `closed_inboxes` is empty there, and no row
  has been removed from it since the lookup. `invalidating` marks removals: it increments the
  generation, and while it is active lookups return no generation at all.
- If validity is not certain, the transaction checks that all inboxes belong to existing devices,
  and otherwise looks the devices up by ID.
- Devices read from the database are cached only if they were read in the current generation.
- Where several writers share out the users, the inboxes of a user may pass to another writer, which
  then removes rows. A writer that loses inboxes therefore drops its cache (`clear`).

A second cache holds the inboxes of devices that have recently given a one-time key. It needs no
validation: the keys of a deleted device are deleted with it, so claiming them finds nothing.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, NamedTuple

from hs.lib.caching.lru_cache import LruCache

MAX_DEVICES: Final = 50_000
MAX_DEVICES_PER_USER: Final = 500
"""Users with more devices are not cached, because they would evict too many others."""

DeviceAddress = tuple[str, str]  # (user_id, device_id)
EVERY_DEVICE: Final = "*"


class InboxLookup(NamedTuple):
    """The result of a lookup: the inbox of each device, None where it is not cached.

    `generation` is that of the lookup; None if an invalidation was in progress.
    """

    inboxes: list[int | None]
    generation: int | None


class InboxAddressCache:
    """The caches of device inboxes and of devices with one-time keys."""

    def __init__(self) -> None:
        self._generation = 0
        self._active_invalidations = 0
        self._inboxes: LruCache[str, Mapping[str, int]] = LruCache(
            "device_inboxes", max_weight=MAX_DEVICES, weigh=_weigh
        )
        self._claimable: LruCache[tuple[str, str, str], int] = LruCache(
            "key_givers", max_entries=MAX_DEVICES
        )

    def lookup(self, devices: Collection[DeviceAddress]) -> InboxLookup:
        """Return the cached inboxes of devices."""
        users: Iterable[Mapping[str, int]] | None
        users = self._inboxes.get_all([user_id for user_id, _ in devices])
        if users is None:
            cached = self._inboxes.get_cached({user_id for user_id, _ in devices})
            users = [cached.get(user_id, {}) for user_id, _ in devices]
        inboxes = [
            inboxes.get(device_id) for inboxes, (_, device_id) in zip(users, devices, strict=True)
        ]
        return InboxLookup(inboxes, self._generation if self._active_invalidations == 0 else None)

    def is_current(self, lookup: InboxLookup) -> bool:
        """Return whether no invalidation began since a lookup; can be called from any thread."""
        return lookup.generation is not None and lookup.generation == self._generation

    def store(self, devices: Mapping[str, Mapping[str, int]], lookup: InboxLookup) -> None:
        """Cache all devices of users, with their inboxes, which were read after `lookup`."""
        if self.is_current(lookup):
            for user_id, inboxes in devices.items():
                if EVERY_DEVICE not in inboxes and len(inboxes) <= MAX_DEVICES_PER_USER:
                    self._inboxes.put(user_id, inboxes)

    @contextmanager
    def invalidating(self, user_id: str) -> Iterator[None]:
        """Invalidate a user's devices while their closed inboxes are being removed."""
        self._active_invalidations += 1
        self._generation += 1
        try:
            yield
        finally:
            self._inboxes.pop(user_id)
            self._active_invalidations -= 1

    def clear(self) -> None:
        """Drop all inboxes, also those of lookups that are in progress."""
        self._generation += 1
        self._inboxes.clear()

    def claimable(
        self, request: Mapping[str, Mapping[str, str]]
    ) -> tuple[str, dict[int, tuple[str, str]]]:
        """Return the algorithm with most cached devices in a request, and those by inbox.

        `request` contains algorithms by user and device.
        """
        cached = self._claimable.get_cached(
            (user_id, device_id, algorithm)
            for user_id, devices in request.items()
            for device_id, algorithm in devices.items()
        )
        by_algorithm: dict[str, dict[int, tuple[str, str]]] = {}
        for (user_id, device_id, algorithm), inbox in cached.items():
            by_algorithm.setdefault(algorithm, {})[inbox] = (user_id, device_id)
        return max(by_algorithm.items(), key=lambda entry: len(entry[1]), default=("", {}))

    def store_claimable(self, inboxes: Mapping[tuple[str, str, str], int]) -> None:
        """Cache the inboxes of devices that gave a key, by (user, device, algorithm)."""
        for key, inbox in inboxes.items():
            self._claimable.put(key, inbox)

    def drop_claimable(self, keys: Iterable[tuple[str, str, str]]) -> None:
        """Drop devices that had no key left, by (user, device, algorithm)."""
        for key in keys:
            self._claimable.pop(key)


def _weigh(user_id: str, inboxes: Mapping[str, int]) -> int:
    return 1 + len(inboxes)
