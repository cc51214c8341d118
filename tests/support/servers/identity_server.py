"""An identity server over HTTPS on this machine, with one key; its data is held in dicts."""

import hashlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import attrs
import orjson

from hs.core.ids import ServerName
from hs.core.signing.keys import Signer, SigningKey
from hs.core.signing.signed_json import sign_json
from hs.core.unpadded_base64 import encode_urlsafe_base64
from hs.lib.aio import Bridge
from hs.lib.http_client.addresses import ALLOW_ALL, AddressRules
from hs.lib.http_client.bridged import BridgedHttpClient
from hs.lib.http_client.sessions import HttpSessions
from tests.support.servers.sites import Site, SiteRequest, SiteResponse, open_site, server_tls

V2 = "/_matrix/identity/v2"
PEPPER = "pepper"
TOKEN = "id-token"


@attrs.define(eq=False)
class IdentityServer:
    """The server's data: user IDs by address (`known`), and the stored invites (`waiting`)."""

    site: Site
    known: dict[str, str] = attrs.field(factory=dict)
    waiting: list[dict[str, Any]] = attrs.field(factory=list)
    unbound: list[tuple[dict[str, Any], str]] = attrs.field(factory=list)
    unbind_answer: SiteResponse = attrs.field(factory=lambda: _page({}))
    algorithms: tuple[str, ...] = ("sha256", "none")
    is_key_valid: bool = True
    key: SigningKey = attrs.field(factory=lambda: SigningKey.from_seed("0", bytes(32)))

    def __attrs_post_init__(self) -> None:
        self.site.pages |= {
            f"{V2}/hash_details": self._with_token(self._details),
            f"{V2}/lookup": self._with_token(self._lookup),
            f"{V2}/store-invite": self._with_token(self._store),
            f"{V2}/3pid/bind": self._with_token(self._bind),
            f"{V2}/3pid/unbind": self._unbind,
            f"{V2}/pubkey/isvalid": self._is_valid,
        }

    @property
    def name(self) -> str:
        """The host and port by which clients address the server."""
        return f"localhost:{self.site.port}"

    def signed(self, mxid: str, token: str = "invite-token") -> dict[str, Any]:
        """Return the signed object that proves that a user owns the address of an invite."""
        signer = Signer(ServerName(self.name), self.key)
        return sign_json({"mxid": mxid, "token": token, "sender": "@alice:test"}, signer)

    def _with_token(self, respond: Any) -> Any:
        def check(request: SiteRequest) -> SiteResponse:
            if request.headers.get("authorization") != f"Bearer {TOKEN}":
                return _page({"errcode": "M_UNAUTHORIZED", "error": "who?"}, 401)
            page: SiteResponse = respond(request)
            return page

        return check

    def _details(self, _request: SiteRequest) -> SiteResponse:
        return _page({"lookup_pepper": PEPPER, "algorithms": self.algorithms})

    def _lookup(self, request: SiteRequest) -> SiteResponse:
        body = orjson.loads(request.body)
        mappings = {}
        for address, user_id in self.known.items():
            digest = hashlib.sha256(f"{address} email {PEPPER}".encode()).digest()
            hashed = encode_urlsafe_base64(digest)
            address_key = hashed if body["algorithm"] == "sha256" else f"{address} email"
            if address_key in body["addresses"]:
                mappings[address_key] = user_id
        return _page({"mappings": mappings})

    def _store(self, request: SiteRequest) -> SiteResponse:
        self.waiting.append(orjson.loads(request.body))
        url = f"https://{self.name}{V2}/pubkey/isvalid"
        key = {"public_key": self.key.verify_key.base64, "key_validity_url": url}
        return _page({"token": "invite-token", "display_name": "b...@x", "public_keys": [key]})

    def _bind(self, request: SiteRequest) -> SiteResponse:
        body = orjson.loads(request.body)
        if body["sid"] != "good":
            return _page({"errcode": "M_SESSION_NOT_VALIDATED", "error": "not yet"}, 400)
        return _page({"medium": "email", "address": "bob@x.test", "mxid": body["mxid"]})

    def _unbind(self, request: SiteRequest) -> SiteResponse:
        self.unbound.append((orjson.loads(request.body), request.headers["authorization"]))
        return self.unbind_answer

    def _is_valid(self, request: SiteRequest) -> SiteResponse:
        (key,) = parse_qs(urlsplit(request.path).query)["public_key"]
        return _page({"valid": self.is_key_valid and key == self.key.verify_key.base64})


@asynccontextmanager
async def open_identity_server(certificate: Path) -> AsyncIterator[IdentityServer]:
    """Run an identity server."""
    async with open_site(server_tls(certificate)) as site:
        yield IdentityServer(site)


@asynccontextmanager
async def trusting_client(
    bridge: Bridge, certificate: Path, rules: AddressRules = ALLOW_ALL
) -> AsyncIterator[BridgedHttpClient]:
    """Open an HTTP client that trusts the test certificate."""
    tls = ssl.create_default_context(cafile=certificate)
    client = BridgedHttpClient(HttpSessions(bridge, rules, tls=tls), "test")
    try:
        yield client
    finally:
        await client.sessions.aclose()


def _page(content: Any, status: int = 200) -> SiteResponse:
    return SiteResponse(orjson.dumps(content), status, {"content-type": "application/json"})
