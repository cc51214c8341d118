"""The verify keys of servers: in memory, in the database, from the servers, from notaries.

Rules:

- A key is used beyond its validity only where the caller asks for that.
- Each source is asked only for the keys that the sources before it lack. A server is asked once for
  all callers that wait for its keys, and after a failure not again for a time that grows: anybody
  can make this server look for keys, by events and requests in the name of any server.
- Keys that are used after half of their validity are fetched again in the background.
- The response of a notary must be signed by the server itself and by the notary. It may be old, so
  it extends the validity of keys, and neither shortens it nor replaces a key that is known.
- Of each server a limited number of keys is kept. One that publishes others all the time loses the
  ability to have its older events verified, and no more.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Final

import attrs
import trio

from hs.core.canonical_json import parse_json
from hs.core.errors import InvalidSignature, InvalidSigningKey, RemoteFault
from hs.core.ids import ServerName
from hs.core.signing.keys import VerifyKey
from hs.core.signing.signed_json import verify_json
from hs.lib.caching.lru_cache import LruCache
from hs.lib.caching.single_flight import SingleFlight
from hs.lib.clock import Clock
from hs.services.federation_client.key_responses import (
    MAX_VALIDITY_MS,
    PublishedKeys,
    ServerKey,
    fetch_keys,
    key_ids_of,
    published_keys,
    query_notary,
)
from hs.services.federation_client.key_ring import VerifyKeyRequest
from hs.services.federation_client.own_keys import OwnKeys
from hs.services.federation_client.peer_transport import PeerTransport
from hs.settings.sections.federation import KeyServerSettings
from hs.storage.database import Database, Tx
from hs.storage.federation_client import server_keys as storage
from hs.storage.federation_client.server_keys import FormerResponse, KeyRecord, KeyResponse

CACHED_SERVERS: Final = 20_000
CONCURRENT_FETCHES: Final = 100
CONCURRENT_ORIGINS: Final = 50
CONCURRENT_FOR_OTHERS: Final = 20
FETCHES_OF_CALL: Final = 25
"""Of a call for the keys of many servers; of very many, a quarter of them."""

OBTAIN_S: Final = 30.0
NOTARY_BATCH: Final = 100
FIRST_PAUSE_MS: Final = 60_000
MAX_PAUSE_MS: Final = 3_600_000
MAX_DUE: Final = 1000
MAX_FORMER_KEYS: Final = 10
MAX_FORMER_BYTES: Final = 8192
"""Of a response that is kept for others because the server no longer publishes its keys."""

MAX_FURTHER_KEYS: Final = 400
"""Keys of a server that are kept besides those of its latest response: those valid last."""

REFRESH_PERIOD_S: Final = 30.0
REFRESH_PAUSE_MS: Final = 900_000
"""Time between attempts to refresh the keys of a server that does not respond."""

log = logging.getLogger(__name__)


@attrs.frozen
class _KnownKeys:
    """The keys of a server, and when half of their validity is over."""

    keys: Mapping[str, ServerKey]
    refresh_ms: int


@attrs.frozen
class _Attempt:
    """Attempts without success, and when the next one may be made."""

    failures: int
    next_ms: int


@attrs.define(eq=False)
class ServerKeys:
    """The KeyRing; one object in each process."""

    _own: OwnKeys
    _database: Database
    _transport: PeerTransport
    _clock: Clock
    _notaries: tuple[KeyServerSettings, ...] = ()
    _known: LruCache[ServerName, _KnownKeys] = attrs.field(init=False)
    _attempts: LruCache[ServerName, _Attempt] = attrs.field(init=False)
    _due: set[ServerName] = attrs.field(factory=set, init=False)
    _flights: SingleFlight[ServerName] = attrs.field(factory=SingleFlight, init=False)
    _notary_flights: SingleFlight[ServerName] = attrs.field(factory=SingleFlight, init=False)
    _fetches: trio.CapacityLimiter = attrs.field(init=False)
    _origins: trio.CapacityLimiter = attrs.field(init=False)
    _for_others: trio.CapacityLimiter = attrs.field(init=False)

    @_known.default
    def _make_known(self) -> LruCache[ServerName, _KnownKeys]:
        return LruCache("server_keys", max_entries=CACHED_SERVERS)

    @_attempts.default
    def _make_attempts(self) -> LruCache[ServerName, _Attempt]:
        return LruCache("server_key_attempts", max_entries=CACHED_SERVERS)

    @_origins.default
    def _make_origins(self) -> trio.CapacityLimiter:
        return trio.CapacityLimiter(CONCURRENT_ORIGINS)

    @_for_others.default
    def _make_for_others(self) -> trio.CapacityLimiter:
        return trio.CapacityLimiter(CONCURRENT_FOR_OTHERS)

    @_fetches.default
    def _make_fetches(self) -> trio.CapacityLimiter:
        return trio.CapacityLimiter(CONCURRENT_FETCHES)

    async def keys_for(
        self, needs: Collection[VerifyKeyRequest]
    ) -> Mapping[VerifyKeyRequest, Mapping[str, VerifyKey]]:
        """Return the required keys that could be obtained; see KeyRing."""
        lacking = await self.lacking(needs)
        if lacking:
            await self._obtain(lacking)
        return {need: self._usable(need) for need in needs}

    async def keys_of_origin(self, need: VerifyKeyRequest) -> Mapping[str, VerifyKey]:
        """Return the keys for a request of a server, like `keys_for`.

        Requests in the names of many servers that do not respond delay only other requests whose
        keys are unknown, and not the keys of events.
        """
        lacking = await self.lacking([need])
        if lacking:
            with trio.move_on_after(2 * OBTAIN_S):
                async with self._origins:
                    await self._obtain(lacking)
        return self._usable(need)

    async def lacking(self, needs: Collection[VerifyKeyRequest]) -> Sequence[VerifyKeyRequest]:
        """Return the needs that neither memory nor the database can meet."""
        lacking = self._lacking(needs)
        if lacking:
            await self._load({need.server for need in lacking})
        return self._lacking(lacking)

    def note_lacking(self, servers: Collection[ServerName]) -> None:
        """Ask servers again only after a time: another caller has not obtained their keys."""
        for server in servers:
            self._note_attempt(server, is_lacking=True)

    async def fetch_again(self, servers: Collection[ServerName]) -> None:
        """Fetch the current keys of servers; the caller limits how often.

        Few are asked at a time, as anybody can make a notary ask for keys.
        """
        await self._fetch_all(servers, self._for_others, set())
        for server in servers:
            known = self._known.get(server)
            if known is not None and known.refresh_ms > self._clock.now_ms():
                self._attempts.pop(server)

    async def refresh(self) -> None:
        """Fetch the keys again that were used after half of their validity."""
        due, self._due = self._due, set()
        async with trio.open_nursery() as nursery:
            for server in due:
                nursery.start_soon(self._flights.run, server, self._refetch, server)

    def refreshes_due(self) -> int:
        """Return the number of servers whose keys are to be fetched again, for metrics."""
        return len(self._due)

    def _lacking(self, needs: Collection[VerifyKeyRequest]) -> list[VerifyKeyRequest]:
        own = self._own.server_name
        return [need for need in needs if need.server != own and not self._usable(need)]

    def _usable(self, need: VerifyKeyRequest) -> dict[str, VerifyKey]:
        if need.server == self._own.server_name:
            keys = self._own.keys()
        else:
            known = self._known.get(need.server)
            if known is None:
                return {}
            keys = known.keys
            if known.refresh_ms <= self._clock.now_ms() and len(self._due) < MAX_DUE:
                self._due.add(need.server)
        return {
            key_id: keys[key_id].key
            for key_id in need.key_ids
            if key_id in keys
            and (need.valid_at_ms is None or need.valid_at_ms <= keys[key_id].valid_until_ms)
        }

    async def _load(self, servers: Collection[ServerName]) -> None:
        """Read the stored keys of servers."""
        records, times = await self._database.read(storage.keys_of, sorted(servers))
        fetched = {row.server: row for row in times}
        stored: dict[ServerName, dict[str, ServerKey]] = {}
        for record in records:
            key = ServerKey(
                VerifyKey.parse(record.key_id, record.verify_key), record.valid_until_ms
            )
            stored.setdefault(ServerName(record.server), {})[record.key_id] = key
        for server, keys in stored.items():
            row = fetched.get(server)
            refresh_ms = 0 if row is None else (row.fetched_ms + row.valid_until_ms) // 2
            self._known.put(server, _KnownKeys(keys, refresh_ms))

    async def _obtain(self, needs: Sequence[VerifyKeyRequest]) -> None:
        """Ask the servers, then the notaries for what is lacking."""
        # No key is ever valid so far in the future.
        limit_ms = self._clock.now_ms() + MAX_VALIDITY_MS
        needs = [need for need in needs if need.valid_at_ms is None or need.valid_at_ms <= limit_ms]
        asked = {need.server for need in needs if self._may_try(need.server)}
        tried: set[ServerName] = set()
        # Events can name any server, so those of one transaction may not occupy all fetches.
        share = trio.CapacityLimiter(max(FETCHES_OF_CALL, len(asked) // 4))
        with trio.move_on_after(OBTAIN_S):
            await self._fetch_all(asked, share, tried)
            lacking = [need for need in self._lacking(needs) if need.server in asked]
            for start in range(0, len(lacking), NOTARY_BATCH):
                batch = lacking[start : start + NOTARY_BATCH]
                servers = list({need.server for need in batch})
                await self._notary_flights.run_many(servers, partial(self._ask_notaries, batch))
        still_lacking = {need.server for need in self._lacking(needs)}
        for server in tried:
            self._note_attempt(server, is_lacking=server in still_lacking)

    async def _fetch_all(
        self,
        servers: Collection[ServerName],
        share: trio.CapacityLimiter,
        tried: set[ServerName],
    ) -> None:
        """Ask servers, as many at a time as the share allows; add those to `tried`."""

        async def fetch(server: ServerName) -> None:
            async with share:
                tried.add(server)
                await self._flights.run(server, self._fetch, server)

        async with trio.open_nursery() as nursery:
            for server in servers:
                nursery.start_soon(fetch, server)

    def _may_try(self, server: ServerName) -> bool:
        attempt = self._attempts.get(server)
        return attempt is None or attempt.next_ms <= self._clock.now_ms()

    def _note_attempt(self, server: ServerName, *, is_lacking: bool) -> None:
        if not is_lacking:
            self._attempts.pop(server)
            return
        if not self._may_try(server):
            return  # noted by another caller that waited for the same attempt
        before = self._attempts.get(server)
        failures = 1 if before is None else before.failures + 1
        pause_ms = min(FIRST_PAUSE_MS * 2 ** min(failures - 1, 10), MAX_PAUSE_MS)
        self._attempts.put(server, _Attempt(failures, self._clock.now_ms() + pause_ms))

    async def _refetch(self, server: ServerName) -> None:
        await self._load([server])  # another process may have fetched them
        known = self._known.get(server)
        if known is not None and known.refresh_ms > self._clock.now_ms():
            return
        await self._fetch(server)
        known, now_ms = self._known.get(server), self._clock.now_ms()
        if known is not None and known.refresh_ms <= now_ms:
            self._known.put(server, attrs.evolve(known, refresh_ms=now_ms + REFRESH_PAUSE_MS))

    async def _fetch(self, server: ServerName) -> None:
        """Fetch the keys of a server from it, and store them."""
        try:
            async with self._fetches:
                published = await fetch_keys(self._transport, server, self._clock.now_ms())
        except (RemoteFault, InvalidSignature, InvalidSigningKey) as fault:
            log.info("could not fetch the keys of %s: %s", server, fault)
            return
        now_ms = self._clock.now_ms()
        response = KeyResponse(server, published.response, now_ms, published.valid_until_ms)
        await self._database.write(_save, response, _records(published))
        known = self._known.get(server)
        keys = {**({} if known is None else _last_valid(known.keys)), **published.keys}
        self._known.put(server, _KnownKeys(keys, (now_ms + published.valid_until_ms) // 2))

    async def _ask_notaries(
        self, needs: Sequence[VerifyKeyRequest], servers: list[ServerName]
    ) -> Mapping[ServerName, None]:
        """Ask the notaries in turn for the keys of servers, as far as they are lacking."""
        for notary in self._notaries:
            lacking = [need for need in self._lacking(needs) if need.server in servers]
            wanted: dict[ServerName, dict[str, int]] = {}
            for need in lacking:
                uses = wanted.setdefault(need.server, {})
                for key_id in need.key_ids:
                    uses[key_id] = max(uses.get(key_id, 0), need.valid_at_ms or 0)
            wanted.pop(notary.server_name, None)
            if wanted:
                await self._ask_notary(notary, wanted)
        return dict.fromkeys(servers)

    async def _ask_notary(
        self, notary: KeyServerSettings, wanted: Mapping[ServerName, Mapping[str, int]]
    ) -> None:
        try:
            responses = await query_notary(self._transport, notary.server_name, wanted)
        except RemoteFault as fault:
            log.info("could not ask a notary for keys of %d servers: %s", len(wanted), fault)
            return
        notary_keys = notary.verify_keys or await self._keys_of_notary(notary.server_name)
        for response in responses[: 2 * len(wanted)]:
            server = response.get("server_name")
            if not isinstance(server, str) or server not in wanted:
                continue
            try:
                verify_json(response, notary.server_name, notary_keys)
                published = published_keys(ServerName(server), response, self._clock.now_ms())
            except (InvalidSignature, InvalidSigningKey) as fault:
                log.info("ignoring keys of %s from %s: %s", server, notary.server_name, fault)
                continue
            records = _records(published)
            await self._database.write(storage.extend, server, records, MAX_FURTHER_KEYS)
        await self._load(wanted.keys())

    async def _keys_of_notary(self, notary: ServerName) -> Mapping[str, VerifyKey]:
        """Return all valid keys of a notary, from itself."""
        now_ms = self._clock.now_ms()
        known = self._known.get(notary)
        if known is None or known.refresh_ms <= now_ms:
            await self._flights.run(notary, self._refetch, notary)
            known = self._known.get(notary)
        keys = {} if known is None else known.keys
        return {key_id: key.key for key_id, key in keys.items() if key.valid_until_ms >= now_ms}


async def _save(tx: Tx, response: KeyResponse, keys: Sequence[KeyRecord]) -> None:
    """Store the response of a server, and keep the previous one if that has other keys."""
    server, found = response.server, {key.key_id for key in keys}
    for previous in await storage.responses_of(tx, [server]):
        dropped = sorted(key_ids_of(parse_json(previous.response)) - found)
        if dropped and len(previous.response) <= MAX_FORMER_BYTES:
            kept = len(await storage.former_responses(tx, [server]))
            await storage.keep_former(
                tx,
                [
                    FormerResponse(server, key_id, previous.response, previous.valid_until_ms)
                    for key_id in dropped[: max(0, MAX_FORMER_KEYS - kept)]
                ],
            )
    await storage.save_published(tx, response, keys, MAX_FURTHER_KEYS)


def _last_valid(keys: Mapping[str, ServerKey]) -> dict[str, ServerKey]:
    """Return as many keys as are kept besides those of a new response."""
    order = sorted(keys, key=lambda key_id: (-keys[key_id].valid_until_ms, key_id))
    return {key_id: keys[key_id] for key_id in order[:MAX_FURTHER_KEYS]}


def _records(published: PublishedKeys) -> list[KeyRecord]:
    return [
        KeyRecord(published.server, key_id, key.key.base64, key.valid_until_ms)
        for key_id, key in published.keys.items()
    ]
