"""The inbox writers of all processes that share out the users, as if they were one.

Messages are stored by the owner of the user who gets them, keys are claimed at the owner of the
user who has them. So the inbox of a device has one writer, whose numbers say how far the device has
read.

- A request with messages to users of several owners is split. Each owner records its part under an
  ID of its own, so a repetition after a failure stores only what was not stored. Messages to other
  servers are stored by the owner of the sender.
- A claim that fails at some owners returns the keys that others have given: those are deleted.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import attrs

from hs.core.errors import Unavailable
from hs.core.ids import UserID
from hs.repl.calls.owner_groups import OwnerOf, call_owners
from hs.repl.calls.reply import RpcUnavailable
from hs.services.devices.inbox_addresses import DeviceAddress
from hs.services.devices.inbox_writer import InboxWriter, ToDeviceRequest
from hs.services.devices.one_time_key_storage import KeyUpload
from hs.services.devices.remote_devices import OutgoingEdu

log = logging.getLogger(__name__)

_PART: Final = "\n"
"""Separates a transaction ID from the name of the owner that records a part under it."""

_Claims = dict[str, dict[str, str]]
_Keys = dict[str, dict[str, bytes]]


def sharded_inboxes(
    names: Sequence[str], writer_of: Callable[[str], InboxWriter], owner_of: OwnerOf
) -> InboxWriter:
    """Return the writers of these processes as one."""
    return writer_of(names[0]) if len(names) == 1 else _ShardedInboxes(writer_of, owner_of)


@attrs.define(eq=False)
class _Part:
    """The part of a request to send that concerns the users of one owner."""

    devices: list[DeviceAddress] = attrs.Factory(list)
    messages: list[bytes] = attrs.Factory(list)
    outgoing: tuple[OutgoingEdu, ...] = ()


@attrs.frozen(eq=False)
class _ShardedInboxes:
    """An InboxWriter that passes on to the writers by the users that a call is about."""

    _writer_of: Callable[[str], InboxWriter]
    _owner_of: OwnerOf

    async def send(
        self,
        request: ToDeviceRequest,
        head: bytes,
        devices: list[DeviceAddress],
        messages: list[bytes],
        outgoing: tuple[OutgoingEdu, ...] = (),
    ) -> bool:
        """Store messages; return False if all owners know the request."""
        parts: dict[str, _Part] = {}
        for device, message in zip(devices, messages, strict=True):
            part = parts.setdefault(self._owner_of(device[0]), _Part())
            part.devices.append(device)
            part.messages.append(message)
        if outgoing or not parts:
            parts.setdefault(self._owner_of(request.sender), _Part()).outgoing = outgoing

        async def send(owner: str, part: _Part) -> bool:
            own = attrs.evolve(request, txn_id=f"{request.txn_id}{_PART}{owner}")
            writer = self._writer_of(owner)
            return await writer.send(own, head, part.devices, part.messages, part.outgoing)

        return any((await call_owners(parts, send)).values())

    async def upload(self, upload: KeyUpload) -> dict[str, int]:
        """Store keys; return the count per algorithm."""
        return await self._writer_of(self._owner_of(upload.user_id)).upload(upload)

    async def claim(self, request: _Claims) -> _Keys:
        """Claim a key of each device for the requested algorithm."""
        return await self._claim(request, lambda owner, part: self._writer_of(owner).claim(part))

    async def claim_one_time(self, request: _Claims) -> _Keys:
        """Claim a one-time key of each device, never the fallback key."""
        return await self._claim(
            request, lambda owner, part: self._writer_of(owner).claim_one_time(part)
        )

    async def _claim(
        self, request: _Claims, claim: Callable[[str, _Claims], Awaitable[_Keys]]
    ) -> _Keys:
        parts: dict[str, _Claims] = {}
        for user_id, devices in request.items():
            parts.setdefault(self._owner_of(user_id), {})[user_id] = devices
        keys: _Keys = {}
        errors: list[Exception] = []

        async def claim_part(owner: str, part: _Claims) -> None:
            try:
                keys.update(await claim(owner, part))
            except (Unavailable, RpcUnavailable) as error:
                errors.append(error)

        await call_owners(parts, claim_part)
        if errors and not keys:
            raise errors[0]
        if errors:
            log.warning("claim of one-time keys incomplete: %s", errors[0])
        return keys

    async def forget(self, user_id: UserID, device_ids: list[str]) -> None:
        """Delete the messages of deleted devices."""
        await self._writer_of(self._owner_of(user_id)).forget(user_id, device_ids)
