"""The writer of device lists of users of other servers.

Rules:

- A list is kept from the first query of a client on, while its user shares a room with a user of
  this server, because only then does the user's server send updates. Clients are told of updates of
  such a user also before there is a list: they may know the keys from before.
- All changes of lists of one server are transactions of one process, one after the other, and are
  committed together with the row that tells clients of them. Several owners of the stream
  `device_lists` share out the servers.
- A list that is not complete is stale. Queries then ask the user's server, and `DeviceListFetching`
  fetches the list. Every further update of a stale list increases its mark, and what was fetched
  completes the list only if the mark is still that of the beginning of the fetch: an update that
  came meanwhile may not be included.
- An update applies if the list includes all updates that it names as its predecessors; else the
  list becomes stale. So do lists with updates that arrive late, because nothing says which of two
  updates of a device came first.

Spec: server-server API, Device Management.
"""

from collections.abc import Callable
from typing import Final, Protocol

import attrs

from hs.core.ids import ServerName, UserID
from hs.core.streams import DeviceListRow
from hs.lib.clock import Clock
from hs.repl.rpc import rpc
from hs.repl.writers import StreamIds, TableWriter
from hs.services.devices.device_list_writer import change_rows
from hs.services.federation.users.fetched_keys import MAX_DEVICES, DeviceUpdate, FetchedKeys
from hs.storage.database import Tx
from hs.storage.federation import remote_devices
from hs.storage.federation.remote_devices import RemoteKeys, RemoteListRecord

FIRST_FETCH_MS: Final = 60_000
"""Time for the request of a client to fetch a new list before it is fetched in the background."""

FETCH_AGAIN_MS: Final = 10_000
"""Time until a list is fetched again that changed while it was fetched."""

Rows = list[tuple[int, DeviceListRow]]


class RemoteDeviceListWriter(Protocol):
    """The writer of remote device lists: local, or the proxy of another process."""

    @rpc
    async def track(self, server: ServerName, user_ids: list[UserID]) -> dict[UserID, int]:
        """Begin to keep the lists of those users who share a room with a user of this server.

        Return the marks of new lists. The caller fetches these now.
        """
        ...

    @rpc
    async def store(
        self, server: ServerName, fetched: list[FetchedKeys], marks: dict[UserID, int]
    ) -> None:
        """Store lists that were fetched since they had these marks."""
        ...

    @rpc
    async def update_device(self, server: ServerName, update: DeviceUpdate) -> None:
        """Apply an update of a device, or only announce it if the user's list is not kept."""
        ...

    @rpc
    async def update_signing_keys(
        self, server: ServerName, user_id: UserID, keys: dict[str, bytes]
    ) -> None:
        """Replace cross-signing keys, by usage, or only announce it if the list is not kept."""
        ...


@attrs.frozen(eq=False)
class LocalRemoteDeviceListWriter:
    """The writer in the owner of the lists of a server; `on_stale` is called for stale lists."""

    _stream: TableWriter[DeviceListRow]
    _clock: Clock
    _server_name: ServerName
    _on_stale: Callable[[], None]

    async def track(self, server: ServerName, user_ids: list[UserID]) -> dict[UserID, int]:
        """Begin to keep lists."""
        fetch_ms = self._clock.now_ms() + FIRST_FETCH_MS
        return await self._stream.write(_track, user_ids, self._server_name, fetch_ms)

    async def store(
        self, server: ServerName, fetched: list[FetchedKeys], marks: dict[UserID, int]
    ) -> None:
        """Store fetched lists."""
        now_ms = self._clock.now_ms()
        for keys in fetched:
            await self._stream.write(_store, keys, marks[keys.user_id], now_ms)

    async def update_device(self, server: ServerName, update: DeviceUpdate) -> None:
        """Apply an update of a device."""
        now_ms = self._clock.now_ms()
        if await self._stream.write(_update_device, update, self._server_name, now_ms):
            self._on_stale()

    async def update_signing_keys(
        self, server: ServerName, user_id: UserID, keys: dict[str, bytes]
    ) -> None:
        """Replace cross-signing keys."""
        now_ms = self._clock.now_ms()
        update = _SigningKeyUpdate(user_id, keys)
        if await self._stream.write(_update_signing_keys, update, self._server_name, now_ms):
            self._on_stale()


