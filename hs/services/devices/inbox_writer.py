"""The owner of what waits for devices: their messages, and the keys others claim.

All of it is announced on the stream `to_device`, in the same commit.
"""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple, Protocol

import attrs

from hs.core.errors import NotFound
from hs.core.ids import UserID
from hs.lib.clock import Clock
from hs.repl.rows import ToDeviceRow
from hs.repl.rpc import rpc
from hs.repl.writers import StreamIds, TableWriter
from hs.services.devices.key_storing import KeyUpload, store_keys
from hs.storage import devices, one_time_keys, to_device
from hs.storage.database import Tx
from hs.storage.one_time_keys import ClaimedKey, Wanted
from hs.storage.to_device import WaitingMessage

EVERY_DEVICE: Final = "*"
MAX_CARRIED_BYTES: Final = 64 * 1024
"""Most of the messages of one request that are told together with the news of them."""

Rows = list[tuple[int, ToDeviceRow]]


class Message(NamedTuple):
    """One message; `event` is the event's JSON as the device gets it."""

    user_id: UserID
    device_id: str
    event: bytes


@attrs.frozen
class Request:
    """What makes a request to send known again: who asked, and how they called it."""

    sender: str
    device_id: str
    event_type: str
    txn_id: str


@attrs.frozen
class KeyWish:
    """A one-time key is wanted of a device."""

    user_id: UserID
    device_id: str
    algorithm: str


@attrs.frozen
class GivenKey:
    """A key that was given out; `content` is JSON."""

    user_id: UserID
    device_id: str
    algorithm: str
    key_id: str
    content: bytes


class InboxWriter(Protocol):
    """The process that writes what waits for devices."""

    @rpc
    async def send(self, request: Request, messages: list[Message]) -> bool:
        """Leave messages for devices of ours, once; False: this was done before.

        A device ID of "*" is every device of the user; devices that are not there are left out.
        """
        ...

    @rpc
    async def upload(self, upload: KeyUpload) -> dict[str, int]:
        """Add keys; give how many wait for each algorithm. Raises: InvalidParam, NotFound."""
        ...

    @rpc
    async def claim(self, wishes: list[KeyWish]) -> list[GivenKey]:
        """Give out one key for each wish, where there is one."""
        ...

    @rpc
    async def forget(self, user_id: UserID, device_ids: list[str]) -> None:
        """Drop all that waits for devices that are gone, after they are."""
        ...


@attrs.frozen(eq=False)
class LocalInboxes:
    """The writer itself."""

    _stream: TableWriter[ToDeviceRow]
    _clock: Clock

    async def send(self, request: Request, messages: list[Message]) -> bool:
        """Leave messages for devices of ours, once."""
        return await self._stream.write(_send, request, messages, self._clock.now_ms())

    async def upload(self, upload: KeyUpload) -> dict[str, int]:
        """Add keys."""
        return await self._stream.write(_upload, upload)

    async def claim(self, wishes: list[KeyWish]) -> list[GivenKey]:
        """Give out keys."""
        return await self._stream.write(_claim, wishes)

    async def forget(self, user_id: UserID, device_ids: list[str]) -> None:
        """Drop all that waits for devices."""
        await self._stream.write(_forget, user_id, device_ids)


async def _send(
    tx: Tx, ids: StreamIds, request: Request, messages: list[Message], now_ms: int
) -> tuple[bool, Rows]:
    if not await to_device.note_request(
        tx, request.sender, request.device_id, request.event_type, request.txn_id, now_ms
    ):
        return False, []
    known = await to_device.devices(tx, sorted({one.user_id for one in messages}))
    addressed = [
        (one.user_id, device_id, inbox, one.event)
        for one in messages
        for device_id, inbox in _addressees(one, known.get(one.user_id, {}))
    ]
    numbers = await ids.many(len(addressed))
    await to_device.add(
        tx,
        [
            WaitingMessage(inbox, number, event)
            for number, (_, _, inbox, event) in zip(numbers, addressed, strict=True)
        ],
    )
    carried = sum(len(event) for _, _, _, event in addressed) <= MAX_CARRIED_BYTES
    return True, [
        (number, ToDeviceRow(user_id, device_id, message=event if carried else None))
        for number, (user_id, device_id, _, event) in zip(numbers, addressed, strict=True)
    ]


def _addressees(message: Message, known: Mapping[str, int]) -> Iterable[tuple[str, int]]:
    if message.device_id == EVERY_DEVICE:
        return known.items()
    inbox = known.get(message.device_id)
    return () if inbox is None else ((message.device_id, inbox),)


async def _upload(tx: Tx, ids: StreamIds, upload: KeyUpload) -> tuple[dict[str, int], Rows]:
    user_id, device_id = upload.user_id, upload.device_id
    if await devices.find(tx, user_id, device_id) is None:
        raise NotFound("You have no such device")
    changed = await store_keys(tx, upload)
    counts = await one_time_keys.counts(tx, user_id, device_id)
    rows = [(await ids.one(), ToDeviceRow(user_id, device_id, keys=True))] if changed else []
    return counts, rows


async def _claim(tx: Tx, ids: StreamIds, wishes: list[KeyWish]) -> tuple[list[GivenKey], Rows]:
    wanted = list(
        dict.fromkeys(Wanted(one.user_id, one.device_id, one.algorithm) for one in wishes)
    )
    claimed = await one_time_keys.claim(tx, wanted)
    found = {Wanted(one.user_id, one.device_id, one.algorithm) for one in claimed}
    for one in wanted:
        if one not in found:
            fallback = await one_time_keys.use_fallback(tx, one)
            if fallback is not None:
                claimed.append(fallback)
    touched = sorted({(one.user_id, one.device_id) for one in claimed})
    numbers = await ids.many(len(touched))
    rows = [
        (number, ToDeviceRow(user_id, device_id, keys=True))
        for number, (user_id, device_id) in zip(numbers, touched, strict=True)
    ]
    return [_given(one) for one in claimed], rows


def _given(key: ClaimedKey) -> GivenKey:
    return GivenKey(UserID(key.user_id), key.device_id, key.algorithm, key.key_id, key.content)


async def _forget(tx: Tx, ids: StreamIds, user_id: str, device_ids: list[str]) -> tuple[None, Rows]:
    await to_device.delete_closed(tx, user_id)
    await one_time_keys.delete(tx, user_id, device_ids)
    numbers = await ids.many(len(device_ids))
    return None, [
        (number, ToDeviceRow(user_id, device_id, keys=True, gone=True))
        for number, device_id in zip(numbers, device_ids, strict=True)
    ]
