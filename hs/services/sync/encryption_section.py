"""The sections of end-to-end encryption: to-device messages, device lists, key counts."""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import attrs
import orjson

from hs.core.errors import InvalidParam
from hs.core.ids import UserID
from hs.core.positions import VectorPosition
from hs.core.requester import Requester
from hs.core.tokens import SyncToken
from hs.services.devices.device_lists import DeviceListChanges, DeviceLists
from hs.services.devices.inboxes import BATCH, InboxReader
from hs.services.devices.one_time_keys import OneTimeKeys

COUNTS: Final = "device_one_time_keys_count"
FALLBACKS: Final = "device_unused_fallback_key_types"


class ToDevicePage(NamedTuple):
    """To-device messages as JSON, and the stream position up to which they are complete."""

    events: list[bytes]
    reached: int


class EncryptionMembers(NamedTuple):
    """The members of a response as JSON, by name; changes end a long poll.

    `to_device` is the position from which the next response continues in that stream; None means
    the end of this response.
    """

    members: Mapping[str, bytes]
    has_changes: bool
    to_device: VectorPosition | None


@attrs.frozen(eq=False)
class EncryptionSection:
    """The renderer of the encryption sections; it reads the database only after changes.

    `inbox_writer` names the writer whose position says up to which number all messages to a user
    have arrived here; None if only the slowest one of all does. Numbers of messages to a user grow,
    also when the inboxes pass to another writer. So the highest number in a token of a response
    says how far a device has read, and it names no other writer: how far those have been seen
    could cover messages that the device has not been sent.
    """

    _inboxes: InboxReader
    _device_lists: DeviceLists
    _one_time_keys: OneTimeKeys
    _inbox_writer: Callable[[UserID], str | None]

    async def render(
        self,
        requester: Requester,
        since: SyncToken | None,
        now: SyncToken,
        began: SyncToken,
    ) -> EncryptionMembers:
        """Return the sections of `/sync`.

        A request with `since` acknowledges the messages up to it, which are deleted. `began` is
        the position of this process when the request arrived.
        """
        members: dict[str, bytes] = {}
        user_id, device_id = requester.user_id, requester.device_id
        has_changes, reached = False, None
        if since is not None:
            changes = await self._device_lists.changes(user_id, since, now)
            if changes.changed or changes.left:
                has_changes = True
                present = {name: users for name, users in changes._asdict().items() if users}
                members["device_lists"] = orjson.dumps(present)
        if device_id is not None:
            read = VectorPosition() if since is None else since.to_device
            page = await self.to_device_page(user_id, device_id, read.most(), now, began)
            if page.events:
                has_changes, reached = True, VectorPosition(page.reached)
                members["to_device"] = b'{"events":[%b]}' % b",".join(page.events)
            if now.to_device.ahead:
                reached = self._position(user_id, read, now.to_device, page.reached)
            members.update(await self.key_counts(user_id, device_id))
        return EncryptionMembers(members, has_changes, reached)

    async def without_changes(
        self, requester: Requester, since: SyncToken, now: SyncToken
    ) -> EncryptionMembers:
        """Return the key counts, for a response to which nothing has changed since a token."""
        user_id, device_id = requester.user_id, requester.device_id
        if device_id is None:
            return EncryptionMembers({}, False, None)
        read, reached = since.to_device, None
        await self._inboxes.acknowledge(user_id, device_id, read.most())
        if now.to_device.ahead:
            upto = max(read.most(), self._seen(user_id, now.to_device))
            reached = self._position(user_id, read, now.to_device, upto)
        return EncryptionMembers(await self.key_counts(user_id, device_id), False, reached)

    async def to_device_page(
        self,
        user_id: UserID,
        device_id: str,
        after: int,
        now: SyncToken,
        began: SyncToken,
        limit: int = BATCH,
    ) -> ToDevicePage:
        """Return the messages after a position, and acknowledge those up to it.

        Messages up to the position `began`, when the request arrived, may have been acknowledged by
        a concurrent request; if this request acknowledged messages itself, none are doubtful.
        """
        upto = self._seen(user_id, now.to_device)
        doubtful = began.to_device.most()
        if after and await self._inboxes.acknowledge(user_id, device_id, after):
            doubtful = 0
        page = await self._inboxes.messages(user_id, device_id, after, upto, doubtful, limit)
        return ToDevicePage(*page)

    def _seen(self, user_id: UserID, position: VectorPosition) -> int:
        """Return up to which number a position covers the messages to a user."""
        writer = self._inbox_writer(user_id) if position.ahead else None
        return position.floor if writer is None else position.get(writer)

    def _position(
        self, user_id: UserID, read: VectorPosition, now: VectorPosition, reached: int
    ) -> VectorPosition:
        """Return the position of a client that has got the user's messages up to a number.

        `read` is its position before. The writer that is named has been seen here up to there.
        """
        floor = VectorPosition(min(now.floor, reached))
        writer = self._inbox_writer(user_id)
        if reached == read.most():
            # The number of an earlier writer may be above what has been seen of the present one.
            writer = max(read.ahead, key=read.get, default=writer)
        return floor if writer is None else floor.advance(writer, reached)

    async def key_counts(self, user_id: UserID, device_id: str) -> Mapping[str, bytes]:
        """Return the JSON members with the key counts of a device, by name."""
        counts = await self._one_time_keys.counts(user_id, device_id)
        return {COUNTS: counts.counts_json, FALLBACKS: counts.fallbacks_json}

    async def device_list_changes(
        self, user_id: UserID, since: SyncToken, now: SyncToken
    ) -> DeviceListChanges:
        """Return the users whose device lists changed or need no more tracking."""
        return await self._device_lists.changes(user_id, since, now)


def device_lists_json(changes: DeviceListChanges) -> bytes:
    """Encode the `device_lists` section."""
    return orjson.dumps({"changed": changes.changed, "left": changes.left})


def parse_to_device_token(text: str | None) -> int:
    """Parse the `since` token of sliding sync's `to_device` extension; 0 if there is none.

    Raises: InvalidParam.
    """
    if text is None:
        return 0
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise InvalidParam(
            "extensions.to_device.since must be a next_batch token of this extension"
        )
    return int(text)
