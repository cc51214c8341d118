"""Calls between instances in one trio run: all of it but the sockets."""

from itertools import count

import attrs
import trio

from hs.repl.calls.client import InstanceUnreachable
from hs.repl.calls.reply import RpcCall, WriterPositions
from hs.repl.calls.server import RpcServer


@attrs.define(eq=False)
class InProcSender:
    """A sender that begins the calls at the servers of other instances directly."""

    _servers: dict[str, RpcServer] = attrs.Factory(dict)
    _numbers: "count[int]" = attrs.Factory(count)

    def connect(self, instance: str, server: RpcServer) -> None:
        """Make an instance reachable."""
        self._servers[instance] = server

    def disconnect(self, instance: str) -> None:
        """Make an instance unreachable."""
        self._servers.pop(instance, None)

    async def call(
        self, instance: str, call: RpcCall, timeout_s: float, *, is_movable: bool = False
    ) -> tuple[bytes, WriterPositions]:
        """Call the server of an instance."""
        server = self._servers.get(instance)
        if server is None:
            raise InstanceUnreachable("it does not run")
        done = trio.Event()
        replies: list[bytes] = []

        def deliver(reply: bytes) -> None:
            replies.append(reply)
            done.set()

        with trio.move_on_after(timeout_s):
            server.begin(("", next(self._numbers)), call, deliver)
            await done.wait()
            return replies[0], server.positions()
        raise InstanceUnreachable("no answer in time")
