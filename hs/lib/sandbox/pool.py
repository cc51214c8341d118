"""Runs functions on untrusted input in processes of their own, with limits on memory and time.

A pool of children that speak over pipes (`hs.lib.sandbox.child`). A child that crashes, is too
slow or whose caller was cancelled is killed, and another takes its place at the next job. Nothing
needs to run for the pool to work; `keep` ends children that are not used, and all at the end.
"""

import enum
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import attrs
import trio

import hs
from hs.lib.sandbox.child import (
    ANSWER,
    ANSWER_TOO_LARGE,
    DONE,
    JOB,
    OUT_OF_MEMORY,
    READY,
)

# Enough for decoding an image of 32 million pixels, and a copy of it.
MEMORY_BYTES = 1 << 30
START_TIMEOUT_S = 60.0
# A child is replaced after so many jobs: whatever they left behind goes with it.
JOBS_PER_CHILD = 200
IDLE_S = 60.0
MAX_WAITING = 200
_CHUNK = 1 << 16


class FaultKind(enum.Enum):
    """Why a job brought no answer."""

    FAILED = "the function raised"
    MEMORY = "out of memory"
    TIMED_OUT = "too slow"
    TOO_LARGE = "the answer is too large"
    CRASHED = "the process ended"
    BUSY = "too many jobs are waiting"


class SandboxFault(Exception):
    """A job brought no answer; `kind` says why, `message` is for the log."""

    def __init__(self, kind: FaultKind, message: str = "") -> None:
        super().__init__(f"{kind.value}: {message}" if message else kind.value)
        self.kind = kind
        self.message = message


@attrs.define(eq=False)
class _Child:
    """One process of the pool and how much it has done."""

    process: trio.Process
    jobs: int = 0
    idle_since: float = 0.0

    async def send(self, data: bytes) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(data)

    async def receive(self, length: int) -> bytes:
        """Read so many bytes. Raises: SandboxFault when the process ends before."""
        assert isinstance(self.process.stdout, trio.abc.ReceiveStream)
        parts: list[bytes] = []
        missing = length
        while missing:
            part = await self.process.stdout.receive_some(min(missing, _CHUNK))
            if not part:
                raise SandboxFault(FaultKind.CRASHED)
            parts.append(bytes(part))
            missing -= len(part)
        return b"".join(parts)

    async def end(self) -> int:
        """Kill the process and clear away what is left of it; give its status."""
        with trio.CancelScope(shield=True):
            if self.process.returncode is None:
                self.process.kill()
            status = await self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    await pipe.aclose()
        return status


@attrs.define(eq=False)
class Sandbox:
    """The pool of one process of ours: at most `children` jobs run at once, the others wait."""

    children: int = 2
    memory_bytes: int = MEMORY_BYTES
    _idle: list[_Child] = attrs.field(factory=list, init=False)
    _slots: trio.Semaphore = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._slots = trio.Semaphore(self.children)

    async def run(
        self, function: str, payload: bytes, *, timeout_s: float, max_bytes: int
    ) -> bytes:
        """Call `module:function` with the payload; give its answer of at most `max_bytes`.

        `timeout_s` bounds the work, in time that passes and of the processor, not the wait for
        a free child. Raises: SandboxFault.
        """
        if self._slots.statistics().tasks_waiting >= MAX_WAITING:
            raise SandboxFault(FaultKind.BUSY)
        async with self._slots:
            child = self._idle.pop() if self._idle else await self._start()
            try:
                with trio.fail_after(timeout_s):
                    answer = await self._work(child, function, payload, timeout_s, max_bytes)
            except trio.TooSlowError:
                await child.end()
                raise SandboxFault(FaultKind.TIMED_OUT, function) from None
            except SandboxFault as fault:
                if fault.kind in (FaultKind.FAILED, FaultKind.TOO_LARGE):
                    await self._put_back(child)
                    raise
                raise _explained(fault, await child.end(), function) from None
            except BaseException:
                # Cancelled half way: what it would answer is nobody's.
                await child.end()
                raise
            await self._put_back(child)
            return answer

    async def keep(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """End children that have nothing to do, and all of them when cancelled."""
        task_status.started()
        try:
            while True:
                await trio.sleep(IDLE_S / 2)
                limit = trio.current_time() - IDLE_S
                stale = [child for child in self._idle if child.idle_since < limit]
                self._idle = [child for child in self._idle if child not in stale]
                for child in stale:
                    await child.end()
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """End the children that have nothing to do."""
        idle, self._idle = self._idle, []
        for child in idle:
            await child.end()

    async def _start(self) -> _Child:
        # A bare environment: no secret of ours is to be found in there.
        environment = {
            "PYTHONPATH": str(Path(hs.__file__).parent.parent),
            "LANG": "C.UTF-8",
            "MALLOC_ARENA_MAX": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        command = [sys.executable, "-s", "-m", "hs.lib.sandbox.child", str(self.memory_bytes)]
        try:
            process = await trio.lowlevel.open_process(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                cwd=os.sep,
                start_new_session=True,
            )
        except OSError as error:
            raise SandboxFault(FaultKind.CRASHED, f"cannot start: {error}") from error
        child = _Child(process)
        try:
            with trio.fail_after(START_TIMEOUT_S):
                await child.receive(len(READY))
        except trio.TooSlowError:
            await child.end()
            raise SandboxFault(FaultKind.TIMED_OUT, "while starting") from None
        except BaseException:
            await child.end()
            raise
        return child

    async def _work(
        self, child: _Child, function: str, payload: bytes, timeout_s: float, max_bytes: int
    ) -> bytes:
        child.jobs += 1
        name = function.encode()
        try:
            await child.send(JOB.pack(len(name), len(payload), math.ceil(timeout_s), max_bytes))
            await child.send(name)
            await child.send(payload)
        except trio.BrokenResourceError:
            raise SandboxFault(FaultKind.CRASHED) from None
        outcome, length = ANSWER.unpack(await child.receive(ANSWER.size))
        if outcome == DONE and length <= max_bytes:
            return await child.receive(length)
        if length > _CHUNK:
            raise SandboxFault(FaultKind.CRASHED, "it does not keep to the protocol")
        words = (await child.receive(length)).decode(errors="replace")
        if outcome == OUT_OF_MEMORY:
            raise SandboxFault(FaultKind.MEMORY, function)
        if outcome == ANSWER_TOO_LARGE:
            raise SandboxFault(FaultKind.TOO_LARGE, words)
        raise SandboxFault(FaultKind.FAILED, words)

    async def _put_back(self, child: _Child) -> None:
        if child.jobs >= JOBS_PER_CHILD:
            await child.end()
            return
        child.idle_since = trio.current_time()
        self._idle.append(child)


def _explained(fault: SandboxFault, status: int, function: str) -> SandboxFault:
    if fault.kind is not FaultKind.CRASHED:
        return fault
    if status == -signal.SIGXCPU:
        return SandboxFault(FaultKind.TIMED_OUT, f"{function} used up its time of the processor")
    return SandboxFault(FaultKind.CRASHED, fault.message or f"{function}: status {status}")
