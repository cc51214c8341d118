"""A pool of child processes that run functions on untrusted input, with limits.

Decoders of pictures and pages are the code most exposed to malicious input, so they run outside
of the server process. Rules:

- A child (`hs.lib.sandbox.child`) has limits on memory and CPU time, an empty environment, and may
  not write files. It knows none of the server's secrets.
- A child runs one job at a time. It is reused only after a complete response; after a crash, a
  timeout, a violation of the protocol or a cancellation it is killed, since the rest of the old
  response in its pipe would be read as the response to the next job.
- A job is limited twice: by elapsed time here, and by CPU time in the child, which also holds if
  this process is stuck. Waiting for a free child is not limited in time, but in the number of those
  who wait: MAX_WAITING.
- The child's responses are untrusted as well: lengths are checked before anything is read.
- Children are replaced after JOBS_PER_CHILD jobs, so that memory leaks and other damage do not add
  up.

Children start on demand. A background task of the pool ends idle ones, and all of them at shutdown.
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
    DONE,
    JOB,
    OUT_OF_MEMORY,
    READY,
    RESPONSE,
    RESULT_TOO_LARGE,
)

# Enough to decode an image of 32 million pixels and to copy it.
MEMORY_BYTES = 1 << 30
START_TIMEOUT_S = 60.0
JOBS_PER_CHILD = 200
IDLE_S = 60.0
MAX_WAITING = 200
_CHUNK = 1 << 16


class SandboxFaultKind(enum.Enum):
    """The reasons why a job has no result."""

    FAILED = "the function raised an exception"
    MEMORY = "out of memory"
    TIMED_OUT = "time limit exceeded"
    TOO_LARGE = "the result is too large"
    CRASHED = "the process ended unexpectedly"
    BUSY = "too many jobs are waiting"


class SandboxFault(Exception):
    """A job has no result; `kind` is the reason, `message` the details for the log."""

    def __init__(self, kind: SandboxFaultKind, message: str = "") -> None:
        super().__init__(f"{kind.value}: {message}" if message else kind.value)
        self.kind = kind
        self.message = message


@attrs.define(eq=False)
class _Child:
    """A process of the pool, and the number of jobs it has run."""

    process: trio.Process
    jobs: int = 0
    idle_since: float = 0.0

    async def send(self, data: bytes) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(data)

    async def receive(self, length: int) -> bytes:
        """Read exactly `length` bytes.

        Raises: SandboxFault, if the process ends before.
        """
        assert isinstance(self.process.stdout, trio.abc.ReceiveStream)
        parts: list[bytes] = []
        missing = length
        while missing:
            part = await self.process.stdout.receive_some(min(missing, _CHUNK))
            if not part:
                raise SandboxFault(SandboxFaultKind.CRASHED)
            parts.append(bytes(part))
            missing -= len(part)
        return b"".join(parts)

    async def end(self) -> int:
        """Kill the process, wait for it, close its pipes and return its exit status."""
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
    """The pool: at most `children` jobs run at the same time, further ones wait."""

    children: int = 2
    memory_bytes: int = MEMORY_BYTES
    _idle: list[_Child] = attrs.field(factory=list, init=False)
    _slots: trio.Semaphore = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._slots = trio.Semaphore(self.children)

    async def run(
        self, function: str, payload: bytes, *, timeout_s: float, max_bytes: int
    ) -> bytes:
        """Call `module:function` with the payload and return its result of at most `max_bytes`.

        `timeout_s` limits both elapsed and CPU time of the job, without the wait for a free child.

        Raises: SandboxFault.
        """
        if self._slots.statistics().tasks_waiting >= MAX_WAITING:
            raise SandboxFault(SandboxFaultKind.BUSY)
        async with self._slots:
            child = self._idle.pop() if self._idle else await self._start()
            try:
                with trio.fail_after(timeout_s):
                    result = await self._work(child, function, payload, timeout_s, max_bytes)
            except trio.TooSlowError:
                await child.end()
                raise SandboxFault(SandboxFaultKind.TIMED_OUT, function) from None
            except SandboxFault as fault:
                if fault.kind in (SandboxFaultKind.FAILED, SandboxFaultKind.TOO_LARGE):
                    await self._put_back(child)
                    raise
                raise _with_exit_status(fault, await child.end(), function) from None
            except BaseException:
                # Cancelled while the child works: its response would remain in the pipe.
                await child.end()
                raise
            await self._put_back(child)
            return result

    async def run_reaper(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """End idle children from time to time, and all children when cancelled."""
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
        """End all children that are not running a job."""
        idle, self._idle = self._idle, []
        for child in idle:
            await child.end()

    async def _start(self) -> _Child:
        # A minimal environment, so that no secret of the server is in it.
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
            raise SandboxFault(SandboxFaultKind.CRASHED, f"cannot start: {error}") from error
        child = _Child(process)
        try:
            with trio.fail_after(START_TIMEOUT_S):
                await child.receive(len(READY))
        except trio.TooSlowError:
            await child.end()
            raise SandboxFault(SandboxFaultKind.TIMED_OUT, "while starting") from None
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
            raise SandboxFault(SandboxFaultKind.CRASHED) from None
        outcome, length = RESPONSE.unpack(await child.receive(RESPONSE.size))
        if outcome == DONE and length <= max_bytes:
            return await child.receive(length)
        if length > _CHUNK:
            raise SandboxFault(SandboxFaultKind.CRASHED, "invalid response")
        message = (await child.receive(length)).decode(errors="replace")
        if outcome == OUT_OF_MEMORY:
            raise SandboxFault(SandboxFaultKind.MEMORY, function)
        if outcome == RESULT_TOO_LARGE:
            raise SandboxFault(SandboxFaultKind.TOO_LARGE, message)
        raise SandboxFault(SandboxFaultKind.FAILED, message)

    async def _put_back(self, child: _Child) -> None:
        if child.jobs >= JOBS_PER_CHILD:
            await child.end()
            return
        child.idle_since = trio.current_time()
        self._idle.append(child)


def _with_exit_status(fault: SandboxFault, status: int, function: str) -> SandboxFault:
    if fault.kind is not SandboxFaultKind.CRASHED:
        return fault
    if status == -signal.SIGXCPU:
        return SandboxFault(SandboxFaultKind.TIMED_OUT, f"{function} exceeded its CPU time")
    return SandboxFault(
        SandboxFaultKind.CRASHED, fault.message or f"{function}: exit status {status}"
    )
