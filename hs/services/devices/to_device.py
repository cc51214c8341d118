"""Sending of to-device messages.

A message is stored once however often its request is repeated: the writer records the transaction
ID of the client (or the message ID of the EDU) in the transaction that stores the messages, also
those to other servers. The endpoint has no response body to repeat.

Spec: client-server API, Send-to-Device messaging.
"""

from collections.abc import Mapping

import attrs
import orjson

from hs.core.canonical_json import JsonObject
from hs.core.edus import DIRECT_TO_DEVICE
from hs.core.errors import BadJson
from hs.core.ids import ServerName, UserID, is_user_id, server_of
from hs.core.requester import Requester
from hs.lib.time_slice import TimeSlice
from hs.services.accounts.limits.account_restrictions import check_may_signal
from hs.services.devices.inbox_addresses import DeviceAddress
from hs.services.devices.inbox_writer import InboxWriter, ToDeviceRequest
from hs.services.devices.inboxes import BATCH
from hs.services.devices.remote_devices import OutgoingMessage, RemoteDevices
from hs.storage.database import Database
from hs.storage.devices import to_device


@attrs.frozen(eq=False)
class ToDeviceMessages:
    """The sender of to-device messages."""

    _writer: InboxWriter
    _remote: RemoteDevices
    _server_name: ServerName

    async def send(
        self,
        requester: Requester,
        event_type: str,
        txn_id: str,
        messages: JsonObject,
    ) -> None:
        """Send a message to each device; a repeated request does nothing.

        `messages` has the form `{user_id: {device_id: content}}`.
        Raises: BadJson; LimitExceeded; UserSuspended, unless all messages are to own devices.
        """
        if messages.keys() - {requester.user_id}:
            check_may_signal(requester)
        devices: list[DeviceAddress] = []
        local: list[bytes] = []
        remote: list[OutgoingMessage] = []
        suffix = f":{self._server_name}"
        time_slice = TimeSlice()
        for user_id, contents in messages.items():
            # Local user IDs need no validation: messages go to existing devices only.
            is_local = user_id[:1] == "@" and user_id.endswith(suffix)
            if not is_local and not is_user_id(user_id):
                raise BadJson("The keys of 'messages' must be user IDs")
            if type(contents) is not dict:
                raise BadJson("The messages to a user must be an object by device ID")
            for device_id, content in contents.items():
                await time_slice.yield_if_over()
                if type(content) is not dict:
                    raise BadJson("The content of a message must be an object")
                if is_local:
                    devices.append((user_id, device_id))
                    local.append(orjson.dumps(content))
                else:
                    remote.append(OutgoingMessage(UserID(user_id), device_id, content))
        if requester.is_shadow_banned:
            return
        head = _head(requester.user_id, event_type)
        request = ToDeviceRequest(requester.user_id, requester.device_id or "", event_type, txn_id)
        if remote:
            servers = {server_of(message.user_id) for message in remote}
            await self._remote.check_destinations(requester, servers)
        outgoing = self._remote.encode_messages(requester.user_id, event_type, remote)
        await self._writer.send(request, head, devices, local, outgoing)
        if outgoing:
            # Also for a repeated request, whose first attempt may have ended before this.
            self._remote.announce_messages(outgoing)

    async def receive(
        self,
        origin: ServerName,
        message_id: str,
        sender: UserID,
        event_type: str,
        messages: Mapping[UserID, Mapping[str, JsonObject]],
    ) -> None:
        """Store the messages of an EDU; a repeated message ID of this origin does nothing."""
        devices: list[DeviceAddress] = [
            (user_id, device_id) for user_id, contents in messages.items() for device_id in contents
        ]
        local = [
            orjson.dumps(content) for contents in messages.values() for content in contents.values()
        ]
        request = ToDeviceRequest(origin, "", DIRECT_TO_DEVICE, message_id)
        await self._writer.send(request, _head(sender, event_type), devices, local)


def _head(sender: UserID, event_type: str) -> bytes:
    """Return the common beginning of the messages' JSON; the content and `}` follow it."""
    return b'{"type":%b,"sender":%b,"content":' % (orjson.dumps(event_type), orjson.dumps(sender))


@attrs.frozen(eq=False)
class DehydratedDeviceMessages:
    """The messages of dehydrated devices, which are not acknowledged."""

    _database: Database

    async def page(
        self, user_id: UserID, device_id: str, after: int, limit: int = BATCH
    ) -> tuple[list[bytes], int]:
        """Return a device's messages after a position, and the position of the last."""
        pending = await self._database.read(
            to_device.pending_messages, user_id, device_id, after, 2**62, limit
        )
        return [message for _, message in pending], pending[-1][0] if pending else after