@attrs.frozen
class _SigningKeyUpdate:
    user_id: UserID
    keys: dict[str, bytes]


async def _track(
    tx: Tx, ids: StreamIds, user_ids: list[UserID], server_name: ServerName, fetch_ms: int
) -> tuple[dict[UserID, int], Rows]:
    known = await remote_devices.find_lists(tx, user_ids)
    unknown = [user_id for user_id in user_ids if user_id not in known]
    sharing = await remote_devices.users_sharing(tx, unknown, server_name)
    await remote_devices.add_lists(tx, sharing, fetch_ms)
    return {UserID(user_id): remote_devices.FIRST_MARK for user_id in sharing}, []


async def _store(
    tx: Tx, ids: StreamIds, fetched: FetchedKeys, mark: int, now_ms: int
) -> tuple[None, Rows]:
    user_id = fetched.user_id
    record = await _find(tx, user_id)
    if record is None:
        return None, []
    keys = RemoteKeys(fetched.devices, fetched.cross_signing)
    stored = (await remote_devices.load_keys(tx, [user_id]))[user_id]
    fetch_ms = now_ms + FETCH_AGAIN_MS
    await remote_devices.set_fetched(tx, user_id, fetched.stream_id, mark, fetch_ms)
    if keys == stored:
        return None, []
    await remote_devices.replace_keys(tx, user_id, keys)
    is_first = record.stream_id is None and not stored.devices and not stored.cross_signing
    if is_first and not record.failures:
        # The clients that asked get the keys in the response, and no other client has asked.
        return None, []
    return None, await change_rows(tx, ids, user_id, [None], now_ms)


async def _update_device(
    tx: Tx, ids: StreamIds, update: DeviceUpdate, server_name: ServerName, now_ms: int
) -> tuple[bool, Rows]:
    """Apply an update; return whether the list is stale now."""
    user_id, device_id = update.user_id, update.device_id
    record = await _find(tx, user_id)
    if record is None:
        sharing = await remote_devices.users_sharing(tx, [user_id], server_name)
        return False, await change_rows(tx, ids, user_id, [device_id], now_ms) if sharing else []
    if not record.is_stale and update.stream_id == record.stream_id:
        return False, []  # the update was received before
    devices = (await remote_devices.load_keys(tx, [user_id]))[user_id].devices
    is_too_much = len(devices) >= MAX_DEVICES and device_id not in devices
    if record.is_stale or is_too_much or not _follows(record, update):
        await remote_devices.mark_stale(tx, user_id, now_ms)
        return True, []
    await remote_devices.advance(tx, user_id, update.stream_id)
    if update.keys == devices.get(device_id):
        return False, []
    if update.keys is None:
        await remote_devices.delete_device(tx, user_id, device_id)
    else:
        await remote_devices.put_device(tx, user_id, device_id, update.keys)
    return False, await change_rows(tx, ids, user_id, [device_id], now_ms)


def _follows(record: RemoteListRecord, update: DeviceUpdate) -> bool:
    """Return whether a list includes all predecessors of an update that is newer than it."""
    known = record.stream_id
    if known is None or not update.prev_ids:
        return False
    return max(update.prev_ids) <= known < update.stream_id


async def _update_signing_keys(
    tx: Tx, ids: StreamIds, update: _SigningKeyUpdate, server_name: ServerName, now_ms: int
) -> tuple[bool, Rows]:
    """Replace cross-signing keys; return whether the list is stale now."""
    user_id, keys = update.user_id, update.keys
    record = await _find(tx, user_id)
    if record is None:
        sharing = await remote_devices.users_sharing(tx, [user_id], server_name)
        return False, await change_rows(tx, ids, user_id, [None], now_ms) if sharing else []
    if record.is_stale:
        await remote_devices.mark_stale(tx, user_id, now_ms)
        return True, []
    stored = (await remote_devices.load_keys(tx, [user_id]))[user_id].cross_signing
    if stored.items() >= keys.items():
        return False, []
    await remote_devices.put_cross_signing(tx, user_id, keys)
    return False, await change_rows(tx, ids, user_id, [None], now_ms)


async def _find(tx: Tx, user_id: UserID) -> RemoteListRecord | None:
    return (await remote_devices.find_lists(tx, [user_id])).get(user_id)
