"""The writer of device inboxes: to-device messages, and the keys that others claim.

Rules:

- Every change is committed together with its row of the stream `to_device`.
- A request is recorded in the same transaction as its messages, so that a repeated request, also
  through another process or after a restart, stores nothing.
- Messages to other servers are stored in the same transaction, for the federation senders.
- All messages of a request that go to different devices have the same stream number. A request
  with several messages to one device (for example to "*" and to its ID) uses several numbers.
- A row carries the messages themselves up to MAX_CARRIED_BYTES; processes whose devices wait for
  messages then need not read them.
- Several writers share out the users (`sharded_inboxes`). They add no bundles, which hold messages
  to users of all of them; the first one unpacks those from before. They record a request by the
  slots of its users, of which another process may be the writer when the request is repeated. An
  only writer records it as a whole, and looks for slots that were recorded before it was alone.
- Messages to at least MIN_BUNDLED devices are stored in one row, a bundle, if they are carried:
  most devices receive and acknowledge them before anything must be read. `BundleUnpacker` moves
  the remaining ones into the inboxes later. The number of messages in bundles is limited, because
  a device that reads its inbox must scan them.
- Inboxes of recently used devices are cached; see `inbox_addresses` for why this is safe.
- Claimed keys are deleted. A claim is therefore shielded from cancellation, and if its second
  transaction fails it returns the keys of the first.
- `forget` deletes the contents of all closed inboxes of a user. It runs shielded, with cached
  inboxes of the user invalid.
"""

import logging
from collections.abc import Collection, Iterable, Mapping, Sized
from typing import Final, NamedTuple, Protocol

import attrs
import trio

from hs.core.errors import Unavailable
from hs.core.ids import UserID
from hs.core.streams import TO_DEVICE, ToDeviceRow
from hs.lib.clock import Clock
from hs.repl.feed import Batch, Feed
from hs.repl.rpc import rpc
from hs.repl.sharding import KeyGuard, unguarded
from hs.repl.slots.assignment import slot_of
from hs.repl.writers import StreamIds, TableWriter
from hs.services.devices import one_time_key_claims
from hs.services.devices.inbox_addresses import (
    EVERY_DEVICE,
    DeviceAddress,
    InboxAddressCache,
    InboxLookup,
)
from hs.services.devices.one_time_key_storage import KeyUpload, device_not_found
from hs.services.devices.remote_devices import OutgoingEdu
from hs.storage.database import ForeignKeyViolation, Tx
from hs.storage.devices import one_time_keys, to_device
from hs.storage.federation import outgoing_to_device

MAX_DELETED_AT_ONCE: Final = 500
"""Messages of deleted devices that one transaction deletes; others can write in between."""
MAX_CARRIED_BYTES: Final = 128 * 1024
"""Limit on the messages of a request that its stream row carries."""

MIN_BUNDLED: Final = 10
"""Least number of messages of a request that are stored as a bundle."""

UNPACK_AFTER_S: Final = 15.0
MANY_MESSAGES: Final = 10_000
"""This many new messages in bundles cause older bundles to be unpacked immediately."""

MAX_BUNDLED: Final = 2 * MANY_MESSAGES

log = logging.getLogger(__name__)

Rows = list[tuple[int, ToDeviceRow]]
_Addressed = tuple[DeviceAddress, int, bytes]  # (device, inbox, message)


@attrs.frozen
class ToDeviceRequest:
    """The identity of a request to send, by which a repetition is recognised."""

    sender: str
    device_id: str
    event_type: str
    txn_id: str


class InboxWriter(Protocol):
    """The writer of device inboxes: local, or the proxy of another process."""

    @rpc
    async def send(
        self,
        request: ToDeviceRequest,
        head: bytes,
        devices: list[DeviceAddress],
        messages: list[bytes],
        outgoing: tuple[OutgoingEdu, ...] = (),
    ) -> bool:
        """Store one message for each of `devices`; return False for a repeated request.

        `outgoing` are messages to devices of other servers, which are stored with the others.
        An event is JSON in one line: `head`, the message, "}"; or the message alone if `head` is
        empty. The device ID "*" means every device of the user. Unknown devices are ignored.
        """
        ...

    @rpc
    async def upload(self, upload: KeyUpload) -> dict[str, int]:
        """Store keys; return the count per algorithm. Raises: InvalidParam, NotFound."""
        ...

    @rpc
    async def claim(self, request: dict[str, dict[str, str]]) -> dict[str, dict[str, bytes]]:
        """Claim a key of each device for the requested algorithm.

        The result is by user and device; a key is a JSON object `{name: key}`. Devices without a
        key are missing from it.
        """
        ...

    @rpc
    async def claim_one_time(
        self, request: dict[str, dict[str, str]]
    ) -> dict[str, dict[str, bytes]]:
        """Claim a one-time key of each device, never the fallback key; see `claim`."""
        ...

    @rpc
    async def forget(self, user_id: UserID, device_ids: list[str]) -> None:
        """Delete the messages of deleted devices; call it after their deletion."""
        ...


