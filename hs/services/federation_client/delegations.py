"""Well-known files and SRV records of other servers, cached in memory.

Spec: server-server API, Resolving server names, step 3 on caching.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Final

import attrs

from hs.core.canonical_json import parse_json
from hs.core.errors import InvalidParam, MatrixError
from hs.core.ids import ServerName, parse_server_name
from hs.lib.caching.lru_cache import LruCache
from hs.lib.caching.single_flight import SingleFlight
from hs.lib.clock import Clock
from hs.lib.http_client import HttpClient, HttpFault, HttpResponse
from hs.lib.srv_records import SrvAnswer, SrvLookup, SrvRecord, SrvUnavailable, in_order_of_use

CACHED_HOSTS: Final = 20_000
DEFAULT_LIFETIME_S: Final = 24 * 3600.0
MIN_LIFETIME_S: Final = 300.0
MAX_LIFETIME_S: Final = 48 * 3600.0
FIRST_ERROR_S: Final = 120.0
MAX_ERROR_S: Final = 3600.0
MIN_SRV_S: Final = 60.0
MAX_SRV_S: Final = 24 * 3600.0
SRV_ERROR_S: Final = 60.0

WELL_KNOWN_TIMEOUT_S: Final = 10.0
MAX_WELL_KNOWN_BYTES: Final = 51_200
MAX_REDIRECTS: Final = 10

_MAX_AGE = re.compile(r"\b(?:s-maxage|max-age)\s*=\s*\"?(\d{1,10})")


@attrs.frozen
class _WellKnown:
    """What is known of a host's file. A name that was valid outlives errors until `usable_ms`."""

    name: ServerName | None
    expires_ms: int
    usable_ms: int = 0
    failures: int = 0


@attrs.frozen(eq=False)
class CachedDelegations:
    """The Delegations of the network; `client_for` returns the HTTP client for a host."""

    _client_for: Callable[[str], HttpClient]
    _srv: SrvLookup
    _clock: Clock
    _port: int = 443
    _files: LruCache[str, _WellKnown] = attrs.field(init=False)
    _records: LruCache[str, tuple[SrvAnswer, int]] = attrs.field(init=False)
    _flights: SingleFlight[tuple[str, str]] = attrs.field(factory=SingleFlight, init=False)

    @_files.default
    def _make_files(self) -> LruCache[str, _WellKnown]:
        return LruCache("well_known_files", max_entries=CACHED_HOSTS)

    @_records.default
    def _make_records(self) -> LruCache[str, tuple[SrvAnswer, int]]:
        return LruCache("srv_records", max_entries=2 * CACHED_HOSTS)

    async def delegated_name(self, hostname: str) -> ServerName | None:
        """Return the name in the well-known file of a host; see Delegations."""
        known = self._files.get(hostname)
        if known is None or known.expires_ms <= self._clock.now_ms():
            known = await self._flights.run(("well-known", hostname), self._read_file, hostname)
        return known.name

    async def srv_records(self, name: str) -> Sequence[SrvRecord]:
        """Return SRV records in the order of use; see Delegations."""
        known = self._records.get(name)
        if known is None or known[1] <= self._clock.now_ms():
            known = await self._flights.run(("SRV", name), self._look_up, name)
        return in_order_of_use(known[0].records)

    async def _look_up(self, name: str) -> tuple[SrvAnswer, int]:
        try:
            answer = await self._srv.look_up(name)
            lifetime_s = min(max(answer.ttl_s, MIN_SRV_S), MAX_SRV_S)
        except SrvUnavailable:
            # A name that only /etc/hosts knows has no records, and its look-up may fail.
            answer, lifetime_s = SrvAnswer((), 0), SRV_ERROR_S
        known = (answer, self._clock.now_ms() + round(lifetime_s * 1000))
        self._records.put(name, known)
        return known

    async def fetch(self, hostname: str) -> HttpResponse:
        """Fetch the well-known file of a host. Raises: HttpFault."""
        port = "" if self._port == 443 else f":{self._port}"
        return await self._client_for(hostname).send(
            "GET",
            f"https://{hostname}{port}/.well-known/matrix/server",
            timeout_s=WELL_KNOWN_TIMEOUT_S,
            max_bytes=MAX_WELL_KNOWN_BYTES,
            redirects=MAX_REDIRECTS,
        )

    async def _read_file(self, hostname: str) -> _WellKnown:
        name, lifetime_s = None, None
        try:
            response = await self.fetch(hostname)
            name = name_in(response)
            lifetime_s = lifetime_of(response.headers, self._clock.now_ms())
        except HttpFault:
            pass
        known = self._known_after(self._files.get(hostname), name, lifetime_s)
        self._files.put(hostname, known)
        return known

    def _known_after(
        self, before: _WellKnown | None, name: ServerName | None, lifetime_s: float | None
    ) -> _WellKnown:
        """Return what is known after a read; `lifetime_s` None if there was no response."""
        now_ms = self._clock.now_ms()
        if name is not None and lifetime_s is not None:
            usable_ms = now_ms + round(MAX_LIFETIME_S * 1000)
            return _WellKnown(name, now_ms + round(lifetime_s * 1000), usable_ms)
        failures = 1 if before is None else before.failures + 1
        # A host that responds without a valid file has none; an unreachable one may be back soon.
        error_s = min(FIRST_ERROR_S * 2 ** min(failures - 1, 10), MAX_ERROR_S)
        if lifetime_s is not None:
            error_s = MAX_ERROR_S
        expires_ms = now_ms + round(error_s * 1000)
        if lifetime_s is None and before is not None and before.usable_ms > now_ms:
            return _WellKnown(before.name, expires_ms, before.usable_ms, failures)
        return _WellKnown(None, expires_ms, failures=failures)


def name_in(response: HttpResponse) -> ServerName | None:
    """Return the name in a well-known file; None if the file is invalid."""
    if response.status != 200:
        return None
    try:
        content = parse_json(response.body)
        return parse_server_name(content.get("m.server")) if isinstance(content, dict) else None
    except (MatrixError, InvalidParam):
        return None


def lifetime_of(headers: Mapping[str, str], now_ms: int) -> float:
    """Return how long a response may be cached by its headers, within bounds, in seconds."""
    lifetime_s = DEFAULT_LIFETIME_S
    control = headers.get("cache-control", "").lower()
    age = _MAX_AGE.search(control)
    if "no-store" in control or "no-cache" in control:
        lifetime_s = 0.0
    elif age is not None:
        lifetime_s = float(age[1])
    elif "expires" in headers:
        try:
            expires = parsedate_to_datetime(headers["expires"])
            lifetime_s = expires.timestamp() - now_ms / 1000
        except (ValueError, TypeError, OverflowError):
            lifetime_s = 0.0  # RFC 9111: an invalid date is in the past
    return min(max(lifetime_s, MIN_LIFETIME_S), MAX_LIFETIME_S)
