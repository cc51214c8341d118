"""RPC between instances that live in one trio run: the whole path, but for the sockets."""

from collections.abc import Mapping

import attrs
import trio

from hs.repl.rpc_client import Unreachable
from hs.repl.rpc_http import RpcEndpoint


@attrs.define(eq=False)
class InProcSender:
    """Hands requests straight to the endpoints of other instances."""

    _endpoints: dict[str, RpcEndpoint] = attrs.Factory(dict)

    def connect(self, instance: str, endpoint: RpcEndpoint) -> None:
        """Make an instance reachable."""
        self._endpoints[instance] = endpoint

    def disconnect(self, instance: str) -> None:
        """Make an instance unreachable."""
        self._endpoints.pop(instance, None)

    async def post(
        self, instance: str, path: str, headers: Mapping[str, str], body: bytes, timeout_s: float
    ) -> tuple[int, bytes]:
        """Call the endpoint of an instance."""
        endpoint = self._endpoints.get(instance)
        if endpoint is None:
            raise Unreachable("it does not run")
        with trio.move_on_after(timeout_s):
            return await endpoint.handle(path, body, headers)
        raise Unreachable("no answer in time")
