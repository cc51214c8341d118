"""RPC as HTTP: checks the secret, reads the headers, and hands the call to the server."""

import hmac
from collections.abc import Mapping

import attrs

from hs.repl.rpc_client import RPC_PATH
from hs.repl.rpc_server import Call, RpcServer

MAX_TIMEOUT_S = 600.0
NO_BODY = b""


@attrs.frozen(eq=False)
class RpcEndpoint:
    """What the replication listener calls for `POST /_synapse/replication/rpc/…`."""

    _server: RpcServer
    _secret: str

    async def handle(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Answer a request with (status, body); header names are in lower case."""
        # An empty secret would let everybody in.
        given = headers.get("authorization", "").encode()
        if not self._secret or not hmac.compare_digest(given, f"Bearer {self._secret}".encode()):
            return 401, NO_BODY
        call = _read_call(path, body, headers)
        if call is None:
            return 404, NO_BODY
        reply = await self._server.answer(call)
        if reply is None:
            return 503, NO_BODY
        return 200, reply


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
