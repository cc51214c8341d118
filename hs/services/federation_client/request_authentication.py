"""The check of which server has signed a request.

The signature covers the canonical JSON of the body. It is first checked over the body as it was
received; only if that fails, the body is parsed and encoded. This is done once the keys are there:
requests in the names of servers that do not respond wait for keys, and parsed JSON takes many times
the memory of its text. Large bodies are parsed and encoded in threads, a few at a time.

Spec: server-server API, Request Authentication.
"""

from collections.abc import Mapping, Sequence, Set
from typing import Final

import attrs
import trio

from hs.core.errors import Forbidden, Unauthorized
from hs.core.ids import ServerName
from hs.core.signing.keys import VerifyKey
from hs.core.signing.requests import (
    RequestSignature,
    SignedRequest,
    content_of,
    parse_authorization,
    signed_bytes,
)
from hs.core.unpadded_base64 import decode_base64
from hs.lib.clock import Clock
from hs.services.federation_client.key_ring import VerifyKeyRequest
from hs.services.federation_client.server_backoff import ServerBackoff
from hs.services.federation_client.server_keys import ServerKeys

MIN_BYTES_FOR_THREAD: Final = 1 << 18
THREADS: Final = 2


@attrs.frozen(eq=False)
class RequestAuthenticator:
    """The OriginAuthenticator of a server; `permitted` None permits all origins."""

    _server_name: ServerName
    _keys: ServerKeys
    _clock: Clock
    _backoff: ServerBackoff
    _permitted: Set[ServerName] | None
    _threads: trio.CapacityLimiter = attrs.field(
        factory=lambda: trio.CapacityLimiter(THREADS), init=False
    )

    async def origin_of(self, request: SignedRequest) -> ServerName:
        """Return the server that signed a request.

        Raises: Unauthorized, Forbidden, InvalidParam, NotJson, BadJson.
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
        # Most servers send canonical JSON, which need not be parsed and encoded again.
        if not self._is_signed(request, request.body or None, signatures, keys):
            content = await self._content_of(request)
            is_other = content not in (None, request.body)
            if not is_other or not self._is_signed(request, content, signatures, keys):
                raise Unauthorized(f"The signature of the request by {origin} is not valid")
        await self._backoff.heard(origin)
        return origin

    def _is_signed(
        self,
        request: SignedRequest,
        body: bytes | None,
        signatures: Sequence[RequestSignature],
        keys: Mapping[str, VerifyKey],
    ) -> bool:
        origin = signatures[0].origin
        message = signed_bytes(request.method, request.uri, origin, self._server_name, body)
        return any(_is_valid(signature, keys, message) for signature in signatures)

    async def _content_of(self, request: SignedRequest) -> bytes | None:
        if len(request.body) < MIN_BYTES_FOR_THREAD:
            return content_of(request)
        return await trio.to_thread.run_sync(content_of, request, limiter=self._threads)


def _is_valid(signature: RequestSignature, keys: Mapping[str, VerifyKey], message: bytes) -> bool:
    key = keys.get(signature.key_id)
    try:
        raw = decode_base64(signature.signature)
    except ValueError:
        return False
    return key is not None and key.verifies(message, raw)