class _Messages(NamedTuple):
    """The local messages of a request; with `may_bundle`, they can be stored as a bundle."""

    head: bytes
    devices: list[DeviceAddress]
    messages: list[bytes]
    lookup: InboxLookup
    may_bundle: bool

    def only(self, slots: Collection[int]) -> "_Messages":
        """Return the messages to users in some slots."""
        kept = [
            index for index, (user_id, _) in enumerate(self.devices) if slot_of(user_id) in slots
        ]
        inboxes = [self.lookup.inboxes[index] for index in kept]
        return self._replace(
            devices=[self.devices[index] for index in kept],
            messages=[self.messages[index] for index in kept],
            lookup=self.lookup._replace(inboxes=inboxes),
        )


class BundleUnpacker:
    """Moves messages from bundles to the inboxes of their devices, in the writer's process.

    This happens after UNPACK_AFTER_S. Devices that sync have mostly acknowledged their messages by
    then; the others are written in large batches, sorted by inbox.
    """

    def __init__(self, stream: TableWriter[ToDeviceRow], feed: Feed) -> None:
        self._stream = stream
        self._feed = feed
        self._old = 0  # messages in bundles that the next run unpacks
        self._recent = 0  # messages in newer bundles
        self._many = trio.Event()
        feed.subscribe(TO_DEVICE, self._on_rows)

    def waiting(self) -> int:
        """Return the approximate number of messages in bundles."""
        return self._old + self._recent

    @property
    def has_room(self) -> bool:
        """Whether another bundle can be added; every read of an inbox scans all bundles."""
        return self.waiting() < MAX_BUNDLED

    async def run(self) -> None:
        """Unpack, every few seconds, the bundles that existed at the previous run."""
        has_leftovers = True  # bundles may remain from before the process started
        while True:
            upto = self._feed.position(TO_DEVICE).most()
            self._old, self._recent, self._many = self._recent, 0, trio.Event()
            with trio.move_on_after(UNPACK_AFTER_S):
                await self._many.wait()
            if has_leftovers or self._old:
                await self.unpack(upto)
            has_leftovers = False

    async def unpack(self, upto: int) -> None:
        """Unpack all bundles with numbers up to `upto`. Raises: WriterStopped, DatabaseError."""
        while unpacked := await self._stream.write(_unpack, upto):
            self._old = max(0, self._old - unpacked)
        self._old = 0

    def _on_rows(self, batch: Batch[ToDeviceRow]) -> None:
        for _, row in batch.rows:
            if not row.keys and not row.gone and _is_bundle(row.devices, row.messages):
                self._recent += len(row.devices)
        if self._recent >= MANY_MESSAGES:
            self._many.set()


