"""RPC as HTTP: checks the secret, reads the headers, and hands the call to the server."""

import hmac
import logging
import math
from collections.abc import Mapping

import attrs
import trio

from hs.repl.rpc_client import OTHER_SECRET, RPC_PATH
from hs.repl.rpc_server import Call, RpcServer

MAX_TIMEOUT_S = 600.0
NO_BODY = b""
TELL_EVERY_S = 60.0

log = logging.getLogger(__name__)


@attrs.define(eq=False)
class RpcEndpoint:
    """What the replication listener calls for `POST /_synapse/replication/rpc/…`."""

    _server: RpcServer
    _secret: str
    _told_at: float = -math.inf

    async def handle(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Answer a request with (status, body); header names are in lower case."""
        # An empty secret would let everybody in.
        given = headers.get("authorization", "").encode()
        if not self._secret or not hmac.compare_digest(given, f"Bearer {self._secret}".encode()):
            self._tell_refusal()
            return 401, NO_BODY
        call = _read_call(path, body, headers)
        if call is None:
            return 404, NO_BODY
        reply = await self._server.answer(call)
        if reply is None:
            return 503, NO_BODY
        return 200, reply

    def _tell_refusal(self) -> None:
        # Whoever reaches the port can have this written, so not each time.
        now = trio.current_time()
        if now >= self._told_at + TELL_EVERY_S:
            self._told_at = now
            log.error("a process that calls this one is refused: %s", OTHER_SECRET)


def _read_call(path: str, body: bytes, headers: Mapping[str, str]) -> Call | None:
    prefix, _, rest = path.partition(f"{RPC_PATH}/")
    protocol, slash, method = rest.partition("/")
    key = headers.get("x-hs-call", "")
    if prefix or not slash or not method or not key:
        return None
    try:
        timeout_s = float(headers.get("x-hs-timeout", "30"))
    except ValueError:
        return None
    timeout_s = min(max(timeout_s, 0.0), MAX_TIMEOUT_S)
    return Call(protocol, method, body, key, timeout_s, headers.get("x-request-id", "-"))
