"""One-time and fallback keys: uploaded, counted, and given out once.

Counts are kept in memory and dropped by the feed, so that /sync reads nothing to tell them.

Spec: client-server API, End-to-End Encryption, `/keys/upload` and `/keys/claim`.
"""

from collections.abc import Mapping
from typing import Any, Final, cast

import attrs
import orjson
import trio

from hs.core.canonical_json import JsonObject, for_keeping
from hs.core.errors import RemoteFault
from hs.core.ids import ServerName, UserID, parse_user_id, server_of
from hs.lib.caching.loading_cache import LoadingCache
from hs.lib.caching.lru_cache import LruCache
from hs.repl.feed import Batch, Feed
from hs.repl.rows import DeviceListRow, ToDeviceRow
from hs.repl.streams import DEVICE_LISTS, TO_DEVICE
from hs.services.devices.inbox_writer import InboxWriter
from hs.services.devices.key_objects import read_fallback_keys, read_one_time_keys
from hs.services.devices.one_time_key_storage import KeyUpload
from hs.services.devices.remote_devices import RemoteDevices
from hs.storage.database import Database, Tx
from hs.storage.devices import one_time_keys

MAX_DEVICES: Final = 100_000
# Clients take a missing count for no news; this one they must see run out.
ALWAYS_COUNTED: Final = "signed_curve25519"

_Key = tuple[UserID, str]


def read_upload(
    user_id: UserID, device_id: str, keys: JsonObject, fallback_keys: JsonObject
) -> KeyUpload:
    """Read what a device uploads. Raises: InvalidParam, BadJson."""
    return KeyUpload(
        user_id, device_id, read_one_time_keys(keys), read_fallback_keys(fallback_keys)
    )


def with_zero(counts: Mapping[str, int]) -> dict[str, int]:
    """Give counts as clients are told them."""
    return {ALWAYS_COUNTED: 0, **counts}


@attrs.frozen(eq=False)
class KeyCounts:
    """How many one-time keys a device has here, and its fallback keys not given out yet."""

    one_time_keys: Mapping[str, int]
    unused_fallbacks: tuple[str, ...]
    counts_json: bytes
    fallbacks_json: bytes


class OneTimeKeys:
    """The keys of all devices, and the way to those of other servers."""

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
        self._counts = LoadingCache(
            LruCache[_Key, KeyCounts]("key_counts", max_entries=MAX_DEVICES), self._read
        )
        feed.subscribe(TO_DEVICE, self._on_rows)
        # Keys that come together with those of their device are told of as a change of it.
        feed.subscribe(DEVICE_LISTS, self._on_changes)

    async def counts(self, user_id: UserID, device_id: str) -> KeyCounts:
        """Count a device's keys."""
        return await self._counts.get((user_id, device_id))

    async def upload(self, upload: KeyUpload) -> Mapping[str, int]:
        """Add keys; give how many wait for each algorithm.

        Raises: InvalidParam, NotFound.
        """
        if not upload.one_time_keys and not upload.fallback_keys:
            return (await self.counts(upload.user_id, upload.device_id)).one_time_keys
        return with_zero(await self._writer.upload(upload))

    async def claim(self, wanted: Mapping[str, dict[str, str]], timeout_ms: int) -> dict[str, Any]:
        """Give out one key for each device asked for: `one_time_keys` and `failures`.

        Raises: InvalidParam.
        """
        ours: dict[str, dict[str, str]] = {}
        by_server: dict[ServerName, dict[UserID, Mapping[str, str]]] = {}
        for text, devices in wanted.items():
            # Names of this server that nobody has need no look: they have no keys.
            if text[:1] == "@" and text.partition(":")[2] == self._server_name:
                ours[text] = devices
            else:
                user_id = parse_user_id(text)
                by_server.setdefault(server_of(user_id), {})[user_id] = devices
        answer = await self.claim_local(ours)
        failures: dict[str, Any] = {}
        if not by_server:
            return {"one_time_keys": answer, "failures": failures}
        async with trio.open_nursery() as nursery:
            for server, wishes in by_server.items():
                nursery.start_soon(
                    self._claim_remote, server, wishes, timeout_ms / 1000, answer, failures
                )
        return {"one_time_keys": answer, "failures": failures}

    async def claim_local(self, wanted: dict[str, dict[str, str]]) -> dict[str, Any]:
        """Give out keys of devices of ours."""
        given = await self._writer.claim(wanted) if any(wanted.values()) else {}
        return {
            user_id: {device_id: orjson.Fragment(key) for device_id, key in keys.items()}
            for user_id, keys in given.items()
        }

    async def _claim_remote(
        self,
        server: ServerName,
        wanted: Mapping[UserID, Mapping[str, str]],
        timeout_s: float,
        answer: dict[str, Any],
        failures: dict[str, Any],
    ) -> None:
        try:
            found = await self._remote.claim(server, wanted, timeout_s)
        except RemoteFault as fault:
            failures[server] = {"status": 503, "message": fault.message}
            return
        answer.update({user_id: found[user_id] for user_id in wanted if user_id in found})

    async def _read(self, key: _Key) -> KeyCounts:
        counts, unused = await self._database.read(_load_counts, *key)
        told = with_zero(counts)
        counts_json = for_keeping(orjson.dumps(told))
        unused_json = for_keeping(orjson.dumps(unused))
        return KeyCounts(told, tuple(unused), counts_json, unused_json)

    def _on_rows(self, batch: Batch[ToDeviceRow]) -> None:
        for _, row in batch.rows:
            if row.keys:
                self._counts.invalidate_many(cast(tuple[_Key, ...], row.devices))

    def _on_changes(self, batch: Batch[DeviceListRow]) -> None:
        for _, row in batch.rows:
            if row.device_id is not None:
                self._counts.invalidate((UserID(row.user_id), row.device_id))


async def _load_counts(tx: Tx, user_id: str, device_id: str) -> tuple[dict[str, int], list[str]]:
    counts = await one_time_keys.counts(tx, user_id, device_id)
    return counts, await one_time_keys.unused_fallbacks(tx, user_id, device_id)