@attrs.frozen(eq=False)
class LocalInboxWriter:
    """The writer in a process that owns the stream or, with a guard, a share of the users.

    Such a share has no `filer`.
    """

    _stream: TableWriter[ToDeviceRow]
    _clock: Clock
    _filer: BundleUnpacker | None
    _guard: KeyGuard = unguarded
    _addresses: InboxAddressCache = attrs.field(factory=InboxAddressCache)

    async def send(
        self,
        request: ToDeviceRequest,
        head: bytes,
        devices: list[DeviceAddress],
        messages: list[bytes],
        outgoing: tuple[OutgoingEdu, ...] = (),
    ) -> bool:
        """Store messages, once per request."""
        addresses = self._addresses
        with self._guard(keys_of(request, devices, outgoing)):
            lookup = addresses.lookup(devices)
            may_bundle = self._filer is not None and self._filer.has_room
            local = _Messages(head, devices, messages, lookup, may_bundle)
            is_alone = self._guard is unguarded
            record = to_device.record_request if is_alone else to_device.record_parts
            is_new, user_devices = await self._stream.write(
                _send, record, request, local, outgoing, self._clock.now_ms(), addresses
            )
            addresses.store(user_devices, lookup)
        return is_new

    def drop_addresses(self) -> None:
        """Forget the inboxes of devices, because those of some users passed to another writer."""
        self._addresses.clear()

    async def upload(self, upload: KeyUpload) -> dict[str, int]:
        """Store keys."""
        with self._guard((upload.user_id,)):
            try:
                return await self._stream.write(one_time_key_claims.upload, upload)
            except ForeignKeyViolation as error:
                raise device_not_found() from error

    async def claim(self, request: dict[str, dict[str, str]]) -> dict[str, dict[str, bytes]]:
        """Claim keys of devices, one-time keys if there are any."""
        return await self._claim(request, one_time_key_claims.claim)

    async def claim_one_time(
        self, request: dict[str, dict[str, str]]
    ) -> dict[str, dict[str, bytes]]:
        """Claim one-time keys of devices, but no fallback keys."""
        return await self._claim(request, one_time_key_claims.claim_one_time)

    async def _claim(
        self, request: dict[str, dict[str, str]], claim: one_time_key_claims.Claim
    ) -> dict[str, dict[str, bytes]]:
        """Claim keys, first those of devices with cached inboxes in one statement."""
        # Shielded, because claimed keys that do not reach the client are lost.
        with self._guard(request), trio.CancelScope(shield=True):
            claimed = await self._claim_cached(request)
            remaining = one_time_key_claims.unclaimed(request, claimed)
            try:
                others, claimable = (
                    await self._stream.write(claim, remaining) if remaining else ({}, {})
                )
            except Unavailable as error:
                if not claimed:
                    raise
                log.warning("claim of one-time keys incomplete: %s", error)
                return claimed
        self._addresses.store_claimable(claimable)
        for user_id, keys in others.items():
            claimed.setdefault(user_id, {}).update(keys)
        return claimed

    async def _claim_cached(
        self, request: one_time_key_claims.ClaimRequest
    ) -> one_time_key_claims.ClaimedKeys:
        algorithm, devices = self._addresses.claimable(request)
        if not devices:
            return {}
        late = await self._stream.write(one_time_key_claims.claim_known, algorithm, devices)
        keys = one_time_keys.read_claimed(late.rows)
        if len(keys) < len(devices):
            exhausted = devices.keys() - {inbox for inbox, _ in keys}
            self._addresses.drop_claimable([(*devices[inbox], algorithm) for inbox in exhausted])
        return one_time_key_claims.by_device(devices, keys)

    async def forget(self, user_id: UserID, device_ids: list[str]) -> None:
        """Delete the messages of deleted devices."""
        # Shielded: cached inboxes must stay invalid until the transaction has ended either way.
        with (
            self._guard((user_id,)),
            self._addresses.invalidating(user_id),
            trio.CancelScope(shield=True),
        ):
            while not await self._stream.write(_forget, user_id, device_ids):
                pass


def keys_of(
    request: ToDeviceRequest, devices: Iterable[DeviceAddress], outgoing: Sized
) -> set[str]:
    """Return the users by whom the writers of a request are chosen.

    The writer of the sender stores messages to other servers, and records an empty request.
    """
    users = {user_id for user_id, _ in devices}
    return users | {request.sender} if outgoing or not users else users


def _is_bundle(devices: Sized, carried: Sized | None) -> bool:
    """Return whether messages are stored as a bundle, if there is room.

    Only carried messages are: processes rarely have to read those from the database.
    """
    return carried is not None and len(devices) >= MIN_BUNDLED


async def _send(
    tx: Tx,
    ids: StreamIds,
    record: to_device.Record,
    request: ToDeviceRequest,
    local: _Messages,
    outgoing: tuple[OutgoingEdu, ...],
    now_ms: int,
    addresses: InboxAddressCache,
) -> tuple[tuple[bool, Mapping[str, Mapping[str, int]]], Rows]:
    """Store the messages to users in whose slots nothing of the request was stored before."""
    slots = {slot_of(key) for key in keys_of(request, local.devices, outgoing)}
    identity = (request.sender, request.device_id, request.event_type, request.txn_id)
    new = await record(tx, identity, slots, now_ms)
    if not new:
        return (False, {}), []
    if new != slots:
        local = local.only(new)
        if slot_of(request.sender) not in new:
            outgoing = ()
    return await _store(tx, ids, local, outgoing, now_ms, addresses)


