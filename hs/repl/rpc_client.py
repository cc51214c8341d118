"""The caller's end of RPC: proxies generated from Protocols, and reading one's own writes."""

import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter
from typing import Any, Protocol, TypeVar

import attrs
import msgspec
import trio

from hs.lib.log import REQUEST_ID
from hs.lib.tally import Tally
from hs.repl.feed import Feed
from hs.repl.freshness import catch_up
from hs.repl.rpc import RpcMethod, rpc_methods
from hs.repl.rpc_reply import Positions, Reply, RpcFailed, RpcUnavailable, raise_from
from hs.repl.streams import CATALOGUE, StreamDef

P = TypeVar("P")

RPC_PATH = "/_synapse/replication/rpc"
OTHER_SECRET = (
    "its worker_replication_secret is not ours, or, where there is none, its signing key is not"
)

log = logging.getLogger(__name__)


class Unreachable(Exception):
    """No answer came from an instance by the deadline."""


class Sender(Protocol):
    """Carries a request to an instance and brings its answer."""

    async def post(
        self, instance: str, path: str, headers: Mapping[str, str], body: bytes, timeout_s: float
    ) -> tuple[int, bytes]:
        """Post to an instance, again after broken connections, until `timeout_s` has passed.

        Raises: Unreachable.
        """


async def _look_nowhere() -> None:
    await trio.lowlevel.checkpoint()


@attrs.define(eq=False)
class RpcClients:
    """Gives proxies that call the owners in other processes.

    `look` brings to the feed what messages should have told. `calls` counts what was asked of
    whom, and how often no answer came, or that of a fault.
    """

    _sender: Sender
    _secret: str
    _feed: Feed
    _streams: Mapping[str, StreamDef[Any]] = attrs.Factory(
        lambda: {stream.name: stream for stream in CATALOGUE}
    )
    _look: Callable[[], Awaitable[None]] = _look_nowhere
    _proxies: dict[tuple[type[Any], str], Any] = attrs.Factory(dict)
    _refusing: set[str] = attrs.field(factory=set, init=False)
    calls: dict[tuple[str, str], Tally] = attrs.field(factory=dict, init=False)

    def proxy(self, protocol: type[P], instance: str) -> P:
        """Give an object with the `@rpc` methods of a Protocol, done by `instance`.

        They raise what the implementation raises (MatrixError, RemoteFault), else RpcFailed or
        RpcUnavailable; when they return, this process's feed has seen what the owner wrote.
        """
        known: P | None = self._proxies.get((protocol, instance))
        if known is not None:
            return known
        methods = {
            name: self._remote(method, instance) for name, method in rpc_methods(protocol).items()
        }
        made: P = type(f"Remote{protocol.__name__}", (), methods)()
        self._proxies[protocol, instance] = made
        return made

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
        except Unreachable as error:
            log.warning("%s: the process %s cannot be reached: %s", name, instance, error)
            raise RpcUnavailable(instance, str(error)) from error
        if status == 401:
            if instance not in self._refusing:
                self._refusing.add(instance)
                log.error("the process %s refuses our calls: %s", instance, OTHER_SECRET)
            raise RpcUnavailable(instance, OTHER_SECRET)
        if status == 503:
            raise RpcUnavailable(instance, "it is stopping")
        if status != 200:
            raise RpcFailed(f"{name} at {instance}: HTTP status {status}")
        self._refusing.discard(instance)
        reply = msgspec.msgpack.decode(body, type=Reply)
        if method.catch_up:
            await self._catch_up(reply.positions, instance)
        raise_from(reply, instance, name)
        return method.decode_result(reply.payload)

    async def _catch_up(self, positions: Positions, instance: str) -> None:
        wanted = [
            (stream, writer, position)
            for name, writers in positions.items()
            for writer, position in writers.items()
            if (stream := self._streams.get(name)) is not None
            and self._feed.position_of(stream, writer) is not None
        ]
        if not await catch_up(self._feed, wanted, self._look):
            log.warning("what %s wrote is late at this process", instance)
