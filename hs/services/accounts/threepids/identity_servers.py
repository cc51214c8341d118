"""Identity servers, which tell the world whose addresses are whose, when users want that."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import attrs

from hs.core.canonical_json import JsonObject
from hs.core.errors import InvalidParam, MatrixError, RemoteFault, ServerNotTrusted
from hs.core.ids import ServerName, UserID, parse_server_name, parse_user_id
from hs.core.signing.keys import Signer
from hs.core.signing.requests import authorization_of
from hs.core.unpadded_base64 import encode_urlsafe_base64
from hs.lib.http_client import HttpClient
from hs.services.accounts.threepids.identity_server_client import (
    IdentityHttp,
    NoMatrixError,
    bearer,
)
from hs.storage.accounts import threepid_bindings
from hs.storage.database import Database

V2 = "/_matrix/identity/v2"
MAX_KEYS = 10
_TOKEN = re.compile(r"[0-9a-zA-Z.=_-]{1,255}")


@attrs.frozen
class StoredInvite:
    """What an identity server made of an invite; `public_keys` are (key, validity URL)."""

    token: str
    display_name: str
    public_keys: tuple[tuple[str, str], ...]


@attrs.frozen(eq=False)
class IdentityServers:
    """Asks the identity server a client names, on behalf of a user."""

    _database: Database
    _http: HttpClient
    _signer: Signer

    async def bind(
        self, user_id: UserID, id_server: str, id_access_token: str, sid: str, client_secret: str
    ) -> None:
        """Publish the address of a validated session. The server's errors are passed on.

        Raises: MatrixError, ServerNotTrusted, RemoteFault.
        """
        server = trusted(id_server)
        content = {"sid": sid, "client_secret": client_secret, "mxid": user_id}
        bound = await self._post(server, "/3pid/bind", content, id_access_token)
        medium, address = bound.get("medium"), bound.get("address")
        if not isinstance(medium, str) or not isinstance(address, str):
            raise RemoteFault(server, "The identity server does not tell what it bound")
        await self._database.write(threepid_bindings.add, user_id, medium, address, server)

    async def unbind(
        self, user_id: UserID, medium: str, address: str, id_server: str | None = None
    ) -> bool:
        """Withdraw an address from the server named, or from those it was published at.

        Gives whether it is withdrawn: False where no server is known or one cannot do it.
        Raises: MatrixError, ServerNotTrusted, RemoteFault.
        """
        if id_server is not None:
            servers = [str(trusted(id_server))]
        else:
            servers = await self._database.read(
                threepid_bindings.servers_of, user_id, medium, address
            )
        done = [await self._unbind(user_id, medium, address, server) for server in servers]
        return bool(done) and all(done)

    async def unbind_all(self, user_id: UserID) -> bool:
        """Withdraw everything a user published; faults of servers count as not done."""
        is_done = True
        for medium, address, server in await self._database.read(
            threepid_bindings.of_user, user_id
        ):
            try:
                is_done &= await self._unbind(user_id, medium, address, server)
            except (MatrixError, RemoteFault):
                is_done = False
        return is_done

    async def lookup(
        self, id_server: str, id_access_token: str, medium: str, address: str
    ) -> UserID | None:
        """Ask whose an address is. Raises: MatrixError, ServerNotTrusted, RemoteFault."""
        server = trusted(id_server)
        http, base = IdentityHttp(self._http), f"https://{server}"
        try:
            details = await http.get(base, V2 + "/hash_details", {}, id_access_token)
        except NoMatrixError as error:
            raise RemoteFault(server, f"The identity server fails with {error}") from error
        pepper, algorithms = details.get("lookup_pepper"), details.get("algorithms")
        if not isinstance(pepper, str) or not isinstance(algorithms, list):
            raise RemoteFault(server, "The identity server's answer lacks hash details")
        asked, algorithm = _hashed(medium, address, pepper, algorithms, server)
        content = {"addresses": [asked], "algorithm": algorithm, "pepper": pepper}
        answer = await self._post(server, "/lookup", content, id_access_token)
        mappings = answer.get("mappings")
        found = mappings.get(asked) if isinstance(mappings, dict) else None
        if found is None:
            return None
        try:
            return parse_user_id(found)
        except InvalidParam:
            raise RemoteFault(server, "The identity server names no user") from None

    async def store_invite(
        self, id_server: str, id_access_token: str, invite: Mapping[str, Any]
    ) -> StoredInvite:
        """Leave an invite for an address nobody has. Raises: as `lookup`."""
        server = trusted(id_server)
        answer = await self._post(server, "/store-invite", invite, id_access_token)
        token, name = answer.get("token"), answer.get("display_name")
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise RemoteFault(server, "The identity server gives no token")
        keys = answer.get("public_keys")
        public_keys = tuple(
            (str(key["public_key"]), str(key.get("key_validity_url", "")))
            for key in (keys if isinstance(keys, list) else ())[:MAX_KEYS]
            if isinstance(key, dict) and isinstance(key.get("public_key"), str)
        )
        if not public_keys:
            raise RemoteFault(server, "The identity server gives no key")
        return StoredInvite(token, str(name or ""), public_keys)

    async def is_any_valid(self, keys: Sequence[tuple[str, str]]) -> bool:
        """Ask where keys of invites say that they can be asked for; one valid key is enough."""
        for key, url in keys:
            try:
                parts = urlsplit(url)
                base = f"{parts.scheme}://{parts.netloc}"
                answer = await IdentityHttp(self._http).get(base, parts.path, {"public_key": key})
            except (MatrixError, RemoteFault, NoMatrixError, ValueError):
                continue
            if answer.get("valid") is True:
                return True
        return False

    async def _unbind(self, user_id: UserID, medium: str, address: str, server: str) -> bool:
        path = V2 + "/3pid/unbind"
        content = {"mxid": user_id, "threepid": {"medium": medium, "address": address}}
        authorization = authorization_of(self._signer, server, "POST", path, content)
        try:
            await IdentityHttp(self._http).post(f"https://{server}", path, content, authorization)
        except NoMatrixError:
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
        http = IdentityHttp(self._http)
        try:
            return await http.post(f"https://{server}", V2 + path, content, bearer(token))
        except NoMatrixError as error:
            raise RemoteFault(server, f"The identity server fails with {error}") from error


def trusted(id_server: str) -> ServerName:
    """Read the name of an identity server. Raises: ServerNotTrusted, if it is none."""
    try:
        return parse_server_name(id_server)
    except InvalidParam:
        raise ServerNotTrusted(f"{id_server!r:.100} is not the name of a server") from None


def _hashed(
    medium: str, address: str, pepper: str, algorithms: list[Any], server: str
) -> tuple[str, str]:
    """Spec: identity service API, Algorithms for association lookup."""
    if "sha256" in algorithms:
        digest = hashlib.sha256(f"{address} {medium} {pepper}".encode()).digest()
        return encode_urlsafe_base64(digest), "sha256"
    if "none" in algorithms:
        return f"{address} {medium}", "none"
    raise RemoteFault(server, "The identity server knows no common way to look addresses up")
