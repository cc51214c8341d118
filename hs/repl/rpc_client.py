"""The client of RPC: proxies that are generated from Protocols.

A caller reads its own writes: a reply has the positions of the owner's writers, and the proxy
returns only after the feed of this process has reached them.
"""

import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter
from typing import Any, Protocol, TypeVar

import attrs
import msgspec
import trio

from hs.core.stream_def import StreamDef
from hs.core.streams import CATALOGUE
from hs.lib.log import REQUEST_ID
from hs.lib.tally import Tally
from hs.repl.feed import Feed
from hs.repl.freshness import catch_up
from hs.repl.rpc import RpcMethod, rpc_methods
from hs.repl.rpc_reply import RpcFailed, RpcReply, RpcUnavailable, WriterPositions, raise_from

P = TypeVar("P")

RPC_PATH = "/_synapse/replication/rpc"
SECRET_MISMATCH = (
    "its worker_replication_secret or, if that is not set, its signing key differs from ours"
)

log = logging.getLogger(__name__)


class InstanceUnreachable(Exception):
    """An instance did not reply before the deadline."""


class RpcSender(Protocol):
    """The transport of requests to other instances."""

    async def post(
        self, instance: str, path: str, headers: Mapping[str, str], body: bytes, timeout_s: float
    ) -> tuple[int, bytes]:
        """Post to an instance, retrying after broken connections, and return (status, body).

        Raises: InstanceUnreachable.
        """


async def _look_nowhere() -> None:
    await trio.lowlevel.checkpoint()


@attrs.define(eq=False)
class RpcClients:
    """The proxies of this process, which call owners in other processes.

    `look` looks for new rows without messages; see Intake.look. `calls` are metrics by method and
    instance; a failure is a call without a reply or with that of a bug.
    """

    _sender: RpcSender
    _secret: str
    _feed: Feed
    _streams: Mapping[str, StreamDef[Any]] = attrs.Factory(
        lambda: {stream.name: stream for stream in CATALOGUE}
    )
    _look: Callable[[], Awaitable[None]] = _look_nowhere
    _proxies: dict[tuple[type[Any], str], Any] = attrs.Factory(dict)
    _rejecting: set[str] = attrs.field(factory=set, init=False)
    _admitting: set[str] = attrs.field(factory=set, init=False)
    calls: dict[tuple[str, str], Tally] = attrs.field(factory=dict, init=False)

    def proxy(self, protocol: type[P], instance: str) -> P:
        """Return an object whose methods call the `@rpc` methods of a Protocol at `instance`.

        They raise the MatrixError or RemoteFault of the implementation, RpcFailed or
        RpcUnavailable.
        """
        cached: P | None = self._proxies.get((protocol, instance))
        if cached is not None:
            return cached
        methods = {
            name: self._remote(method, instance) for name, method in rpc_methods(protocol).items()
        }
        proxy: P = type(f"Remote{protocol.__name__}", (), methods)()
        self._proxies[protocol, instance] = proxy
        return proxy

    def never_admitted_by(self, instance: str) -> bool:
        """Return whether an instance has rejected calls of this process, and never admitted one."""
        return instance in self._rejecting and instance not in self._admitting

    def _remote(self, method: RpcMethod, instance: str) -> Callable[..., Any]:
        tally = self.calls[f"{method.protocol}.{method.name}", instance] = Tally()

        async def call(_: object, *args: Any, **kwargs: Any) -> Any:
            began = perf_counter()
            try:
                result = await self._call(method, instance, method.encode_arguments(args, kwargs))
            except (RpcUnavailable, RpcFailed):
                tally.add_failure(perf_counter() - began)
                raise
            except BaseException:
                tally.add(perf_counter() - began)
                raise
            tally.add(perf_counter() - began)
            return result

        call.__name__ = method.name
        return call

    async def _call(self, method: RpcMethod, instance: str, arguments: bytes) -> Any:
        name = f"{method.protocol}.{method.name}"
        left_s = trio.current_effective_deadline() - trio.current_time()
        timeout_s = min(method.timeout_s, max(left_s, 0.0))
        headers = {
            "authorization": f"Bearer {self._secret}",
            "content-type": "application/msgpack",
            "x-hs-call": secrets.token_hex(12),
            "x-hs-timeout": f"{timeout_s:.3f}",
            "x-request-id": REQUEST_ID.get(),
        }
        path = f"{RPC_PATH}/{method.protocol}/{method.name}"
        try:
            status, body = await self._sender.post(instance, path, headers, arguments, timeout_s)
        except InstanceUnreachable as error:
            log.warning("call of %s: process %s cannot be reached: %s", name, instance, error)
            raise RpcUnavailable(instance, str(error)) from error
        if status == 401:
            if instance not in self._rejecting:
                self._rejecting.add(instance)
                log.error("process %s rejects our calls: %s", instance, SECRET_MISMATCH)
            raise RpcUnavailable(instance, SECRET_MISMATCH)
        if status == 503:
            raise RpcUnavailable(instance, "it is stopping")
        if status != 200:
            raise RpcFailed(f"{name} at {instance}: HTTP status {status}")
        self._rejecting.discard(instance)
        self._admitting.add(instance)
        reply = msgspec.msgpack.decode(body, type=RpcReply)
        if method.catch_up:
            await self._catch_up(reply.positions, instance)
        raise_from(reply, instance, name)
        return method.decode_result(reply.payload)

    async def _catch_up(self, positions: WriterPositions, instance: str) -> None:
        targets = [
            (stream, writer, position)
            for name, writers in positions.items()
            for writer, position in writers.items()
            if (stream := self._streams.get(name)) is not None
            and self._feed.position_of(stream, writer) is not None
        ]
        if not await catch_up(self._feed, targets, self._look):
            log.warning("timed out waiting for replication of what %s wrote", instance)
