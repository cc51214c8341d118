"""Identity servers: binding, unbinding and lookup of third-party identifiers, stored invites."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import attrs

from hs.core.canonical_json import JsonObject, canonical_json
from hs.core.errors import InvalidParam, MatrixError, RemoteFault, ServerNotTrusted, TooLarge
from hs.core.ids import ServerName, UserID, parse_server_name, parse_user_id
from hs.core.signing.keys import Signer
from hs.core.signing.requests import authorization_header
from hs.core.unpadded_base64 import encode_urlsafe_base64
from hs.lib.http_client import HttpClient
from hs.services.accounts.threepids.identity_server_client import (
    IdentityServerClient,
    NonMatrixError,
    bearer,
)
from hs.storage.accounts import threepid_bindings
from hs.storage.database import Database

V2 = "/_matrix/identity/v2"
MAX_KEYS = 10
MAX_BINDINGS = 200  # of one user
_TOKEN = re.compile(r"[0-9a-zA-Z.=_-]{1,255}")


@attrs.frozen
class StoredThreepidInvite:
    """An identity server's response to a stored invite; `public_keys` are (key, validity URL)."""

    token: str
    display_name: str
    public_keys: tuple[tuple[str, str], ...]


@attrs.frozen(eq=False)
class IdentityServers:
    """Requests to identity servers that clients name, on behalf of users."""

    _database: Database
    _http: HttpClient
    _signer: Signer

    async def bind(
        self, user_id: UserID, id_server: str, id_access_token: str, sid: str, client_secret: str
    ) -> None:
        """Bind the identifier of a validated session; the server's Matrix errors are passed on.

        Raises: MatrixError, ServerNotTrusted, RemoteFault, TooLarge.
        """
        server = parse_identity_server(id_server)
        if len(await self._database.read(threepid_bindings.list_of_user, user_id)) >= MAX_BINDINGS:
            raise TooLarge(f"A user must not have more than {MAX_BINDINGS} bound identifiers")
        content = {"sid": sid, "client_secret": client_secret, "mxid": user_id}
        bound = await self._post(server, "/3pid/bind", content, id_access_token)
        medium, address = bound.get("medium"), bound.get("address")
        if not isinstance(medium, str) or not isinstance(address, str):
            raise RemoteFault(server, "The identity server's response lacks the bound identifier")
        await self._database.write(threepid_bindings.add, user_id, medium, address, server)

    async def unbind(
        self, user_id: UserID, medium: str, address: str, id_server: str | None = None
    ) -> bool:
        """Unbind an identifier from the named server, or else from all that it was bound at.

        Return False if no server is known or one does not support unbinding.
        Raises: MatrixError, ServerNotTrusted, RemoteFault.
        """
        if id_server is not None:
            servers = [str(parse_identity_server(id_server))]
        else:
            servers = await self._database.read(
                threepid_bindings.identity_servers_of, user_id, medium, address
            )
        results = [await self._unbind(user_id, medium, address, server) for server in servers]
        return bool(results) and all(results)

    async def unbind_all(self, user_id: UserID) -> bool:
        """Unbind all identifiers of a user; return False if any request failed."""
        all_unbound = True
        for medium, address, server in await self._database.read(
            threepid_bindings.list_of_user, user_id
        ):
            try:
                all_unbound &= await self._unbind(user_id, medium, address, server)
            except (MatrixError, RemoteFault):
                all_unbound = False
        return all_unbound

    async def lookup(
        self, id_server: str, id_access_token: str, medium: str, address: str
    ) -> UserID | None:
        """Return the user bound to an identifier, or None.

        Raises: MatrixError, ServerNotTrusted, RemoteFault.
        """
        server = parse_identity_server(id_server)
        http, base = IdentityServerClient(self._http), f"https://{server}"
        try:
            details = await http.get(base, V2 + "/hash_details", {}, id_access_token)
        except NonMatrixError as error:
            raise RemoteFault(server, f"The identity server failed with {error}") from error
        pepper, algorithms = details.get("lookup_pepper"), details.get("algorithms")
        if not isinstance(pepper, str) or not isinstance(algorithms, list):
            raise RemoteFault(
                server, "The identity server's response lacks lookup_pepper or algorithms"
            )
        lookup_key, algorithm = _lookup_key(medium, address, pepper, algorithms, server)
        content = {"addresses": [lookup_key], "algorithm": algorithm, "pepper": pepper}
        answer = await self._post(server, "/lookup", content, id_access_token)
        mappings = answer.get("mappings")
        user_id = mappings.get(lookup_key) if isinstance(mappings, dict) else None
        if user_id is None:
            return None
        try:
            return parse_user_id(user_id)
        except InvalidParam:
            raise RemoteFault(server, "The identity server returned an invalid user ID") from None

    async def store_invite(
        self, id_server: str, id_access_token: str, invite: Mapping[str, Any]
    ) -> StoredThreepidInvite:
        """Store an invite for an identifier without an account. Raises: as `lookup`."""
        server = parse_identity_server(id_server)
        answer = await self._post(server, "/store-invite", invite, id_access_token)
        token, name = answer.get("token"), answer.get("display_name")
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise RemoteFault(server, "The identity server's response lacks a valid token")
        keys = answer.get("public_keys")
        public_keys = tuple(
            (str(key["public_key"]), str(key.get("key_validity_url", "")))
            for key in (keys if isinstance(keys, list) else ())[:MAX_KEYS]
            if isinstance(key, dict) and isinstance(key.get("public_key"), str)
        )
        if not public_keys:
            raise RemoteFault(server, "The identity server's response lacks public keys")
        return StoredThreepidInvite(token, str(name or ""), public_keys)

    async def is_any_valid(self, keys: Sequence[tuple[str, str]]) -> bool:
        """Return whether any of the (key, validity URL) pairs is valid according to its URL."""
        for key, url in keys:
            try:
                parts = urlsplit(url)
                base = f"{parts.scheme}://{parts.netloc}"
                answer = await IdentityServerClient(self._http).get(
                    base, parts.path, {"public_key": key}
                )
            except (MatrixError, RemoteFault, NonMatrixError, ValueError):
                continue
            if answer.get("valid") is True:
                return True
        return False

    async def _unbind(self, user_id: UserID, medium: str, address: str, server: str) -> bool:
        path = V2 + "/3pid/unbind"
        content = {"mxid": user_id, "threepid": {"medium": medium, "address": address}}
        body = canonical_json(content)
        authorization = authorization_header(self._signer, server, "POST", path, body)
        try:
            await IdentityServerClient(self._http).post(
                f"https://{server}", path, content, authorization
            )
        except NonMatrixError:
            return False
        except MatrixError as error:
            if error.errcode == "M_UNRECOGNIZED":
                return False
            raise
        await self._database.write(threepid_bindings.remove, user_id, medium, address, server)
        return True

    async def _post(
        self, server: str, path: str, content: Mapping[str, Any], token: str
    ) -> JsonObject:
        http = IdentityServerClient(self._http)
        try:
            return await http.post(f"https://{server}", V2 + path, content, bearer(token))
        except NonMatrixError as error:
            raise RemoteFault(server, f"The identity server failed with {error}") from error


def parse_identity_server(id_server: str) -> ServerName:
    """Parse the name of an identity server. Raises: ServerNotTrusted if it is invalid."""
    try:
        return parse_server_name(id_server)
    except InvalidParam:
        raise ServerNotTrusted(f"{id_server!r:.100} is not a valid server name") from None


def _lookup_key(
    medium: str, address: str, pepper: str, algorithms: list[Any], server: str
) -> tuple[str, str]:
    """Return the lookup key and its algorithm.

    Spec: identity service API, Algorithms for association lookup.
    """
    if "sha256" in algorithms:
        digest = hashlib.sha256(f"{address} {medium} {pepper}".encode()).digest()
        return encode_urlsafe_base64(digest), "sha256"
    if "none" in algorithms:
        return f"{address} {medium}", "none"
    raise RemoteFault(server, "The identity server supports no known lookup algorithm")
