"""Where messages to devices went before, so that their inboxes need not be found by names again.

And the same of those that gave one-time keys: those of a device that is gone are gone with it.

An inbox belongs to one device for ever, and a device that is gone may come back under its name
with another inbox. The inboxes of devices that are gone lie in the table of the closed ones, from
the same commit on until the writer is told of it: first it forgets here all devices of the user.
So what was asked here is right if nobody was forgotten since, and no inbox is closed; otherwise
the table of devices tells which numbers are still there, and others are looked up by their names.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple

from hs.lib.cache import LruCache

MAX_DEVICES: Final = 50_000

Device = tuple[str, str]  # (user, device)
EVERY_DEVICE: Final = "*"


class Known(NamedTuple):
    """The inboxes of some devices, None where they are not remembered, as of `moment`."""

    inboxes: list[int | None]
    moment: int


class DeviceAddresses:
    """Remembers the inboxes of devices."""

    def __init__(self) -> None:
        self.moment = 0  # grows whenever somebody is forgotten
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
        return Known(inboxes, self.moment)

    def learn(self, found: Mapping[str, Mapping[str, int]], moment: int) -> None:
        """Remember all devices of users with their inboxes; `moment` is before they were read."""
        if moment == self.moment:
            for user_id, inboxes in found.items():
                if EVERY_DEVICE not in inboxes:
                    self._inboxes.put(user_id, inboxes)

    def forget(self, user_id: str) -> None:
        """Forget a user's devices, before inboxes of theirs are not among the closed any more."""
        self.moment += 1
        self._inboxes.pop(user_id)

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
