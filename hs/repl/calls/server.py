"""The server of RPC: executes each call once, in a task that outlives its connection.

Rules:

- A call runs in a task of the server's own nursery, so it is finished even if the caller's
  connection breaks. Tasks are used again: a task and a cancel scope for each call would cost more
  than all the rest. A task whose call was cancelled at its deadline ends.
- All attempts at a call have the same key. The first one starts it, those that arrive meanwhile
  wait for it, and later ones get the remembered reply. Replies are remembered up to a number and
  a total size, which is long enough for retries.
- When the server stops, running calls are cancelled. Their attempts get an empty reply, and the
  clients on whose behalf they were made may retry.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from time import perf_counter
from typing import Any

import attrs
import msgspec
import trio

from hs.core.errors import MatrixError, ProcessUnavailable, RemoteFault, Unavailable
from hs.lib.log import REQUEST_ID
from hs.lib.tally import Tally
from hs.lib.tasks import BackgroundNursery
from hs.repl.calls.deadlines import Deadlines
from hs.repl.calls.frames import MAX_MESSAGE_BYTES
from hs.repl.calls.reply import (
    RpcCall,
    RpcOutcome,
    RpcReply,
    WriterPositions,
    fault_payload,
    matrix_error_payload,
    remote_fault_payload,
)
from hs.repl.rpc import RpcMethod, rpc_methods
from hs.repl.transport import Source

MAX_TIMEOUT_S = 600.0
MAX_IDLE = 64  # tasks that wait for calls
MAX_REMEMBERED = 10_000
MAX_REMEMBERED_BYTES = 32 * 1024 * 1024
MAX_REPLY_BYTES = MAX_MESSAGE_BYTES - 64 * 1024
encode = msgspec.msgpack.Encoder().encode

log = logging.getLogger(__name__)


CallKey = tuple[str, int]
"""The caller, and the number that it gave the call."""

Deliver = Callable[[bytes], None]
"""Takes an encoded RpcReply, or b"" if there is none because the server stops."""


@attrs.define(eq=False)
class _Worker:
    """A task that executes calls, one after the other; `scope` cancels it with its call."""

    key: CallKey
    call: RpcCall
    scope: trio.CancelScope = attrs.Factory(trio.CancelScope)
    given: trio.Event = attrs.Factory(trio.Event)

    def cancel(self) -> None:
        """Cancel the call, because its deadline has passed."""
        self.scope.cancel()

    def give(self, key: CallKey, call: RpcCall) -> None:
        """Execute another call."""
        self.key, self.call = key, call
        self.given.set()

    async def wait(self) -> None:
        """Wait for another call."""
        self.given = trio.Event()
        await self.given.wait()


@attrs.define(eq=False)
class RpcServer:
    """The registered implementations, and the calls of them that are running.

    `sources` returns the writers of this process. `calls` are metrics by method; a failure is a bug
    or a passed deadline.
    """

    _sources: Callable[[], list[Source]]
    _methods: dict[str, tuple[RpcMethod, Callable[..., Any]]] = attrs.Factory(dict)
    _running: dict[CallKey, list[Deliver]] = attrs.Factory(dict)
    _remembered: OrderedDict[CallKey, bytes] = attrs.Factory(OrderedDict)
    _remembered_bytes: int = 0
    _background: BackgroundNursery = attrs.field(factory=BackgroundNursery, init=False)
    _idle: list[_Worker] = attrs.field(factory=list, init=False)
    _deadlines: Deadlines[_Worker] = attrs.field(
        factory=lambda: Deadlines(_Worker.cancel), init=False
    )
    calls: dict[str, Tally] = attrs.field(factory=dict, init=False)

    @property
    def running(self) -> int:
        """Number of running calls."""
        return len(self._running)

    def register(self, protocol: type[Any], implementation: Any) -> None:
        """Make the `@rpc` methods of a Protocol on an object available to other processes."""
        for method in rpc_methods(protocol).values():
            self._methods[method.full_name] = (method, getattr(implementation, method.name))
            self.calls[method.full_name] = Tally()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Execute calls until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._deadlines.run)
            try:
                await self._background.run(task_status)
            finally:
                self._idle.clear()

    def begin(self, key: CallKey, call: RpcCall, deliver: Deliver) -> None:
        """Begin a call, or join an earlier attempt at it; deliver its reply, perhaps at once."""
        remembered = self._remembered.get(key)
        if remembered is not None:
            deliver(remembered)
        elif key in self._running:
            self._running[key].append(deliver)
        elif self._background.nursery is None:
            deliver(b"")
        else:
            self._running[key] = [deliver]
            if self._idle:
                self._idle.pop().give(key, call)
            else:
                self._background.nursery.start_soon(self._work, _Worker(key, call))

    def positions(self) -> WriterPositions:
        """Return how far each writer of this process has committed, of the streams to wait for.

        The advances of idle writers are not included: readers learn of them later.
        """
        return {
            (source.stream.name, source.writer): source.committed
            for source in self._sources()
            if source.stream.is_awaited
        }

    async def _work(self, worker: _Worker) -> None:
        try:
            with worker.scope:
                while True:
                    await self._run_call(worker)
                    if worker.scope.cancel_called or len(self._idle) >= MAX_IDLE:
                        return
                    self._idle.append(worker)
                    await worker.wait()
        except Exception:
            log.exception("a call failed while it was cancelled at its deadline")
        finally:
            if worker in self._idle:
                self._idle.remove(worker)
            elif worker.given.is_set():
                # What it was given while the server stops has not begun.
                for deliver in self._running.pop(worker.key, ()):
                    deliver(b"")

    async def _run_call(self, worker: _Worker) -> None:
        key, call, reply = worker.key, worker.call, b""
        timeout_s = min(max(call.timeout_s, 0.0), MAX_TIMEOUT_S)
        self._deadlines.add(worker, trio.current_time() + timeout_s)
        began = perf_counter()
        try:
            REQUEST_ID.set(call.request_id)
            outcome, payload = await self._outcome(call)
            reply = self._reply(key, call, outcome, payload, began)
        finally:
            self._deadlines.remove(worker)
            if not reply and worker.scope.cancel_called:
                # The database is slow, or this process did not run for a while. It is no bug, and
                # the caller may retry.
                log.warning("call of %s did not end within %.1f s", call.method, timeout_s)
                late = fault_payload("the deadline passed")
                reply = self._reply(key, call, RpcOutcome.LATE, late, began)
            for deliver in self._running.pop(key):
                deliver(reply)

    def _reply(
        self, key: CallKey, call: RpcCall, outcome: RpcOutcome, payload: bytes, began: float
    ) -> bytes:
        """Return the encoded reply, which is counted and remembered."""
        self._count(call, outcome, perf_counter() - began)
        reply = encode(RpcReply(outcome, msgspec.Raw(payload)))
        if outcome is not RpcOutcome.NO_METHOD:
            self._remember(key, reply)
        return reply

    def _count(self, call: RpcCall, outcome: RpcOutcome, seconds: float) -> None:
        tally = self.calls.get(call.method)
        if tally is not None:
            is_failure = outcome in (RpcOutcome.FAULT, RpcOutcome.LATE)
            (tally.add_failure if is_failure else tally.add)(seconds)

    async def _outcome(self, call: RpcCall) -> tuple[RpcOutcome, bytes]:
        registered = self._methods.get(call.method)
        if registered is None:
            return RpcOutcome.NO_METHOD, fault_payload("this process does not have the method")
        method, implementation = registered
        try:
            arguments = method.decode_arguments(call.arguments)
            result = await implementation(*arguments)
            payload = method.encode_result(result)
            if len(payload) > MAX_REPLY_BYTES:
                raise ValueError(f"the result has {len(payload)} bytes")
            return RpcOutcome.RESULT, payload
        except MatrixError as error:
            return RpcOutcome.MATRIX_ERROR, matrix_error_payload(error)
        except Unavailable as cause:
            log.warning("call of %s failed, the caller may retry: %s", call.method, cause)
            unavailable = ProcessUnavailable(cause.ANSWER)
            return RpcOutcome.MATRIX_ERROR, matrix_error_payload(unavailable)
        except RemoteFault as fault:
            return RpcOutcome.REMOTE_FAULT, remote_fault_payload(fault)
        except Exception as error:
            log.exception("call of %s failed", call.method)
            return RpcOutcome.FAULT, fault_payload(type(error).__name__)

    def _remember(self, key: CallKey, reply: bytes) -> None:
        self._remembered[key] = reply
        self._remembered_bytes += len(reply)
        while self._remembered and (
            len(self._remembered) > MAX_REMEMBERED or self._remembered_bytes > MAX_REMEMBERED_BYTES
        ):
            _, oldest = self._remembered.popitem(last=False)
            self._remembered_bytes -= len(oldest)
