"""The HTTP endpoint of RPC: checks the secret, parses the headers and calls the server."""

import hmac
import logging
import math
from collections.abc import Mapping

import attrs
import trio

from hs.repl.rpc_client import RPC_PATH, SECRET_MISMATCH
from hs.repl.rpc_server import RpcCall, RpcServer

MAX_TIMEOUT_S = 600.0
NO_BODY = b""
LOG_EVERY_S = 60.0

log = logging.getLogger(__name__)


@attrs.define(eq=False)
class RpcEndpoint:
    """The endpoint for `POST /_synapse/replication/rpc/…` of the replication listener."""

    _server: RpcServer
    _secret: str
    _logged_at: float = -math.inf

    def admits(self, authorization: str) -> bool:
        """Return whether a caller has the shared secret; log now and then that one has not."""
        # An empty secret would admit every caller.
        expected = f"Bearer {self._secret}".encode()
        if self._secret and hmac.compare_digest(authorization.encode(), expected):
            return True
        self._log_rejection()
        return False

    async def handle(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Execute a request and return (status, body); header names are in lower case."""
        if not self.admits(headers.get("authorization", "")):
            return 401, NO_BODY
        call = _read_call(path, body, headers)
        if call is None:
            return 404, NO_BODY
        reply = await self._server.execute(call)
        if reply is None:
            return 503, NO_BODY
        return 200, reply

    def _log_rejection(self) -> None:
        # Limited, because anybody who reaches the port can cause this line.
        now = trio.current_time()
        if now >= self._logged_at + LOG_EVERY_S:
            self._logged_at = now
            log.error("rejecting the calls of another process: %s", SECRET_MISMATCH)


def _read_call(path: str, body: bytes, headers: Mapping[str, str]) -> RpcCall | None:
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
    return RpcCall(
        protocol,
        method,
        body,
        key=key,
        timeout_s=timeout_s,
        request_id=headers.get("x-request-id", "-"),
    )
