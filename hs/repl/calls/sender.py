"""The caller's end of connections to other processes: one for each process that is called.

Rules:

- A call that was sent may have been executed, whatever happens to the connection afterwards. It is
  sent again on the next connection, with the same number, so that the owner executes it once.
- A call that was not sent cannot have been executed. Nor can one without a reply when its only
  connection ends with END. If another process may own what it is about (`is_movable`), it fails
  with CallNotBegun as soon as slots pass from the process to others, or the process says that it
  stops, and the caller looks for the owner again. All others wait for the process to return.
- A process that cannot be reached for GIVE_UP_S is given up: then the calls to it fail, and those
  that a process which hangs has received. One that announced that it is restarting, or ended the
  connection with END, is waited for longer.
- A connection is opened by the first call and stays open. While calls wait for their replies, a
  process that sends nothing is asked for a sign of life.
"""

import ssl
from collections.abc import Mapping, Sequence
from itertools import count

import attrs
import h11
import msgspec
import trio

from hs.lib.default_tls import default_tls, start_tls
from hs.lib.tasks import BackgroundNursery
from hs.repl.calls.client import CallRejected, InstanceUnreachable
from hs.repl.calls.deadlines import Deadlines
from hs.repl.calls.frames import Frame, FrameKind
from hs.repl.calls.link import Link, LinkClosed
from hs.repl.calls.reply import CallNotBegun, RpcCall, WriterPositions
from hs.repl.ownership import Location

LINK_PATH = "/_synapse/replication/calls"
MAX_CALLS = 512  # running at one instance; further ones wait
CONNECT_S = 2.0  # for one attempt
GIVE_UP_S = 4.0
RESTART_S = 30.0  # to wait for an instance that announced its stop, counted from then
ASK_AFTER_S = 1.0  # without a sign of life
HUNG_AFTER_S = 3.0  # without an answer to that
FIRST_PAUSE_S = 0.02
LAST_PAUSE_S = 1.0
CHUNK = 65536

BROKEN = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError)

_encode = msgspec.msgpack.Encoder().encode
_decode_positions = msgspec.msgpack.Decoder(list[tuple[str, str, int]]).decode


@attrs.define(eq=False)
class _Waiting:
    """A call without a reply; `payload` is the encoded call.

    `connections` is the number of those on which it was sent, and may have been begun.
    """

    called: "_Instance"
    payload: bytes
    since: float
    is_movable: bool
    connections: int = 0
    done: trio.Event = attrs.Factory(trio.Event)
    reply: bytes = b""
    error: Exception | None = None

    def fail(self, error: Exception) -> None:
        if not self.done.is_set():
            self.error = error
            self.done.set()

    def expire(self) -> None:
        """Fail because the deadline of the call has passed."""
        self.fail(InstanceUnreachable(self.called.late()))


@attrs.define(eq=False)
class _Instance:
    """Another process, and the calls to it."""

    location: Location
    calls: dict[int, _Waiting] = attrs.Factory(dict)
    slots: trio.Semaphore = attrs.Factory(lambda: trio.Semaphore(MAX_CALLS))
    link: Link | None = None
    is_served: bool = False  # a task connects, or is connected
    positions: WriterPositions = attrs.Factory(dict)
    heard_at: float = 0.0
    restarting_until: float = 0.0
    called: trio.Event = attrs.Factory(trio.Event)  # set by a call; replaced when none waits
    releases: int = 0  # how often `release` was called
    cause: str = "no reply in time"

    def accept(self, frames: Sequence[Frame]) -> None:
        """Take what the process sent."""
        for kind, message_id, payload in frames:
            if kind == FrameKind.REPLY:
                waiting = self.calls.get(message_id)
                if waiting is not None:  # else its caller is gone
                    waiting.reply = payload
                    waiting.done.set()
            elif kind == FrameKind.POSITIONS:
                try:
                    positions = _decode_positions(payload)
                except msgspec.DecodeError as error:
                    raise LinkClosed(f"positions cannot be decoded: {error}") from error
                for stream, writer, position in positions:
                    self.positions[stream, writer] = position
            elif kind == FrameKind.END:
                self._end()

    def send(self, link: Link, number: int, waiting: _Waiting) -> None:
        """Send a call on a connection."""
        waiting.connections += 1
        link.send(FrameKind.CALL, number, waiting.payload)

    def expect_restart(self) -> None:
        """Note that the process stops as intended, and most likely starts again."""
        self.restarting_until = trio.current_time() + RESTART_S
        self.release()

    def release(self) -> None:
        """Fail the calls that the process cannot have begun, if another one may carry them out."""
        self.releases += 1
        for waiting in self.calls.values():
            if waiting.is_movable and not waiting.connections:
                waiting.fail(CallNotBegun())

    def give_up(self, now: float) -> None:
        """Fail the calls that have waited too long for a process that cannot be reached."""
        if now < self.restarting_until:
            return
        for waiting in self.calls.values():
            if now - max(waiting.since, self.heard_at) >= GIVE_UP_S:
                waiting.fail(InstanceUnreachable(self.cause))

    def late(self) -> str:
        """Return why a call has no reply at its deadline."""
        return self.cause if self.link is None else "no reply in time"

    def fail_all(self, error: Exception) -> None:
        """Fail all calls."""
        for waiting in self.calls.values():
            waiting.fail(error)

    def _end(self) -> None:
        """Note that the calls without replies were not begun on this connection."""
        self.link = None  # what is called from now on is sent on the next one
        for waiting in self.calls.values():
            if waiting.connections == 1:  # else it may have been begun on an earlier one
                waiting.connections = 0
        self.expect_restart()


