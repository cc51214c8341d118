"""The owner's end of RPC: runs each call once, in a task that outlives its connection."""

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
    Outcome,
    Positions,
    Reply,
    fault_payload,
    matrix_error_payload,
    remote_fault_payload,
)
from hs.repl.transport import Source

MAX_REMEMBERED = 10_000
MAX_REMEMBERED_BYTES = 32 * 1024 * 1024

log = logging.getLogger(__name__)


@attrs.frozen(eq=False)
class Call:
    """One call as it came; `key` is the same for every attempt at it."""

    protocol: str
    method: str
    arguments: bytes
    key: str
    deadline_s: float
    request_id: str = "-"


@attrs.define(eq=False)
class _Running:
    done: trio.Event = attrs.Factory(trio.Event)
    reply: bytes = b""


@attrs.define(eq=False)
class RpcServer:
    """Answers calls to the implementations registered with it.

    `sources` lists the writers of this process: their positions go with every reply. `calls`
    counts what was asked, and how often a fault of ours was the answer.
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
        """How many calls are being answered."""
        return len(self._running)

    def register(self, protocol: type[Any], implementation: Any) -> None:
        """Let other processes call the `@rpc` methods of a Protocol on an object."""
        for method in rpc_methods(protocol).values():
            bound = getattr(implementation, method.name)
            self._methods[method.protocol, method.name] = (method, bound)
            self.calls[f"{method.protocol}.{method.name}"] = Tally()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run calls until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    async def answer(self, call: Call) -> bytes | None:
        """Do a call, or give the answer of an earlier attempt at it; None while not running."""
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

    async def _run_call(self, call: Call, running: _Running) -> None:
        try:
            REQUEST_ID.set(call.request_id)
            began = perf_counter()
            outcome, payload = await self._outcome(call)
            self._count(call, outcome, perf_counter() - began)
            reply = Reply(outcome, msgspec.Raw(payload), self._positions())
            running.reply = msgspec.msgpack.encode(reply)
            if outcome is not Outcome.NO_METHOD:
                self._remember(call.key, running.reply)
        finally:
            del self._running[call.key]
            running.done.set()

    def _count(self, call: Call, outcome: Outcome, seconds: float) -> None:
        tally = self.calls.get(f"{call.protocol}.{call.method}")
        if tally is not None:
            (tally.add_failure if outcome is Outcome.FAULT else tally.add)(seconds)

    async def _outcome(self, call: Call) -> tuple[Outcome, bytes]:
        found = self._methods.get((call.protocol, call.method))
        if found is None:
            return Outcome.NO_METHOD, fault_payload("this process does not answer it")
        method, implementation = found
        try:
            arguments = method.decode_arguments(call.arguments)
            with trio.fail_after(call.deadline_s):
                result = await implementation(*arguments)
            return Outcome.RESULT, method.encode_result(result)
        except MatrixError as error:
            return Outcome.MATRIX_ERROR, matrix_error_payload(error)
        except Unavailable as cause:
            log.warning("a call of %s.%s: %s", call.protocol, call.method, cause)
            told = MatrixError("M_UNKNOWN", 503, "Not possible just now; try again")
            return Outcome.MATRIX_ERROR, matrix_error_payload(told)
        except RemoteFault as fault:
            return Outcome.REMOTE_FAULT, remote_fault_payload(fault)
        except Exception as error:
            log.exception("a call of %s.%s failed", call.protocol, call.method)
            return Outcome.FAULT, fault_payload(type(error).__name__)

    def _positions(self) -> Positions:
        # What was committed, and not the advances of silent writers: those are told later.
        positions: Positions = {}
        for source in self._sources():
            positions.setdefault(source.stream.name, {})[source.writer] = source.committed
        return positions

    def _remember(self, key: str, reply: bytes) -> None:
        self._remembered[key] = reply
        self._remembered_bytes += len(reply)
        while self._remembered and (
            len(self._remembered) > MAX_REMEMBERED or self._remembered_bytes > MAX_REMEMBERED_BYTES
        ):
            _, forgotten = self._remembered.popitem(last=False)
            self._remembered_bytes -= len(forgotten)
