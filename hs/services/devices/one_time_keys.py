"""One-time and fallback keys: uploads, counts, and claims, which return each key once.

Rules:

- Uploads and claims go to the owner of the stream `to_device`, which announces the devices whose
  keys changed. Keys that are uploaded together with a device's identity keys are stored and
  announced by the owner of `device_lists`.
- Counts are cached in every process, so that /sync needs no database reads. Both streams invalidate
  them; a count that was being read when the row arrived is not cached.
- Devices of application services without a one-time key give one that their service is asked for,
  or else their fallback key.
- A claim that fails after the owner's commit loses the keys: they are deleted, not returned later.

Spec: client-server API, End-to-End Encryption, `/keys/upload` and `/keys/claim`.
"""

import logging
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final, cast

import attrs
import orjson

from hs.core.canonical_json import JsonObject, shrink_to_fit
from hs.core.errors import RemoteFault, Unavailable
from hs.core.ids import ServerName, UserID, parse_user_id, server_of
from hs.core.streams import DEVICE_LISTS, TO_DEVICE, DeviceListRow, ToDeviceRow
from hs.lib.caching.loading_cache import LoadingCache
from hs.lib.caching.lru_cache import LruCache
from hs.lib.time_slice import TimeSlice
from hs.repl.feed import Batch, Feed
from hs.services.devices.appservice_keys import AppserviceKeys, NoAppserviceKeys
from hs.services.devices.inbox_writer import InboxWriter
from hs.services.devices.key_objects import parse_fallback_keys, parse_one_time_keys
from hs.services.devices.one_time_key_claims import ClaimedKeys, unclaimed
from hs.services.devices.one_time_key_storage import KeyUpload
from hs.services.devices.remote_devices import AnswerBudget, RemoteDevices, ask_servers
from hs.storage.database import Database, Tx
from hs.storage.devices import one_time_keys

MAX_DEVICES: Final = 100_000
MAX_CLAIMED_AT_ONCE: Final = 500
# Clients ignore missing counts, but they must notice when this algorithm has no keys left.
REQUIRED_COUNT: Final = "signed_curve25519"

_Key = tuple[UserID, str]

log = logging.getLogger(__name__)


def parse_key_upload(
    user_id: UserID, device_id: str, keys: JsonObject, fallback_keys: JsonObject
) -> KeyUpload:
    """Parse an upload of one-time and fallback keys. Raises: InvalidParam, BadJson."""
    return KeyUpload(
        user_id, device_id, parse_one_time_keys(keys), parse_fallback_keys(fallback_keys)
    )


def with_required_count(counts: Mapping[str, int]) -> dict[str, int]:
    """Return counts with an explicit zero for the algorithm that clients must see."""
    return {REQUIRED_COUNT: 0, **counts}


def _parts(requested: Mapping[str, Mapping[str, str]]) -> Iterator[dict[str, dict[str, str]]]:
    """Divide a claim, so that the writer's transaction for each part is short."""
    devices = (
        (user_id, device_id, algorithm)
        for user_id, algorithms in requested.items()
        for device_id, algorithm in algorithms.items()
    )
    while group := list(islice(devices, MAX_CLAIMED_AT_ONCE)):
        part: dict[str, dict[str, str]] = {}
        for user_id, device_id, algorithm in group:
            part.setdefault(user_id, {})[device_id] = algorithm
        yield part


def _add_claimed(answer: dict[str, Any], claimed: ClaimedKeys) -> None:
    for user_id, keys in claimed.items():
        rendered = {device_id: orjson.Fragment(key) for device_id, key in keys.items()}
        answer.setdefault(user_id, {}).update(rendered)


@attrs.frozen(eq=False)
class KeyCounts:
    """The numbers of a device's one-time keys, its unused fallback keys, and the JSON of both."""

    one_time_keys: Mapping[str, int]
    unused_fallbacks: tuple[str, ...]
    counts_json: bytes
    fallbacks_json: bytes