@attrs.define(eq=False)
class LinkSender:
    """The connections of this process to others.

    `caller` is a name that no other process has, and no earlier one with this process's name.
    """

    _locations: Mapping[str, Location]
    _secret: str
    _caller: str
    _ssl_context: ssl.SSLContext | None = None
    _instances: dict[str, _Instance] = attrs.field(factory=dict, init=False)
    _numbers: "count[int]" = attrs.field(factory=lambda: count(1), init=False)
    _background: BackgroundNursery = attrs.field(factory=BackgroundNursery, init=False)
    _deadlines: Deadlines[_Waiting] = attrs.field(
        factory=lambda: Deadlines(_Waiting.expire), init=False
    )

    @property
    def connected(self) -> list[str]:
        """The processes with which this one has a connection for its calls."""
        return sorted(name for name, called in self._instances.items() if called.link is not None)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Connect to the processes that are called, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._deadlines.run)
            await self._background.run(task_status)

    async def call(
        self, instance: str, call: RpcCall, timeout_s: float, *, is_movable: bool = False
    ) -> tuple[bytes, WriterPositions]:
        """Send a call; see `CallSender.call`."""
        called = self._instance(instance)
        now, releases = trio.current_time(), called.releases
        try:
            called.slots.acquire_nowait()
        except trio.WouldBlock:
            with trio.move_on_at(now + timeout_s) as waiting_for_slot:
                await called.slots.acquire()
            if waiting_for_slot.cancelled_caught:
                raise InstanceUnreachable(called.late()) from None
        try:
            if is_movable and called.releases != releases:
                raise CallNotBegun
            waiting = _Waiting(called, _encode(call), now, is_movable)
            return await self._exchange(waiting, now + timeout_s), called.positions
        finally:
            called.slots.release()

    async def _exchange(self, waiting: _Waiting, deadline: float) -> bytes:
        """Send a call and wait for its reply. Raises: InstanceUnreachable, CallRejected."""
        if self._background.nursery is None:
            raise InstanceUnreachable("this process is stopping")
        called = waiting.called
        number = next(self._numbers)
        called.calls[number] = waiting
        called.called.set()
        self._deadlines.add(waiting, deadline)
        try:
            if called.link is not None:
                called.send(called.link, number, waiting)
            elif not called.is_served:
                called.is_served = True
                self._background.nursery.start_soon(self._serve, called)
            await waiting.done.wait()
        finally:
            del called.calls[number]
            self._deadlines.remove(waiting)
        if waiting.error is not None:
            raise waiting.error
        return waiting.reply

    def expect_restart(self, instance: str) -> None:
        """Note that an instance stops as intended, and most likely starts again."""
        if instance in self._locations:
            self._instance(instance).expect_restart()

    def release(self, instance: str) -> None:
        """Fail the calls that were not begun and are movable, because slots have passed on."""
        if instance in self._instances:
            self._instances[instance].release()

    def _instance(self, name: str) -> _Instance:
        instance = self._instances.get(name)
        if instance is None:
            location = self._locations.get(name)
            if location is None:
                raise InstanceUnreachable("it is not in the instance map")
            instance = self._instances[name] = _Instance(location)
        return instance

    async def _serve(self, called: _Instance) -> None:
        """Stay connected to a process as long as it is called."""
        pause_s = FIRST_PAUSE_S
        try:
            while called.calls:
                heard_at = called.heard_at
                try:
                    await self._connect_and_exchange(called)
                except CallRejected as error:
                    called.fail_all(error)
                    return
                except (*BROKEN, trio.TooSlowError) as error:
                    called.cause = _text_of(error)
                called.give_up(trio.current_time())
                if called.heard_at > heard_at:
                    pause_s = FIRST_PAUSE_S
                await trio.sleep(pause_s)
                pause_s = min(pause_s * 2, LAST_PAUSE_S)
        finally:
            called.is_served = False
            called.fail_all(InstanceUnreachable("this process is stopping"))

    async def _connect_and_exchange(self, called: _Instance) -> None:
        """Exchange calls and replies until the connection is lost. Raises if there is none."""
        with trio.fail_after(CONNECT_S):
            stream = await self._open(called.location)
        try:
            with trio.fail_after(CONNECT_S):
                first = await self._shake_hands(stream)
            await _exchange(called, stream, first)
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)

    async def _open(self, location: Location) -> trio.abc.Stream:
        if location.path is not None:
            return await trio.open_unix_socket(location.path)
        stream = await trio.open_tcp_stream(location.host, location.port)
        if not location.tls:
            return stream
        return await start_tls(stream, self._ssl_context or default_tls(), location.host)

    async def _shake_hands(self, stream: trio.abc.Stream) -> bytes:
        """Ask for the protocol of calls; return the bytes that followed the response."""
        http = h11.Connection(h11.CLIENT)
        headers = [
            ("host", "replication"),
            ("authorization", f"Bearer {self._secret}"),
            ("connection", "upgrade"),
            ("upgrade", "hs-calls"),
            ("x-hs-caller", self._caller),
        ]
        request = http.send(h11.Request(method="GET", target=LINK_PATH, headers=headers))
        await stream.send_all((request or b"") + (http.send(h11.EndOfMessage()) or b""))
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(bytes(await stream.receive_some(CHUNK)))
            elif isinstance(event, h11.InformationalResponse) and event.status_code == 101:
                return http.trailing_data[0]
            elif isinstance(event, h11.Response) and event.status_code == 401:
                raise CallRejected
            elif isinstance(event, h11.Response):
                raise trio.BrokenResourceError(f"HTTP status {event.status_code}")
            else:
                raise trio.BrokenResourceError("the connection was closed")


