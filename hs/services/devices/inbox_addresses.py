"""Where messages to devices went before, so that their inboxes need not be found by names again.

And the same of those that gave one-time keys: those of a device that is gone are gone with it.

An inbox belongs to one device for ever, and a device that is gone may come back under its name
with another inbox. The inboxes of devices that are gone lie in the table of the closed ones, from
the same commit on until the writer is told of it, which then empties it of all of that user. So
what was remembered here is right if no inbox is closed, and if nothing was taken out of that table
since. Otherwise the table of devices tells which numbers are still there, and others are looked up
by their names.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, NamedTuple

from hs.lib.caching.lru_cache import LruCache

MAX_DEVICES: Final = 50_000
MAX_OF_USER: Final = 500
"""Of a user with more devices none are remembered: they would take the place of all others."""

Device = tuple[str, str]  # (user, device)
EVERY_DEVICE: Final = "*"


class Known(NamedTuple):
    """The inboxes of some devices, None where they are not remembered.

    `moment` is that of the question; None: users are just being forgotten.
    """

    inboxes: list[int | None]
    moment: int | None


class DeviceAddresses:
    """Remembers the inboxes of devices."""

    def __init__(self) -> None:
        self._moment = 0
        self._forgetting = 0
        self._inboxes: LruCache[str, Mapping[str, int]] = LruCache(
            "device_inboxes", max_weight=MAX_DEVICES, weigh=_weigh
        )
        self._givers: LruCache[tuple[str, str, str], int] = LruCache(
            "key_givers", max_entries=MAX_DEVICES
        )

    def known(self, devices: Collection[Device]) -> Known:
        """Give the inboxes of devices, as far as they are remembered."""
        users: Iterable[Mapping[str, int]] | None
        users = self._inboxes.get_all([user_id for user_id, _ in devices])
        if users is None:
            kept = self._inboxes.get_kept({user_id for user_id, _ in devices})
            users = [kept.get(user_id, {}) for user_id, _ in devices]
        inboxes = [
            inboxes.get(device_id) for inboxes, (_, device_id) in zip(users, devices, strict=True)
        ]
        return Known(inboxes, self._moment if self._forgetting == 0 else None)

    def is_certain(self, known: Known) -> bool:
        """Tell whether nothing was taken from the closed inboxes since; from any thread."""
        return known.moment is not None and known.moment == self._moment

    def learn(self, found: Mapping[str, Mapping[str, int]], asked: Known) -> None:
        """Remember all devices of users, and their inboxes, which were read after `asked`."""
        if self.is_certain(asked):
            for user_id, inboxes in found.items():
                if EVERY_DEVICE not in inboxes and len(inboxes) <= MAX_OF_USER:
                    self._inboxes.put(user_id, inboxes)

    @contextmanager
    def forgetting(self, user_id: str) -> Iterator[None]:
        """Forget a user's devices, while inboxes of theirs are taken from the closed ones."""
        self._forgetting += 1
        self._moment += 1
        try:
            yield
        finally:
            self._inboxes.pop(user_id)
            self._forgetting -= 1

    def givers(
        self, wishes: Mapping[str, Mapping[str, str]]
    ) -> tuple[str, dict[int, tuple[str, str]]]:
        """Give those devices that gave a key of what is wished most, by inbox, and what it is.

        `wishes` are algorithms by user and device.
        """
        known = self._givers.get_kept(
            (user_id, device_id, algorithm)
            for user_id, devices in wishes.items()
            for device_id, algorithm in devices.items()
        )
        by_algorithm: dict[str, dict[int, tuple[str, str]]] = {}
        for (user_id, device_id, algorithm), inbox in known.items():
            by_algorithm.setdefault(algorithm, {})[inbox] = (user_id, device_id)
        return max(by_algorithm.items(), key=lambda one: len(one[1]), default=("", {}))

    def learn_givers(self, givers: Mapping[tuple[str, str, str], int]) -> None:
        """Remember the inboxes of devices that gave a key (user, device, algorithm)."""
        for wish, inbox in givers.items():
            self._givers.put(wish, inbox)

    def forget_givers(self, wishes: Iterable[tuple[str, str, str]]) -> None:
        """Forget those that gave none."""
        for wish in wishes:
            self._givers.pop(wish)


def _weigh(user_id: str, inboxes: Mapping[str, int]) -> int:
    return 1 + len(inboxes)
