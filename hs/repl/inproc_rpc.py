"""RPC between instances in one trio run: all of it but the sockets."""

from collections.abc import Mapping

import attrs
import trio

from hs.repl.rpc_client import InstanceUnreachable
from hs.repl.rpc_http import RpcEndpoint


@attrs.define(eq=False)
class InProcSender:
    """A sender that calls the endpoints of other instances directly."""

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
            raise InstanceUnreachable("it does not run")
        with trio.move_on_after(timeout_s):
            return await endpoint.handle(path, body, headers)
        raise InstanceUnreachable("no answer in time")
