"""The server of RPC: executes each call once, in a task that outlives its connection.

Rules:

- A call runs in a task of the server's own nursery, so it is finished even if the caller's
  connection breaks.
- All attempts at a call have the same key. The first one starts it, those that arrive meanwhile
  wait for it, and later ones get the remembered reply. Replies are remembered up to a number and
  a total size, which is long enough for retries.
- When the server stops, running calls are cancelled. Their attempts get no reply (HTTP status
  503), and the clients on whose behalf they were made may retry.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from time import perf_counter
from typing import Any

import attrs
import msgspec
import trio

from hs.core.errors import MatrixError, RemoteFault, Unavailable
from hs.lib.log import REQUEST_ID
from hs.lib.tally import Tally
from hs.repl.rpc import RpcMethod, rpc_methods
from hs.repl.rpc_reply import (
    RpcOutcome,
    RpcReply,
    WriterPositions,
    fault_payload,
    matrix_error_payload,
    remote_fault_payload,
)
from hs.repl.transport import Source

MAX_REMEMBERED = 10_000
MAX_REMEMBERED_BYTES = 32 * 1024 * 1024

log = logging.getLogger(__name__)


@attrs.frozen(eq=False)
class RpcCall:
    """A call as it was received; `key` is the same for every attempt at it."""

    protocol: str
    method: str
    arguments: bytes
    key: str
    timeout_s: float
    request_id: str = "-"


@attrs.define(eq=False)
class _Running:
    done: trio.Event = attrs.Factory(trio.Event)
    reply: bytes = b""


@attrs.define(eq=False)
class RpcServer:
    """The registered implementations, and the calls of them that are running.

    `sources` returns the writers of this process, whose positions are part of every reply. `calls`
    are metrics by method; a failure is a bug or a passed deadline.
    """

    _sources: Callable[[], list[Source]]
    _methods: dict[tuple[str, str], tuple[RpcMethod, Callable[..., Any]]] = attrs.Factory(dict)
    _running: dict[str, _Running] = attrs.Factory(dict)
    _remembered: OrderedDict[str, bytes] = attrs.Factory(OrderedDict)
    _remembered_bytes: int = 0
    _nursery: trio.Nursery | None = None
    calls: dict[str, Tally] = attrs.field(factory=dict, init=False)

    @property
    def running(self) -> int:
        """Number of running calls."""
        return len(self._running)

    def register(self, protocol: type[Any], implementation: Any) -> None:
        """Make the `@rpc` methods of a Protocol on an object available to other processes."""
        for method in rpc_methods(protocol).values():
            bound = getattr(implementation, method.name)
            self._methods[method.protocol, method.name] = (method, bound)
            self.calls[f"{method.protocol}.{method.name}"] = Tally()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Execute calls until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    async def execute(self, call: RpcCall) -> bytes | None:
        """Execute a call, or join an earlier attempt at it, and return the encoded reply.

        Returns None if the server is not running or stops during the call.
        """
        remembered = self._remembered.get(call.key)
        if remembered is not None:
            return remembered
        running = self._running.get(call.key)
        if running is None:
            if self._nursery is None:
                return None
            running = self._running[call.key] = _Running()
            self._nursery.start_soon(self._run_call, call, running)
        await running.done.wait()
        return running.reply or None

    async def _run_call(self, call: RpcCall, running: _Running) -> None:
        try:
            REQUEST_ID.set(call.request_id)
            began = perf_counter()
            outcome, payload = await self._outcome(call)
            self._count(call, outcome, perf_counter() - began)
            reply = RpcReply(outcome, msgspec.Raw(payload), self._positions())
            running.reply = msgspec.msgpack.encode(reply)
            if outcome is not RpcOutcome.NO_METHOD:
                self._remember(call.key, running.reply)
        finally:
            del self._running[call.key]
            running.done.set()

    def _count(self, call: RpcCall, outcome: RpcOutcome, seconds: float) -> None:
        tally = self.calls.get(f"{call.protocol}.{call.method}")
        if tally is not None:
            (tally.add_failure if outcome is RpcOutcome.FAULT else tally.add)(seconds)

    async def _outcome(self, call: RpcCall) -> tuple[RpcOutcome, bytes]:
        registered = self._methods.get((call.protocol, call.method))
        if registered is None:
            return RpcOutcome.NO_METHOD, fault_payload("this process does not have the method")
        method, implementation = registered
        try:
            arguments = method.decode_arguments(call.arguments)
            with trio.fail_after(call.timeout_s):
                result = await implementation(*arguments)
            return RpcOutcome.RESULT, method.encode_result(result)
        except MatrixError as error:
            return RpcOutcome.MATRIX_ERROR, matrix_error_payload(error)
        except Unavailable as cause:
            log.warning(
                "call of %s.%s failed, the caller may retry: %s", call.protocol, call.method, cause
            )
            unavailable = MatrixError("M_UNKNOWN", 503, cause.ANSWER)
            return RpcOutcome.MATRIX_ERROR, matrix_error_payload(unavailable)
        except RemoteFault as fault:
            return RpcOutcome.REMOTE_FAULT, remote_fault_payload(fault)
        except Exception as error:
            log.exception("call of %s.%s failed", call.protocol, call.method)
            return RpcOutcome.FAULT, fault_payload(type(error).__name__)

    def _positions(self) -> WriterPositions:
        # Committed positions only: readers learn of the advances of idle writers later.
        positions: WriterPositions = {}
        for source in self._sources():
            positions.setdefault(source.stream.name, {})[source.writer] = source.committed
        return positions

    def _remember(self, key: str, reply: bytes) -> None:
        self._remembered[key] = reply
        self._remembered_bytes += len(reply)
        while self._remembered and (
            len(self._remembered) > MAX_REMEMBERED or self._remembered_bytes > MAX_REMEMBERED_BYTES
        ):
            _, oldest = self._remembered.popitem(last=False)
            self._remembered_bytes -= len(oldest)
