"""The client of RPC: proxies that are generated from Protocols.

A caller reads its own writes: with a reply come the positions of the owner's writers, and the proxy
returns only after the feed of this process has reached them.
"""

import logging
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any, Protocol, TypeVar

import attrs
import msgspec
import trio

from hs.core.stream_def import StreamDef
from hs.core.streams import CATALOGUE
from hs.lib.caching.single_flight import SingleFlight
from hs.lib.log import REQUEST_ID
from hs.lib.tally import Tally
from hs.repl.calls.frames import MAX_MESSAGE_BYTES
from hs.repl.calls.reply import (
    CallNotBegun,
    RpcCall,
    RpcFailed,
    RpcReply,
    RpcUnavailable,
    WriterPositions,
    raise_from,
)
from hs.repl.feed import Feed
from hs.repl.freshness import Look, TargetPositions, catch_up
from hs.repl.rpc import RpcMethod, rpc_methods

P = TypeVar("P")

MAX_CALL_BYTES = MAX_MESSAGE_BYTES - 64 * 1024
SECRET_MISMATCH = (
    "its worker_replication_secret or, if that is not set, its signing key differs from ours"
)

log = logging.getLogger(__name__)


_decode_reply = msgspec.msgpack.Decoder(RpcReply).decode


class InstanceUnreachable(Exception):
    """An instance did not reply before the deadline."""


class CallRejected(Exception):
    """An instance does not know the secret of this process."""


class CallSender(Protocol):
    """The transport of calls to other instances."""

    async def call(
        self, instance: str, call: RpcCall, timeout_s: float, *, is_movable: bool = False
    ) -> tuple[bytes, WriterPositions]:
        """Return the encoded RpcReply, or b"" if the instance is stopping.

        Sends the call again after a broken connection; it is executed once. The positions are those
        of the instance's writers which the caller may not have reached; it removes others. A call
        that `is_movable` fails if the instance cannot have begun it and others may take over.
        Raises: InstanceUnreachable, CallRejected, CallNotBegun.
        """


async def _look_nowhere(_: TargetPositions) -> None:
    await trio.lowlevel.checkpoint()


@attrs.define(eq=False)
class RpcClients:
    """The proxies of this process, which call owners in other processes.

    `look` looks for new rows without messages; see Intake.look. `calls` are metrics by method and
    instance; a failure is a call without a reply or with that of a bug.
    """

    _sender: CallSender
    _feed: Feed
    _streams: Mapping[str, StreamDef[Any]] = attrs.Factory(
        lambda: {stream.name: stream for stream in CATALOGUE}
    )
    _look: Look = _look_nowhere
    _proxies: dict[tuple[type[Any], str, bool], Any] = attrs.Factory(dict)
    _rejecting: set[str] = attrs.field(factory=set, init=False)
    _admitting: set[str] = attrs.field(factory=set, init=False)
    _waits: SingleFlight[frozenset[tuple[tuple[str, str], int]]] = attrs.field(
        factory=SingleFlight, init=False
    )
    calls: dict[tuple[str, str], Tally] = attrs.field(factory=dict, init=False)

    def proxy(self, protocol: type[P], instance: str) -> P:
        """Return an object whose methods call the `@rpc` methods of a Protocol at `instance`.

        They raise the MatrixError or RemoteFault of the implementation, RpcFailed or
        RpcUnavailable.
        """
        return self._proxy(protocol, instance, is_movable=False)

    def proxy_of_holder(self, protocol: type[P], instance: str) -> P:
        """Return a proxy of a process whose slots may pass to others; see `proxy`.

        Its methods also raise CallNotBegun.
        """
        return self._proxy(protocol, instance, is_movable=True)

    def never_admitted_by(self, instance: str) -> bool:
        """Return whether an instance has rejected calls of this process, and never admitted one."""
        return instance in self._rejecting and instance not in self._admitting

    def _proxy(self, protocol: type[P], instance: str, *, is_movable: bool) -> P:
        cached: P | None = self._proxies.get((protocol, instance, is_movable))
        if cached is not None:
            return cached
        methods = {
            name: self._remote(method, instance, is_movable)
            for name, method in rpc_methods(protocol).items()
        }
        proxy: P = type(f"Remote{protocol.__name__}", (), methods)()
        self._proxies[protocol, instance, is_movable] = proxy
        return proxy

    def _remote(self, method: RpcMethod, instance: str, is_movable: bool) -> Callable[..., Any]:
        tally = self.calls.setdefault((method.full_name, instance), Tally())

        async def call(_: object, *args: Any, **kwargs: Any) -> Any:
            began = perf_counter()
            try:
                arguments = method.encode_arguments(args, kwargs)
                result = await self._call(method, instance, arguments, is_movable)
            except (RpcUnavailable, RpcFailed, CallNotBegun):
                tally.add_failure(perf_counter() - began)
                raise
            except BaseException:
                tally.add(perf_counter() - began)
                raise
            tally.add(perf_counter() - began)
            return result

        call.__name__ = method.name
        return call

    async def _call(
        self, method: RpcMethod, instance: str, arguments: bytes, is_movable: bool
    ) -> Any:
        name = method.full_name
        if len(arguments) > MAX_CALL_BYTES:
            raise RpcFailed(f"{name} at {instance}: the arguments have {len(arguments)} bytes")
        # The owner is not told that the caller has less time, which costs more to find out than
        # the call itself; nor is it told that the caller is cancelled.
        call = RpcCall(name, msgspec.Raw(arguments), method.timeout_s, REQUEST_ID.get())
        try:
            encoded, positions = await self._sender.call(
                instance, call, method.timeout_s, is_movable=is_movable
            )
        except InstanceUnreachable as error:
            log.warning("call of %s: process %s cannot be reached: %s", name, instance, error)
            raise RpcUnavailable(instance, str(error)) from error
        except CallRejected:
            if instance not in self._rejecting:
                self._rejecting.add(instance)
                log.error("process %s rejects our calls: %s", instance, SECRET_MISMATCH)
            raise RpcUnavailable(instance, SECRET_MISMATCH) from None
        if not encoded:
            raise RpcUnavailable(instance, "it is stopping")
        self._rejecting.discard(instance)
        self._admitting.add(instance)
        reply = _decode_reply(encoded)
        if method.catch_up:
            self._forget_reached(positions)
            if positions:
                # Many replies arrive together, and wait for the same rows.
                key = frozenset(positions.items())
                await self._waits.run(key, self._catch_up, dict(positions), instance)
        raise_from(reply, instance, name)
        return method.decode_result(reply.payload)

    def _forget_reached(self, positions: WriterPositions) -> None:
        """Remove the positions that this process has reached, and those that it does not follow."""
        for key, position in tuple(positions.items()):
            name, writer = key
            stream = self._streams.get(name)
            seen = None if stream is None else self._feed.position_of(stream, writer)
            if seen is None or seen >= position:
                del positions[key]

    async def _catch_up(self, positions: WriterPositions, instance: str) -> None:
        targets = [
            (self._streams[name], writer, position)
            for (name, writer), position in positions.items()
        ]
        if not await catch_up(self._feed, targets, self._look):
            log.warning("timed out waiting for replication of what %s wrote", instance)
