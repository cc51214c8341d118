"""Where messages to devices went before, so that their inboxes need not be found by names again.

And the same of those that gave one-time keys: those of a device that is gone are gone with it.

An inbox belongs to one device for ever. Whether the device is still there only the table tells,
which is quick to say it of numbers; and devices that are not known here are looked up.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from hs.lib.cache import LruCache

MAX_DEVICES: Final = 50_000

Inboxes = Mapping[tuple[str, str], int]  # by user and device


class DeviceAddresses:
    """Remembers the inboxes of devices."""

    def __init__(self) -> None:
        self._inboxes: LruCache[tuple[str, str], int] = LruCache(
            "device_inboxes", max_entries=MAX_DEVICES
        )
        self._givers: LruCache[tuple[str, str, str], int] = LruCache(
            "key_givers", max_entries=MAX_DEVICES
        )

    def known(self, devices: Iterable[tuple[str, str]]) -> Inboxes:
        """Give the inboxes of devices (user, device), as far as they are remembered."""
        return self._inboxes.get_kept(devices)

    def learn(self, found: Mapping[str, Mapping[str, int]]) -> None:
        """Remember the inboxes of users' devices."""
        for user_id, inboxes in found.items():
            for device_id, inbox in inboxes.items():
                self._inboxes.put((user_id, device_id), inbox)

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
