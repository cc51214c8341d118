"""The inbox writers of all processes that share out the users, as if they were one.

Messages are stored by the owner of the user who gets them, keys are claimed at the owner of the
user who has them. So the inbox of a device has one writer, whose numbers say how far the device has
read.

- A request with messages to users of several owners is split. The owners record it by the slots of
  the users, so a repetition after a failure stores only what was not stored, also if other
  processes own the users by then. Messages to other servers are stored by the owner of the sender.
- A claim that fails at some owners returns the keys that others have given: those are deleted.
"""

import logging
from collections.abc import Awaitable, Callable

import attrs

from hs.core.errors import Unavailable
from hs.core.ids import UserID
from hs.repl.calls.reply import RpcUnavailable
from hs.repl.sharding import OwnerCalls, OwnerChanging
from hs.services.devices.inbox_addresses import DeviceAddress
from hs.services.devices.inbox_writer import InboxWriter, ToDeviceRequest, keys_of
from hs.services.devices.one_time_key_storage import KeyUpload
from hs.services.devices.remote_devices import OutgoingEdu

log = logging.getLogger(__name__)

_Claims = dict[str, dict[str, str]]
_Keys = dict[str, dict[str, bytes]]


@attrs.frozen(eq=False)
class ShardedInboxes:
    """An InboxWriter that passes on to the processes that own the users of a call.

    `writer_of` returns the writer in a process, or a proxy of it.
    """

    _writer_of: Callable[[str], InboxWriter]
    _owners: OwnerCalls

    async def send(
        self,
        request: ToDeviceRequest,
        head: bytes,
        devices: list[DeviceAddress],
        messages: list[bytes],
        outgoing: tuple[OutgoingEdu, ...] = (),
    ) -> bool:
        """Store messages; return False if all owners know the request."""
        by_user: dict[str, list[tuple[DeviceAddress, bytes]]] = {
            user_id: [] for user_id in keys_of(request, devices, outgoing)
        }
        for device, message in zip(devices, messages, strict=True):
            by_user[device[0]].append((device, message))

        async def send(owner: str, users: list[str]) -> bool:
            part = [addressed for user_id in users for addressed in by_user[user_id]]
            return await self._writer_of(owner).send(
                request,
                head,
                [device for device, _ in part],
                [message for _, message in part],
                outgoing if request.sender in users else (),
            )

        return any(await self._owners.call_all(by_user, str, send))

    async def upload(self, upload: KeyUpload) -> dict[str, int]:
        """Store keys; return the count per algorithm."""
        return await self._owners.call(
            lambda: self._owners.owner(upload.user_id),
            lambda owner: self._writer_of(owner).upload(upload),
        )

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
        keys: _Keys = {}
        errors: list[Exception] = []

        async def claim_part(owner: str, users: list[str]) -> None:
            try:
                keys.update(await claim(owner, {user_id: request[user_id] for user_id in users}))
            except (Unavailable, RpcUnavailable) as error:
                errors.append(error)

        try:
            await self._owners.call_all(request, str, claim_part)
        except OwnerChanging as error:
            errors.append(error)
        if errors:
            await self._owners.refresh()
            if not keys:
                raise errors[0]
            log.warning("claim of one-time keys incomplete: %s", errors[0])
        return keys

    async def forget(self, user_id: UserID, device_ids: list[str]) -> None:
        """Delete the messages of deleted devices."""
        await self._owners.call(
            lambda: self._owners.owner(user_id),
            lambda owner: self._writer_of(owner).forget(user_id, device_ids),
        )