@attrs.frozen(eq=False)
class _Bytes:
    """The ByteStream of a trio stream."""

    _stream: trio.abc.Stream

    async def read(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(CHUNK))
        except BROKEN:
            return b""

    async def write(self, payload: bytes) -> None:
        await self._stream.send_all(payload)


async def _exchange(called: _Instance, stream: trio.abc.Stream, first: bytes) -> None:
    link = Link(_Bytes(stream))
    opened_at = link.heard_at
    called.restarting_until = 0.0
    called.positions.clear()  # the process announces all of them on a new connection
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.write)
            nursery.start_soon(link.read, called.accept, first)
            nursery.start_soon(_watch, called, link)
            for number, waiting in called.calls.items():
                if not waiting.done.is_set():  # else another process may carry it out by now
                    called.send(link, number, waiting)
            called.link = link
    except* LinkClosed as closed:
        called.cause = str(closed.exceptions[0])
    finally:
        called.link = None
        if link.heard_at > opened_at:
            called.heard_at = link.heard_at


async def _watch(called: _Instance, link: Link) -> None:
    """Ask for signs of life while calls wait. Raises: LinkClosed if there are none."""
    while True:
        if not called.calls:
            called.called = trio.Event()
            await called.called.wait()
        await trio.sleep(ASK_AFTER_S)
        silent_s = trio.current_time() - link.heard_at
        if not called.calls or silent_s < ASK_AFTER_S:
            continue
        oldest = min(waiting.since for waiting in called.calls.values())
        if trio.current_time() - max(oldest, link.heard_at) >= HUNG_AFTER_S:
            raise LinkClosed("it does not respond")
        link.send(FrameKind.PING, 0, b"")


def _text_of(error: BaseException) -> str:
    if isinstance(error, trio.TooSlowError):
        return "no connection in time"
    return str(error) or str(error.__cause__ or type(error).__name__)
