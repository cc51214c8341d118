"""Checks which server has signed a request.

Spec: server-server API, Request Authentication.
"""

from collections.abc import Mapping, Set

import attrs

from hs.core.canonical_json import encode_lenient
from hs.core.errors import Forbidden, Unauthorized
from hs.core.ids import ServerName
from hs.core.signing.keys import VerifyKey
from hs.core.signing.requests import (
    RequestSignature,
    SignedRequest,
    parse_authorization,
    signed_bytes,
)
from hs.core.unpadded_base64 import decode_base64
from hs.lib.clock import Clock
from hs.services.federation_client.key_ring import VerifyKeyRequest
from hs.services.federation_client.server_backoff import ServerBackoff
from hs.services.federation_client.server_keys import ServerKeys


@attrs.frozen(eq=False)
class RequestAuthenticator:
    """The OriginAuthenticator of a server; `permitted` None permits all origins."""

    _server_name: ServerName
    _keys: ServerKeys
    _clock: Clock
    _backoff: ServerBackoff
    _permitted: Set[ServerName] | None

    async def origin_of(self, request: SignedRequest) -> ServerName:
        """Return the server that signed a request.

        Raises: Unauthorized, Forbidden, InvalidParam.
        """
        signatures = parse_authorization(request.authorization)
        origin = signatures[0].origin
        if origin == self._server_name:
            raise Unauthorized("This server does not send requests to itself")
        for signature in signatures:
            if signature.destination not in (None, self._server_name):
                raise Unauthorized("The request was signed for another server")
        if self._permitted is not None and origin not in self._permitted:
            raise Forbidden("This server does not federate with yours")
        need = VerifyKeyRequest(
            origin,
            frozenset(signature.key_id for signature in signatures),
            self._clock.now_ms(),
        )
        keys = await self._keys.keys_of_origin(need)
        if not keys:
            raise Unauthorized(f"No valid key of {origin} could be obtained for this request")
        body = None if request.content is None else encode_lenient(request.content)
        message = signed_bytes(request.method, request.uri, origin, self._server_name, body)
        if not any(_is_valid(signature, keys, message) for signature in signatures):
            raise Unauthorized(f"The signature of the request by {origin} is not valid")
        await self._backoff.heard(origin)
        return origin


def _is_valid(signature: RequestSignature, keys: Mapping[str, VerifyKey], message: bytes) -> bool:
    key = keys.get(signature.key_id)
    try:
        raw = decode_base64(signature.signature)
    except ValueError:
        return False
    return key is not None and key.verifies(message, raw)