async def _store(
    tx: Tx,
    ids: StreamIds,
    local: _Messages,
    outgoing: tuple[OutgoingEdu, ...],
    now_ms: int,
    addresses: InboxAddressCache,
) -> tuple[tuple[bool, Mapping[str, Mapping[str, int]]], Rows]:
    if outgoing:
        await outgoing_to_device.insert(tx, outgoing, now_ms)
    cached = local.lookup.inboxes
    inboxes = [inbox for inbox in cached if inbox is not None]
    if inboxes and not await _are_valid(tx, inboxes, local.lookup, addresses):
        inboxes, cached = [], [None] * len(cached)
    if inboxes and len(set(inboxes)) == len(cached):
        # The usual case: all inboxes are cached, one message for each.
        row = await _add(tx, ids, local, tuple(local.devices), inboxes, local.messages)
        return (True, {}), [row]
    users_to_read = {
        user_id for (user_id, _), inbox in zip(local.devices, cached, strict=True) if inbox is None
    }
    user_devices = await to_device.inboxes_of_users(tx, users_to_read) if users_to_read else {}
    rows: Rows = []
    remaining = _addressed(local, cached, user_devices)
    while remaining:
        batch, remaining = _split_off_one_each(remaining)
        devices = tuple([device for device, _, _ in batch])
        inboxes = [inbox for _, inbox, _ in batch]
        messages = [message for _, _, message in batch]
        rows.append(await _add(tx, ids, local, devices, inboxes, messages))
    return (True, user_devices), rows


async def _are_valid(
    tx: Tx, inboxes: list[int], lookup: InboxLookup, addresses: InboxAddressCache
) -> bool:
    """Return whether cached inboxes are still valid: see `inbox_addresses`."""
    # The generation is checked first: inboxes that are removed from the closed ones after this
    # transaction's read of that table are removed by a later transaction of this writer.
    if addresses.is_current(lookup) and not await to_device.has_closed_inboxes(tx):
        return True
    return await to_device.all_exist(tx, inboxes)


async def _add(
    tx: Tx,
    ids: StreamIds,
    outgoing: _Messages,
    devices: tuple[DeviceAddress, ...],
    inboxes: list[int],
    messages: list[bytes],
) -> tuple[int, ToDeviceRow]:
    """Store one message for each device, all with the same stream number."""
    number, head = await ids.next_id(), outgoing.head
    size_bytes = sum(map(len, messages)) + len(head) * len(messages)
    carried = tuple(messages) if size_bytes <= MAX_CARRIED_BYTES else None
    if outgoing.may_bundle and _is_bundle(devices, carried):
        await to_device.add_bundle(tx, number, inboxes, head, messages)
    else:
        events = [to_device.assemble_event(head, message) for message in messages]
        await to_device.add_messages(tx, number, inboxes, events)
    return number, ToDeviceRow(devices, carried, head=head)


def _addressed(
    outgoing: _Messages,
    cached: list[int | None],
    user_devices: Mapping[str, Mapping[str, int]],
) -> list[_Addressed]:
    """Return each message with the inbox of its device; "*" is expanded to all devices."""
    addressed: list[_Addressed] = []
    for device, message, inbox in zip(outgoing.devices, outgoing.messages, cached, strict=True):
        if inbox is None:
            user_id, device_id = device
            inboxes = user_devices.get(user_id, {})
            if device_id == EVERY_DEVICE:
                addressed += [
                    ((user_id, name), number, message) for name, number in inboxes.items()
                ]
                continue
            inbox = inboxes.get(device_id)
        if inbox is not None:
            addressed.append((device, inbox, message))
    return addressed


def _split_off_one_each(
    addressed: list[_Addressed],
) -> tuple[list[_Addressed], list[_Addressed]]:
    """Return the first message of each device, and the remaining messages in order."""
    if len({inbox for _, inbox, _ in addressed}) == len(addressed):
        return addressed, []
    seen: set[int] = set()
    first: list[_Addressed] = []
    remaining: list[_Addressed] = []
    for entry in addressed:
        _, inbox, _ = entry
        (remaining if inbox in seen else first).append(entry)
        seen.add(inbox)
    return first, remaining


async def _unpack(tx: Tx, ids: StreamIds, upto: int) -> tuple[int, Rows]:
    return await to_device.file_bundles(tx, upto), []


async def _forget(tx: Tx, ids: StreamIds, user_id: str, device_ids: list[str]) -> tuple[bool, Rows]:
    """Delete messages; return whether all are deleted, so that this need not be repeated."""
    if not await to_device.delete_messages_of_deleted_devices(tx, user_id, MAX_DELETED_AT_ONCE):
        return False, []
    if not device_ids:
        return True, []
    devices = tuple((user_id, device_id) for device_id in device_ids)
    return True, [(await ids.next_id(), ToDeviceRow(devices, keys=True, gone=True))]
