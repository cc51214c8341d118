"""Messages to devices: sent once, given in order, forgotten when the device says it has them.

Each process knows by the feed which devices have messages waiting, so that a device without any
costs no reading.

Spec: client-server API, Send-to-Device messaging.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import attrs
import orjson
import trio

from hs.core.canonical_json import JsonObject
from hs.core.errors import BadJson
from hs.core.ids import ServerName, UserID, is_user_id, server_of
from hs.core.requester import Requester
from hs.lib.cache import LruCache
from hs.lib.loading_cache import LoadingCache
from hs.repl.feed import Batch, Feed
from hs.repl.rows import ToDeviceRow
from hs.repl.streams import TO_DEVICE
from hs.services.devices.inbox_writer import InboxWriter, Message, Request
from hs.services.devices.remote import OutgoingMessage, RemoteDevices
from hs.storage import to_device
from hs.storage.database import Database

MAX_DEVICES: Final = 100_000
BATCH: Final = 100
"""Most messages given at once."""

_Key = tuple[UserID, str]


class Waiting(NamedTuple):
    """Messages with numbers in `[first, last]` may be stored; `last` 0: none."""

    first: int
    last: int


class ToDevice:
    """Sends messages, and gives them to their devices."""

    def __init__(
        self,
        database: Database,
        feed: Feed,
        writer: InboxWriter,
        remote: RemoteDevices,
        server_name: ServerName,
    ) -> None:
        self._database = database
        self._writer = writer
        self._remote = remote
        self._server_name = server_name
        self._entries: LruCache[_Key, Waiting] = LruCache("to_device", max_entries=MAX_DEVICES)
        self._waiting = LoadingCache(self._entries, self._read)
        feed.subscribe(TO_DEVICE, self._on_rows)

    @property
    def cache(self) -> LruCache[_Key, Waiting]:
        """Give what metrics and settings look at."""
        return self._entries

    async def send(
        self,
        requester: Requester,
        event_type: str,
        txn_id: str,
        messages: Mapping[str, Mapping[str, JsonObject]],
    ) -> None:
        """Send one message to each of some devices; the same request again does nothing.

        Raises: BadJson.
        """
        local: list[Message] = []
        remote: list[OutgoingMessage] = []
        for user_id, contents in messages.items():
            if not is_user_id(user_id):
                raise BadJson("Messages are sorted by user IDs")
            target = UserID(user_id)
            for device_id, content in contents.items():
                if server_of(target) != self._server_name:
                    remote.append(OutgoingMessage(target, device_id, content))
                    continue
                event = render(requester.user_id, event_type, content)
                local.append(Message(target, device_id, event))
        if requester.shadow:
            return
        request = Request(requester.user_id, requester.device_id or "", event_type, txn_id)
        if await self._writer.send(request, local) and remote:
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
        local = [
            Message(user_id, device_id, render(sender, event_type, content))
            for user_id, contents in messages.items()
            for device_id, content in contents.items()
        ]
        await self._writer.send(Request(origin, "", event_type, message_id), local)

    async def messages(
        self, user_id: UserID, device_id: str, after: int, upto: int, limit: int = BATCH
    ) -> tuple[list[bytes], int]:
        """Give a device's messages in `(after, upto]` as JSON, and the position of the last.

        That position is below `upto` if there are more of them than `limit`.
        """
        waiting = await self._waiting.get((user_id, device_id))
        if waiting.last <= after:
            return [], max(after, upto)
        found = await self._database.read(to_device.pending, user_id, device_id, after, upto, limit)
        reached = found[-1][0] if len(found) == limit else max(after, upto)
        return [message for _, message in found], reached

    async def acknowledge(self, user_id: UserID, device_id: str, upto: int) -> None:
        """Forget the messages that a device has got."""
        key = (user_id, device_id)
        waiting = await self._waiting.get(key)
        if waiting.last == 0 or waiting.first > upto:
            return
        with trio.CancelScope(shield=True):
            await self._database.write(to_device.delete_upto, user_id, device_id, upto)
        now = self._entries.get(key)
        if now is not None and now.last:
            left = Waiting(max(now.first, upto + 1), now.last)
            self._entries.put(key, left if left.first <= left.last else Waiting(0, 0))

    async def _read(self, key: _Key) -> Waiting:
        ends = await self._database.read(to_device.ends, *key)
        return Waiting(0, 0) if ends is None else Waiting(*ends)

    def _on_rows(self, batch: Batch[ToDeviceRow]) -> None:
        for number, row in batch.rows:
            key = (UserID(row.user_id), row.device_id)
            known = None if row.keys else self._entries.get(key)
            if known is None:
                # Not kept, or being loaded; or the device may be gone.
                self._waiting.invalidate(key)
            else:
                self._entries.put(key, Waiting(known.first if known.last else number, number))


def render(sender: UserID, event_type: str, content: JsonObject) -> bytes:
    """Write a message as its device gets it."""
    return orjson.dumps({"type": event_type, "sender": sender, "content": content})


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
