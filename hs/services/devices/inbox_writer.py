"""The owner of what waits for devices: their messages, and the keys others claim.

All of it is announced on the stream `to_device`, in the same commit.
"""

import logging
from collections.abc import Mapping, Sized
from typing import Final, NamedTuple, Protocol

import attrs
import trio

from hs.core.errors import Unavailable
from hs.core.ids import UserID
from hs.lib.clock import Clock
from hs.repl.feed import Batch, Feed
from hs.repl.rows import ToDeviceRow
from hs.repl.rpc import rpc
from hs.repl.streams import TO_DEVICE
from hs.repl.writers import StreamIds, TableWriter
from hs.services.devices import one_time_key_claims
from hs.services.devices.inbox_addresses import EVERY_DEVICE, Device, DeviceAddresses, Known
from hs.services.devices.one_time_key_storage import KeyUpload, no_such_device
from hs.storage.database import ForeignViolation, Tx
from hs.storage.devices import one_time_keys, to_device

MAX_CARRIED_BYTES: Final = 128 * 1024
"""Most of the messages of one request that are told together with the news of them."""

MIN_BUNDLED: Final = 10
"""Fewest messages of one request that lie together at first."""

FILE_AFTER_S: Final = 15.0
MANY_MESSAGES: Final = 10_000
"""So many new ones in bundles, and those of before are filed at once."""

MAX_UNFILED: Final = 2 * MANY_MESSAGES

log = logging.getLogger(__name__)

Rows = list[tuple[int, ToDeviceRow]]
_Addressed = tuple[Device, int, bytes]  # (device, its inbox, message)


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
    async def send(
        self, request: Request, head: bytes, devices: list[Device], messages: list[bytes]
    ) -> bool:
        """Leave messages, each for one of the devices of ours; False: this was done before.

        An event is JSON in one line: `head`, the message, "}"; without a head the message alone.
        A device ID of "*" is every device of the user; devices that are not there are left out.
        """
        ...

    @rpc
    async def upload(self, upload: KeyUpload) -> dict[str, int]:
        """Add keys; give how many wait for each algorithm. Raises: InvalidParam, NotFound."""
        ...

    @rpc
    async def claim(self, wishes: dict[str, dict[str, str]]) -> dict[str, dict[str, bytes]]:
        """Give out one key of each device, where there is one, for the algorithm that is wished.

        By user and device; a key is an object in JSON of the key by its name.
        """
        ...

    @rpc
    async def forget(self, user_id: UserID, device_ids: list[str]) -> None:
        """Drop all that waits for devices that are gone, after they are."""
        ...


