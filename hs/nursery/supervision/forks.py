"""The supervisor's end of the connection to its fork server, and the lives of its children."""

import contextlib
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import attrs
import trio

from hs.nursery.supervision.requests import (
    MAX_BYTES,
    Prepared,
    PrepareRequest,
    ProcessSource,
    ProgramRequest,
    ServeRequest,
    SignalRequest,
    Started,
    decode_report,
    encode,
    rights,
)
from hs.nursery.supervision.supervisor_link import GO, READY, STANDBY, STOPPING
from hs.settings.errors import Problem

REMEMBERED_LINES: Final = 5
_CHUNK: Final = 65536
_MAX_LINE: Final = 1_000_000

WriteLine = Callable[[str, str], None]
"""Writes a line of a process, given its name."""


class ForkServerGone(Exception):
    """The fork server has ended, and with it all its children."""


@attrs.define(eq=False)
class Life:
    """One run of a child: `status` is its exit status, or a negative number of a signal."""

    name: str
    forks: "Forks"
    link: socket.socket | None = None
    pid: int = 0
    status: int | None = None
    addresses: str = ""
    is_ready: bool = False
    is_stopping: bool = False
    began_at: float = attrs.field(factory=trio.current_time)
    alive_at: float = attrs.field(factory=trio.current_time)
    standby: trio.Event = attrs.field(factory=trio.Event)
    settled: trio.Event = attrs.field(factory=trio.Event)  # ready, or ended before
    ended: trio.Event = attrs.field(factory=trio.Event)
    output: deque[str] = attrs.field(factory=lambda: deque(maxlen=REMEMBERED_LINES))

    @property
    def has_ended(self) -> bool:
        return self.status is not None

    def go(self) -> None:
        """Allow the process to take its name and to serve."""
        assert self.link is not None
        with contextlib.suppress(OSError):
            self.link.send(GO)

    async def signal(self, number: int) -> None:
        """Send a signal, if the child still runs."""
        if not self.has_ended:
            await self.forks.signal(self.pid, number)

    def note(self, word: str, rest: str) -> None:
        """Take a message of the process."""
        self.alive_at = trio.current_time()
        if word == STANDBY:
            self.standby.set()
        elif word == READY:
            self.addresses, self.is_ready = rest, True
            self.settled.set()
        elif word == STOPPING:
            self.is_stopping = True

    def end(self, status: int) -> None:
        """Take the end of the child."""
        self.status = status
        self.standby.set()
        self.settled.set()
        self.ended.set()

    def cause(self) -> str:
        """Return how the child ended and its last line, for people."""
        assert self.status is not None
        how = f"exit status {self.status}" if self.status >= 0 else f"signal {-self.status}"
        return f"{how}: {self.output[-1]}" if self.output else how


