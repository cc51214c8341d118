"""The sections of end-to-end encryption: messages to the device, device lists, key counts."""

from collections.abc import Mapping
from typing import Final, NamedTuple

import attrs
import orjson

from hs.core.errors import InvalidParam
from hs.core.ids import UserID
from hs.core.positions import VectorPosition
from hs.core.requester import Requester
from hs.services.devices.device_lists import DeviceListChanges, DeviceLists, Moment
from hs.services.devices.inboxes import BATCH, Inboxes
from hs.services.devices.one_time_keys import OneTimeKeys
from hs.services.sync.sources import Extra, Positioned

COUNTS: Final = "device_one_time_keys_count"
FALLBACKS: Final = "device_unused_fallback_key_types"


class Messages(NamedTuple):
    """A page of messages to a device, as JSON, and the position it ends at."""

    events: list[bytes]
    reached: int


@attrs.frozen(eq=False)
class Encryption:
    """Tells devices what they need for encryption; without news it reads nothing from disk."""

    _inboxes: Inboxes
    _device_lists: DeviceLists
    _one_time_keys: OneTimeKeys

    async def render(
        self,
        requester: Requester,
        since: Positioned | None,
        now: Positioned,
        began: Positioned,
    ) -> Extra:
        """Give the sections of /sync. What came with `since` has been received."""
        members: dict[str, bytes] = {}
        user_id, device_id = requester.user_id, requester.device_id
        news, reached = False, None
        if since is not None:
            changes = await self._device_lists.changes(user_id, since, now)
            if changes.changed or changes.left:
                news = True
                members["device_lists"] = device_lists_json(changes)
        if device_id is not None:
            after = 0 if since is None else since.to_device.most()
            page = await self.messages(user_id, device_id, after, now, began)
            if page.events:
                news, reached = True, VectorPosition(page.reached)
                members["to_device"] = b'{"events":[%b]}' % b",".join(page.events)
            members.update(await self.counts(user_id, device_id))
        return Extra(members, news, reached)

    async def messages(
        self,
        user_id: UserID,
        device_id: str,
        after: int,
        now: Positioned,
        began: Positioned,
        limit: int = BATCH,
    ) -> Messages:
        """Give a device's messages behind a position, up to which it has received all.

        `began` is when the request came.
        """
        upto, doubtful = now.to_device.most(), began.to_device.most()
        if after and await self._inboxes.acknowledge(user_id, device_id, after):
            doubtful = 0
        page = await self._inboxes.messages(user_id, device_id, after, upto, doubtful, limit)
        return Messages(*page)

    async def counts(self, user_id: UserID, device_id: str) -> Mapping[str, bytes]:
        """Give the members that tell how many keys of a device are left."""
        counts = await self._one_time_keys.counts(user_id, device_id)
        return {COUNTS: counts.counts_json, FALLBACKS: counts.fallbacks_json}

    async def changes(self, user_id: UserID, since: Moment, now: Moment) -> DeviceListChanges:
        """Tell of device lists."""
        return await self._device_lists.changes(user_id, since, now)


def device_lists_json(changes: DeviceListChanges) -> bytes:
    """Write the section of device lists."""
    return orjson.dumps({"changed": changes.changed, "left": changes.left})


def read_position(text: str | None) -> int:
    """Read the token of sliding sync's messages to devices. Raises: InvalidParam."""
    if text is None:
        return 0
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise InvalidParam("Not a token of messages to devices")
    return int(text)
