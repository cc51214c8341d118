"""The owner of what waits for devices: their messages, and the keys others claim.

All of it is announced on the stream `to_device`, in the same commit.
"""

from collections.abc import Iterable, Mapping, Sized
from typing import Final, NamedTuple, Protocol

import attrs
import trio

from hs.core.errors import NotFound
from hs.core.ids import UserID
from hs.lib.clock import Clock
from hs.repl.feed import Batch, Feed
from hs.repl.rows import ToDeviceRow
from hs.repl.rpc import rpc
from hs.repl.streams import TO_DEVICE
from hs.repl.writers import StreamIds, TableWriter
from hs.services.devices.addresses import DeviceAddresses, Inboxes
from hs.services.devices.key_storing import KeyUpload, store_keys
from hs.storage import devices, key_uploads, one_time_keys, to_device
from hs.storage.database import Tx
from hs.storage.one_time_keys import ClaimedKey, Wanted

EVERY_DEVICE: Final = "*"
MAX_CARRIED_BYTES: Final = 128 * 1024
"""Most of the messages of one request that are told together with the news of them."""

MIN_BUNDLED: Final = 10
"""Fewest messages of one request that lie together at first."""

FILE_AFTER_S: Final = 15.0
MANY_MESSAGES: Final = 10_000
"""So many new ones in bundles, and those of before are filed at once."""

MAX_UNFILED: Final = 2 * MANY_MESSAGES

Rows = list[tuple[int, ToDeviceRow]]
_Addressed = tuple[tuple[str, str], int, bytes]  # ((user, device), its inbox, event)


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
    async def claim(self, wishes: list[Wanted]) -> list[ClaimedKey]:
        """Give out one key for each wish, where there is one; no wish comes twice."""
        ...

    @rpc
    async def forget(self, user_id: UserID, device_ids: list[str]) -> None:
        """Drop all that waits for devices that are gone, after they are."""
        ...


class BundleFiler:
    """Puts messages to many devices under each of them, once they have waited; with the writer.

    Until then they lie together. A device that syncs has mostly got and acknowledged its message
    before, and those of others are put there in order of the devices, many at once.
    """

    def __init__(self, stream: TableWriter[ToDeviceRow], feed: Feed) -> None:
        self._stream = stream
        self._feed = feed
        self._old = 0  # to be filed next
        self._fresh = 0
        self._many = trio.Event()
        feed.subscribe(TO_DEVICE, self._on_rows)

    def waiting(self) -> int:
        """Give about how many messages lie together."""
        return self._old + self._fresh

    @property
    def has_room(self) -> bool:
        """Whether there may be more of them: devices that read look through all of those."""
        return self.waiting() < MAX_UNFILED

    async def run(self) -> None:
        """File every few seconds what was there the time before, until cancelled."""
        is_any = True  # what was left behind at the last stop
        while True:
            upto = self._feed.position(TO_DEVICE).most()
            self._old, self._fresh, self._many = self._fresh, 0, trio.Event()
            with trio.move_on_after(FILE_AFTER_S):
                await self._many.wait()
            if is_any or self._old:
                await self.file(upto)
            is_any = False

    async def file(self, upto: int) -> None:
        """File all messages with numbers up to `upto`. Raises: WriterStopped, DatabaseError."""
        while filed := await self._stream.write(_file, upto):
            self._old = max(0, self._old - filed)
        self._old = 0

    def _on_rows(self, batch: Batch[ToDeviceRow]) -> None:
        for _, row in batch.rows:
            if not row.keys and not row.gone and _is_bundle(row.devices, row.messages):
                self._fresh += len(row.devices)
        if self._fresh >= MANY_MESSAGES:
            self._many.set()


@attrs.frozen(eq=False)
class LocalInboxes:
    """The writer itself."""

    _stream: TableWriter[ToDeviceRow]
    _clock: Clock
    _filer: BundleFiler
    _addresses: DeviceAddresses = attrs.field(factory=DeviceAddresses)

    async def send(self, request: Request, messages: list[Message]) -> bool:
        """Leave messages for devices of ours, once."""
        known = self._addresses.known([one[:2] for one in messages])
        now_ms, may_bundle = self._clock.now_ms(), self._filer.has_room
        is_new, found = await self._stream.write(
            _send, request, messages, now_ms, may_bundle, known
        )
        self._addresses.learn(found)
        return is_new

    async def upload(self, upload: KeyUpload) -> dict[str, int]:
        """Add keys."""
        return await self._stream.write(_upload, upload)

    async def claim(self, wishes: list[Wanted]) -> list[ClaimedKey]:
        """Give out keys."""
        return await self._stream.write(_claim, wishes)

    async def forget(self, user_id: UserID, device_ids: list[str]) -> None:
        """Drop all that waits for devices."""
        await self._stream.write(_forget, user_id, device_ids)


