"""A check of another server, or of this one as others see it, step by step for administrators."""

from collections.abc import AsyncIterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Final

import attrs

from hs.core.canonical_json import JsonObject
from hs.core.errors import InvalidSignature, InvalidSigningKey, RemoteFault
from hs.core.ids import ServerName
from hs.core.signing.keys import Signer
from hs.lib.clock import Clock
from hs.lib.http_client import HttpFault
from hs.services.federation_client.client import FederationClient, object_in, uri_of
from hs.services.federation_client.delegations import CachedDelegations, name_in
from hs.services.federation_client.discovery import (
    SRV_SERVICES,
    ServerRoute,
    discover,
    is_ip_address,
    split_server_name,
)
from hs.services.federation_client.key_responses import fetch_keys
from hs.services.federation_client.peer_transport import PeerRequest, PeerTransport

VERSION_URI: Final = "/_matrix/federation/v1/version"
PROFILE_PATH: Final = "/_matrix/federation/v1/query/profile"
TIMEOUT_S: Final = 20.0
MAX_BYTES: Final = 1 << 16
MAX_CLOCK_DIFFERENCE_S: Final = 30.0
SHORT_VALIDITY_MS: Final = 3_600_000


@attrs.frozen
class CheckStep:
    """The result of one step; `is_good` None if it is neither good nor bad."""

    subject: str
    finding: str
    is_good: bool | None = True


@attrs.frozen(eq=False)
class PeerCheck:
    """The steps. `permitted` is the whitelist, if there is one."""

    _signer: Signer
    _delegations: CachedDelegations
    _transport: PeerTransport
    _clock: Clock
    _permitted: frozenset[ServerName] | None

    async def steps(self, server: ServerName) -> AsyncIterator[CheckStep]:
        """Yield the result of each step, up to a failure that prevents the next steps."""
        if self._permitted is not None and server not in self._permitted:
            text = "not in federation_domain_whitelist, so this server does not federate with it"
            yield CheckStep("whitelist", text, False)
        host, port = split_server_name(server)
        if port is None and not is_ip_address(host):
            yield await self._well_known(host)
        try:
            route = await discover(server, self._delegations)
        except RemoteFault as fault:
            yield CheckStep("address", fault.message, False)
            return
        for step in _route_steps(route):
            yield step
        try:
            response = await self._transport.send(_version_request(server))
        except RemoteFault as fault:
            yield CheckStep("connection", fault.message, False)
            return
        yield CheckStep("connection", "connected, and the certificate is accepted")
        try:
            yield _version_step(object_in(server, response))
        except RemoteFault as fault:
            yield CheckStep("version", fault.message, False)
        yield self._clock_step(response.headers)
        yield await self._keys(server)
        if server != self._signer.server_name:
            yield await self._signature(server)

    async def _well_known(self, host: str) -> CheckStep:
        try:
            response = await self._delegations.fetch(host)
        except HttpFault as fault:
            return CheckStep("well-known", f"cannot be fetched: {fault.message}", None)
        name = name_in(response)
        if name is not None:
            return CheckStep("well-known", f"delegates to {name}")
        if response.status == 404:
            return CheckStep("well-known", "none", None)
        text = f"status {response.status} without a valid m.server, so it is ignored"
        return CheckStep("well-known", text, False)

    def _clock_step(self, headers: Mapping[str, str]) -> CheckStep:
        try:
            there_s = parsedate_to_datetime(headers.get("date", "")).timestamp()
        except (ValueError, TypeError, OverflowError):
            return CheckStep("clock", "the response has no date", None)
        difference_s = there_s - self._clock.now_ms() / 1000
        if abs(difference_s) > MAX_CLOCK_DIFFERENCE_S:
            text = (
                f"{abs(difference_s):.0f} s {'ahead of' if difference_s > 0 else 'behind'} this one"
            )
            return CheckStep("clock", text, False)
        return CheckStep("clock", "agrees with this one")

    async def _keys(self, server: ServerName) -> CheckStep:
        now_ms = self._clock.now_ms()
        try:
            published = await fetch_keys(self._transport, server, now_ms)
        except (RemoteFault, InvalidSignature, InvalidSigningKey) as fault:
            return CheckStep("keys", str(fault), False)
        hours = (published.valid_until_ms - now_ms) / 3_600_000
        names = ", ".join(
            key_id for key_id, key in published.keys.items() if key.valid_until_ms >= now_ms
        )
        own = self._signer.key.verify_key
        if server == self._signer.server_name:
            seen = published.keys.get(own.key_id)
            if seen is None or seen.key != own:
                text = f"{names}, but this configuration signs with {own.key_id} {own.base64}"
                return CheckStep("keys", text, False)
        is_long = published.valid_until_ms >= now_ms + SHORT_VALIDITY_MS
        return CheckStep("keys", f"{names or 'none'}, valid for {hours:.1f} h", is_long)

    async def _signature(self, server: ServerName) -> CheckStep:
        """Send a signed request, which the server answers if it can get the keys of this one."""
        client = FederationClient(self._signer, self._transport, TIMEOUT_S)
        query = {"user_id": f"@federation-check:{server}"}
        try:
            await client.request(server, "GET", uri_of(PROFILE_PATH, query), None)
        except RemoteFault as fault:
            if fault.error is None:
                return CheckStep("signature", fault.message, False)
            if fault.error.status == 401:
                reason = "it may not reach this server to get its keys"
                return CheckStep("signature", f"rejected ({fault.error.message}): {reason}", False)
        return CheckStep("signature", f"it accepts requests of {self._signer.server_name}")


def _route_steps(route: ServerRoute) -> list[CheckStep]:
    places = ", ".join(f"{address.host} port {address.port}" for address in route.addresses)
    names = f"Host header {route.host_header}, certificate for {route.certificate_name}"
    is_old = SRV_SERVICES[1] in route.reason and SRV_SERVICES[0] not in route.reason
    old = f"; {SRV_SERVICES[1]} is deprecated" if is_old else ""
    return [
        CheckStep("address", f"{places} (by {route.reason}{old})"),
        CheckStep("names", names),
    ]


def _version_request(server: ServerName) -> PeerRequest:
    return PeerRequest(
        server=server,
        method="GET",
        uri=VERSION_URI,
        headers={},
        body=None,
        timeout_s=TIMEOUT_S,
        max_bytes=MAX_BYTES,
    )


def _version_step(response: JsonObject) -> CheckStep:
    software = response.get("server")
    if not isinstance(software, dict):
        return CheckStep("version", "the response does not say", None)
    return CheckStep("version", f"{software.get('name')} {software.get('version')}"[:200])
