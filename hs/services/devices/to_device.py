"""Messages to devices: each sent once, however often it is asked for.

Spec: client-server API, Send-to-Device messaging.
"""

from collections.abc import Mapping

import attrs
import orjson

from hs.core.canonical_json import JsonObject
from hs.core.errors import BadJson
from hs.core.ids import ServerName, UserID, is_user_id
from hs.core.requester import Requester
from hs.services.devices.inbox_addresses import Device
from hs.services.devices.inbox_writer import InboxWriter, Request
from hs.services.devices.inboxes import BATCH
from hs.services.devices.remote_devices import OutgoingMessage, RemoteDevices
from hs.storage.database import Database
from hs.storage.devices import to_device


@attrs.frozen(eq=False)
class ToDevice:
    """Sends messages."""

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
        """Send one message to each of some devices; the same request again does nothing.

        `messages` are objects by device, these by user. Raises: BadJson.
        """
        devices: list[Device] = []
        local: list[bytes] = []
        remote: list[OutgoingMessage] = []
        our_end = f":{self._server_name}"
        for user_id, contents in messages.items():
            # Of ours only those who have devices are sent anything, so their names need no look.
            is_ours = user_id[:1] == "@" and user_id.endswith(our_end)
            if not is_ours and not is_user_id(user_id):
                raise BadJson("Messages are sorted by user IDs")
            if type(contents) is not dict:
                raise BadJson("The messages to a user are sorted by device IDs")
            for device_id, content in contents.items():
                if type(content) is not dict:
                    raise BadJson("A message to a device is an object")
                if is_ours:
                    devices.append((user_id, device_id))
                    local.append(orjson.dumps(content))
                else:
                    remote.append(OutgoingMessage(UserID(user_id), device_id, content))
        if requester.shadow:
            return
        head = _head(requester.user_id, event_type)
        request = Request(requester.user_id, requester.device_id or "", event_type, txn_id)
        if await self._writer.send(request, head, devices, local) and remote:
            await self._remote.send(requester.user_id, event_type, remote)

    async def receive(
        self,
        origin: ServerName,
        message_id: str,
        sender: UserID,
        event_type: str,
        messages: Mapping[UserID, Mapping[str, JsonObject]],
    ) -> None:
        """Take the messages of an EDU, once by its message ID."""
        devices: list[Device] = [
            (user_id, device_id) for user_id, contents in messages.items() for device_id in contents
        ]
        local = [orjson.dumps(one) for contents in messages.values() for one in contents.values()]
        request = Request(origin, "", event_type, message_id)
        await self._writer.send(request, _head(sender, event_type), devices, local)


def _head(sender: UserID, event_type: str) -> bytes:
    """Write what is the same in all messages of a request; their content and a brace follow."""
    return b'{"type":%b,"sender":%b,"content":' % (orjson.dumps(event_type), orjson.dumps(sender))


@attrs.frozen(eq=False)
class DehydratedEvents:
    """Messages for a device that nobody acknowledges for."""

    _database: Database

    async def page(
        self, user_id: UserID, device_id: str, after: int, limit: int = BATCH
    ) -> tuple[list[bytes], int]:
        """Give a device's messages behind a position, and the position of the last."""
        found = await self._database.read(
            to_device.pending, user_id, device_id, after, 2**62, limit
        )
        return [message for _, message in found], found[-1][0] if found else after