class OneTimeKeys:
    """The one-time and fallback keys of local and remote devices."""

    def __init__(
        self,
        database: Database,
        feed: Feed,
        writer: InboxWriter,
        remote: RemoteDevices,
        server_name: ServerName,
        *,
        services: AppserviceKeys | None = None,
    ) -> None:
        self._database = database
        self._writer = writer
        self._remote = remote
        self._server_name = server_name
        self._services = services or NoAppserviceKeys()
        self._counts = LoadingCache(
            LruCache[_Key, KeyCounts]("key_counts", max_entries=MAX_DEVICES), self._read
        )
        feed.subscribe(TO_DEVICE, self._on_rows)
        # Keys that were uploaded together with identity keys are announced as a device change.
        feed.subscribe(DEVICE_LISTS, self._on_changes)

    async def counts(self, user_id: UserID, device_id: str) -> KeyCounts:
        """Return the counts of a device's keys."""
        return await self._counts.get((user_id, device_id))

    async def upload(self, upload: KeyUpload) -> Mapping[str, int]:
        """Store keys; return the number of one-time keys per algorithm.

        Raises: InvalidParam, NotFound.
        """
        if not upload.one_time_keys and not upload.fallback_keys:
            # From the database: another process may have given keys away just before.
            return (await self._read((upload.user_id, upload.device_id))).one_time_keys
        return with_required_count(await self._writer.upload(upload))

    async def claim(
        self, requested: Mapping[str, dict[str, str]], timeout_ms: int
    ) -> dict[str, Any]:
        """Claim a key of each requested device; return `one_time_keys` and `failures`.

        Raises: InvalidParam.
        """
        local: dict[str, dict[str, str]] = {}
        by_server: dict[ServerName, dict[UserID, Mapping[str, str]]] = {}
        time_slice = TimeSlice()
        for text, devices in requested.items():
            await time_slice.yield_if_over()
            # Local user IDs need no validation: invalid ones have no keys.
            if text[:1] == "@" and text.partition(":")[2] == self._server_name:
                local[text] = devices
            else:
                user_id = parse_user_id(text)
                by_server.setdefault(server_of(user_id), {})[user_id] = devices
        answer = await self.claim_local(local)
        failures: dict[str, Any] = {}
        if not by_server:
            return {"one_time_keys": answer, "failures": failures}

        budget = AnswerBudget()

        async def claim_from(server: ServerName) -> None:
            users = by_server[server]
            try:
                await self._claim_remote(server, users, timeout_ms / 1000, answer, budget)
            except RemoteFault as fault:
                failures[server] = {"status": 503, "message": fault.message}

        await ask_servers(by_server, claim_from)
        return {"one_time_keys": answer, "failures": failures}

    async def claim_local(self, requested: dict[str, dict[str, str]]) -> dict[str, Any]:
        """Claim keys of local devices."""
        answer: dict[str, Any] = {}
        of_services = self._services.users_to_claim_from(requested.keys())
        if of_services:
            asked = {user_id: requested[user_id] for user_id in of_services}
            _add_claimed(answer, await self._writer.claim_one_time(asked))
            found = await self._services.claim(unclaimed(asked, answer))
            for user_id, keys in found.items():
                answer.setdefault(user_id, {}).update(keys)
            others = {key: requested[key] for key in requested.keys() - of_services}
            requested = {**others, **unclaimed(asked, answer)}
        for part in _parts(requested):
            try:
                _add_claimed(answer, await self._writer.claim(part))
            except Unavailable as error:
                if not answer:
                    raise
                log.warning("claim of one-time keys incomplete: %s", error)
                break
        return answer

    async def _claim_remote(
        self,
        server: ServerName,
        requested: Mapping[UserID, Mapping[str, str]],
        timeout_s: float,
        answer: dict[str, Any],
        budget: AnswerBudget,
    ) -> None:
        budget.check(server)
        claimed = await self._remote.claim(server, requested, timeout_s)
        budget.take(server, claimed)
        answer.update({user_id: claimed[user_id] for user_id in requested if user_id in claimed})

    async def _read(self, key: _Key) -> KeyCounts:
        counts, unused = await self._database.read(_load_counts, *key)
        shown_counts = with_required_count(counts)
        counts_json = shrink_to_fit(orjson.dumps(shown_counts))
        unused_json = shrink_to_fit(orjson.dumps(unused))
        return KeyCounts(shown_counts, tuple(unused), counts_json, unused_json)

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
    return counts, await one_time_keys.unused_fallback_algorithms(tx, user_id, device_id)