class _Letters(NamedTuple):
    """What one request sends; `may_bundle`: its messages may lie together at first."""

    head: bytes
    devices: list[Device]
    messages: list[bytes]
    known: Known
    may_bundle: bool


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

    async def send(
        self, request: Request, head: bytes, devices: list[Device], messages: list[bytes]
    ) -> bool:
        """Leave messages for devices of ours, once."""
        addresses = self._addresses
        known = addresses.known(devices)
        letters = _Letters(head, devices, messages, known, self._filer.has_room)
        is_new, found = await self._stream.write(
            _send, request, letters, self._clock.now_ms(), addresses
        )
        addresses.learn(found, known)
        return is_new

    async def upload(self, upload: KeyUpload) -> dict[str, int]:
        """Add keys."""
        try:
            return await self._stream.write(one_time_key_claims.upload, upload)
        except ForeignViolation as error:
            raise no_such_device() from error

    async def claim(self, wishes: dict[str, dict[str, str]]) -> dict[str, dict[str, bytes]]:
        """Give out keys: first those of devices that gave one before, by one statement."""
        # Keys that are taken are gone if nobody gets them.
        with trio.CancelScope(shield=True):
            given = await self._claim_known(wishes)
            left = one_time_key_claims.left_of(wishes, given)
            try:
                more, givers = (
                    await self._stream.write(one_time_key_claims.claim, left) if left else ({}, {})
                )
            except Unavailable:
                if not given:
                    raise
                log.warning("some keys could not be claimed", exc_info=True)
                return given
        self._addresses.learn_givers(givers)
        for user_id, keys in more.items():
            given.setdefault(user_id, {}).update(keys)
        return given

    async def _claim_known(self, wishes: one_time_key_claims.Wishes) -> one_time_key_claims.Keys:
        algorithm, devices = self._addresses.givers(wishes)
        if not devices:
            return {}
        late = await self._stream.write(one_time_key_claims.claim_known, algorithm, devices)
        keys = one_time_keys.claimed(late.rows)
        if len(keys) < len(devices):
            spent = devices.keys() - {inbox for inbox, _ in keys}
            self._addresses.forget_givers([(*devices[one], algorithm) for one in spent])
        return one_time_key_claims.by_device(devices, keys)

    async def forget(self, user_id: UserID, device_ids: list[str]) -> None:
        """Drop all that waits for devices."""
        # Until it is done, or certainly not: whoever is not waited for may still be written.
        with self._addresses.forgetting(user_id), trio.CancelScope(shield=True):
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
    letters: _Letters,
    now_ms: int,
    addresses: DeviceAddresses,
) -> tuple[tuple[bool, Mapping[str, Mapping[str, int]]], Rows]:
    if not await to_device.note_request(
        tx, request.sender, request.device_id, request.event_type, request.txn_id, now_ms
    ):
        return (False, {}), []
    known = letters.known.inboxes
    inboxes = [one for one in known if one is not None]
    if inboxes and not await _are_right(tx, inboxes, letters.known, addresses):
        inboxes, known = [], [None] * len(known)
    if inboxes and len(set(inboxes)) == len(known):
        row = await _add(tx, ids, letters, tuple(letters.devices), inboxes, letters.messages)
        return (True, {}), [row]
    unknown = {one[0] for one, inbox in zip(letters.devices, known, strict=True) if inbox is None}
    found = await to_device.devices(tx, unknown) if unknown else {}
    rows: Rows = []
    addressed = _addressed(letters, known, found)
    while addressed:
        now, addressed = _one_each(addressed)
        devices = tuple([device for device, _, _ in now])
        inboxes = [inbox for _, inbox, _ in now]
        messages = [message for _, _, message in now]
        rows.append(await _add(tx, ids, letters, devices, inboxes, messages))
    return (True, found), rows


async def _are_right(tx: Tx, inboxes: list[int], known: Known, addresses: DeviceAddresses) -> bool:
    """Tell whether what was remembered is still so: see `DeviceAddresses`."""
    # What is taken from the closed ones after this look at them is taken after this unit.
    if addresses.is_certain(known) and not await to_device.are_any_closed(tx):
        return True
    return await to_device.are_there(tx, inboxes)


async def _add(
    tx: Tx,
    ids: StreamIds,
    letters: _Letters,
    devices: tuple[Device, ...],
    inboxes: list[int],
    messages: list[bytes],
) -> tuple[int, ToDeviceRow]:
    """Add one message for each device, all under one number."""
    number, head = await ids.one(), letters.head
    size_bytes = sum(map(len, messages)) + len(head) * len(messages)
    carried = tuple(messages) if size_bytes <= MAX_CARRIED_BYTES else None
    if letters.may_bundle and _is_bundle(devices, carried):
        await to_device.add_bundle(tx, number, inboxes, head, messages)
    else:
        events = [to_device.whole(head, message) for message in messages]
        await to_device.add(tx, number, inboxes, events)
    return number, ToDeviceRow(devices, carried, head=head)


def _addressed(
    letters: _Letters, known: list[int | None], found: Mapping[str, Mapping[str, int]]
) -> list[_Addressed]:
    addressed: list[_Addressed] = []
    for device, message, inbox in zip(letters.devices, letters.messages, known, strict=True):
        if inbox is None:
            user_id, device_id = device
            inboxes = found.get(user_id, {})
            if device_id == EVERY_DEVICE:
                addressed += [((user_id, one), each, message) for one, each in inboxes.items()]
                continue
            inbox = inboxes.get(device_id)
        if inbox is not None:
            addressed.append((device, inbox, message))
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


async def _forget(tx: Tx, ids: StreamIds, user_id: str, device_ids: list[str]) -> tuple[None, Rows]:
    await to_device.delete_closed(tx, user_id)
    told = tuple((user_id, device_id) for device_id in device_ids)
    # Told even if it is of no device, so that nobody does it who is not the writer any more.
    return None, [(await ids.one(), ToDeviceRow(told, keys=True, gone=True))]