def _is_bundle(devices: Sized, carried: Sized | None) -> bool:
    """Tell whether messages lie together, where there is room.

    Only those that are told to all processes: hardly anybody has to read them from there.
    """
    return carried is not None and len(devices) >= MIN_BUNDLED


async def _send(
    tx: Tx,
    ids: StreamIds,
    request: Request,
    messages: list[Message],
    now_ms: int,
    may_bundle: bool,
    known: Inboxes,
) -> tuple[tuple[bool, Mapping[str, Mapping[str, int]]], Rows]:
    if not await to_device.note_request(
        tx, request.sender, request.device_id, request.event_type, request.txn_id, now_ms
    ):
        return (False, {}), []
    if known and not await to_device.are_there(tx, known.values()):
        known = {}
    unknown = {one.user_id for one in messages if one[:2] not in known}
    found = await to_device.devices(tx, unknown) if unknown else {}
    rows: Rows = []
    addressed = _addressed(messages, known, found)
    while addressed:
        # A number stands for one message at most of each device.
        number = await ids.one()
        now, addressed = _one_each(addressed)
        events = tuple([event for _, _, event in now])
        carried = events if sum(map(len, events)) <= MAX_CARRIED_BYTES else None
        add = to_device.add_bundle if may_bundle and _is_bundle(now, carried) else to_device.add
        await add(tx, number, [(inbox, event) for _, inbox, event in now])
        rows.append((number, ToDeviceRow(tuple([device for device, _, _ in now]), carried)))
    return (True, found), rows


def _addressed(
    messages: list[Message], known: Inboxes, found: Mapping[str, Mapping[str, int]]
) -> list[_Addressed]:
    addressed: list[_Addressed] = []
    for message in messages:
        device, event = message[:2], message[2]
        inbox = known.get(device)
        if inbox is None:
            user_id, device_id = device
            inboxes = found.get(user_id, {})
            if device_id == EVERY_DEVICE:
                addressed += [((user_id, one), each, event) for one, each in inboxes.items()]
                continue
            inbox = inboxes.get(device_id)
        if inbox is not None:
            addressed.append((device, inbox, event))
    return addressed


def _one_each(addressed: list[_Addressed]) -> tuple[list[_Addressed], list[_Addressed]]:
    """Give the first message of each device, and what is left in its order."""
    if len({inbox for _, inbox, _ in addressed}) == len(addressed):
        return addressed, []
    seen: set[int] = set()
    first: list[_Addressed] = []
    left: list[_Addressed] = []
    for one in addressed:
        (left if one[1] in seen else first).append(one)
        seen.add(one[1])
    return first, left


async def _file(tx: Tx, ids: StreamIds, upto: int) -> tuple[int, Rows]:
    return await to_device.file_bundles(tx, upto), []


async def _upload(tx: Tx, ids: StreamIds, upload: KeyUpload) -> tuple[dict[str, int], Rows]:
    user_id, device_id = upload.user_id, upload.device_id
    known = await key_uploads.known(tx, user_id, device_id)
    if known is None:
        raise NotFound("You have no such device")
    counts = await store_keys(tx, upload, known)
    if counts is None:
        return known.counts, []
    return counts, await _keys_changed(ids, [(user_id, device_id)])


async def _claim(tx: Tx, ids: StreamIds, wishes: list[Wanted]) -> tuple[list[ClaimedKey], Rows]:
    claimed = await one_time_keys.claim(tx, wishes)
    if len(claimed) < len(wishes):
        found = {one[:3] for one in claimed}
        left = [one for one in wishes if one not in found]
        claimed += await one_time_keys.use_fallbacks(tx, left)
    return claimed, await _keys_changed(ids, [one[:2] for one in claimed])


async def _forget(tx: Tx, ids: StreamIds, user_id: str, device_ids: list[str]) -> tuple[None, Rows]:
    await to_device.delete_closed(tx, user_id)
    # One that is there was made anew meanwhile.
    await one_time_keys.delete(tx, user_id, await devices.gone_among(tx, user_id, device_ids))
    told = tuple((user_id, device_id) for device_id in device_ids)
    return None, [(await ids.one(), ToDeviceRow(told, keys=True, gone=True))] if told else []


async def _keys_changed(ids: StreamIds, touched: Iterable[tuple[str, str]]) -> Rows:
    changed = tuple(touched)
    return [(await ids.one(), ToDeviceRow(changed, keys=True))] if changed else []
