"""Where messages to devices went before, so that their inboxes need not be found by names again.

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

    def known(self, devices: Iterable[tuple[str, str]]) -> Inboxes:
        """Give the inboxes of devices (user, device), as far as they are remembered."""
        return self._inboxes.get_kept(devices)

    def learn(self, found: Mapping[str, Mapping[str, int]]) -> None:
        """Remember the inboxes of users' devices."""
        for user_id, inboxes in found.items():
            for device_id, inbox in inboxes.items():
                self._inboxes.put((user_id, device_id), inbox)