@attrs.define(eq=False)
class Forks:
    """A fork server, by its socket and process ID, and its children.

    Run `run` before anything else.
    """

    _server: socket.socket
    _pid: int
    _write_line: WriteLine
    _lives: dict[int, Life] = attrs.field(factory=dict, init=False)
    _unanswered: deque[Life] = attrs.field(factory=deque, init=False)
    _answered: dict[int, trio.Event] = attrs.field(factory=dict, init=False)
    _nursery: trio.Nursery | None = attrs.field(default=None, init=False)
    _prepared: trio.Event = attrs.field(factory=trio.Event, init=False)
    _problems: list[Problem] = attrs.field(factory=list, init=False)
    _receiving: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    _sending: trio.Lock = attrs.field(factory=trio.Lock, init=False)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Receive reports until the fork server is retired. Raises: ForkServerGone."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            with self._receiving:
                try:
                    await self._receive()
                finally:
                    for life in (*self._lives.values(), *self._unanswered):
                        life.end(-signal.SIGKILL)  # nothing more will be heard of it
                raise ForkServerGone("the fork server has ended, and all processes with it")

    async def _receive(self) -> None:
        sock = trio.socket.from_stdlib_socket(self._server)
        with contextlib.suppress(ConnectionError):
            while packet := await sock.recv(MAX_BYTES):
                report = decode_report(packet)
                if isinstance(report, Started):
                    life = self._unanswered.popleft()
                    life.pid = report.pid
                    self._lives[report.pid] = life
                    self._answered.pop(id(life)).set()
                elif isinstance(report, Prepared):
                    self._problems = [packed.unpack() for packed in report.problems]
                    self._prepared.set()
                elif (ended := self._lives.pop(report.pid, None)) is not None:
                    ended.end(report.status)

    async def retire(self) -> None:
        """Wait until no child runs any more, and let the fork server end."""
        for life in list(self._lives.values()):
            await life.ended.wait()
        self._receiving.cancel()
        await trio.to_thread.run_sync(self.close)

    def close(self) -> None:
        """End the fork server, which stops the children that it still has; wait for its end."""
        self._server.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)

    async def prepare(self, sources: list[ProcessSource]) -> list[Problem]:
        """Let the fork server build processes, before it forks any of them; return problems.

        Not to be called twice at a time.
        """
        self._prepared = trio.Event()
        await self._send(encode(PrepareRequest(sources=sources)), [])
        await self._prepared.wait()
        return self._problems

    async def serve(self, request: ServeRequest, sockets: Sequence[socket.socket]) -> Life:
        """Fork a process of the server; it gets copies of the sockets."""
        ours, its = socket.socketpair()
        ours.setblocking(False)
        try:
            return await self._start(request, ours, [its.fileno(), *(s.fileno() for s in sockets)])
        finally:
            its.close()

    async def run_program(self, request: ProgramRequest) -> Life:
        """Run another program."""
        return await self._start(request, None, [])

    async def signal(self, pid: int, number: int) -> None:
        """Send a signal to a child that runs."""
        await self._send(encode(SignalRequest(pid=pid, number=number)), [])

    async def _start(
        self, request: ServeRequest | ProgramRequest, link: socket.socket | None, files: list[int]
    ) -> Life:
        assert self._nursery is not None
        name = request.name if isinstance(request, ProgramRequest) else request.source.name
        life = Life(name, self, link)
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            answered = self._answered[id(life)] = trio.Event()
            async with self._sending:
                self._unanswered.append(life)
                await self._send_now(encode(request), [writing, *files])
        finally:
            os.close(writing)
        self._nursery.start_soon(self._read_output, life, reading)
        if link is not None:
            self._nursery.start_soon(self._read_link, life, link)
        await answered.wait()
        return life

    async def _send(self, packet: bytes, files: list[int]) -> None:
        async with self._sending:
            await self._send_now(packet, files)

    async def _send_now(self, packet: bytes, files: list[int]) -> None:
        sock = trio.socket.from_stdlib_socket(self._server)
        try:
            await sock.sendmsg([packet], rights(files))
        except BrokenPipeError as error:
            raise ForkServerGone("the fork server has ended") from error

    async def _read_output(self, life: Life, fd: int) -> None:
        rest = b""
        async with trio.lowlevel.FdStream(fd) as stream:
            async for part in stream:
                *lines, rest = (rest + part).split(b"\n")
                if len(rest) > _MAX_LINE:
                    lines, rest = [*lines, rest], b""
                for line in lines:
                    self._take_line(life, line)
        if rest:
            self._take_line(life, rest)

    def _take_line(self, life: Life, line: bytes) -> None:
        text = line.decode("utf-8", "replace")
        life.output.append(text)
        self._write_line(life.name, text)

    async def _read_link(self, life: Life, link: socket.socket) -> None:
        sock = trio.socket.from_stdlib_socket(link)
        rest = b""
        with link:
            with contextlib.suppress(OSError):
                while part := await sock.recv(_CHUNK):
                    *lines, rest = (rest + part).split(b"\n")
                    for line in lines:
                        word, _, text = line.decode("utf-8", "replace").partition(" ")
                        life.note(word, text)
            await life.ended.wait()
