"""Redis in a simulation: it loses, delays, doubles and reorders messages, and others forge some.

They also record all messages, and send some again, long after: any, and at the worst time those in
which a process announced its end.

It speaks the protocol of Redis, so everything of hs.repl runs that uses it.
"""

import random
from typing import Any, Final

import attrs
import hiredis
import trio

from tests.simulation.determinism import Trace

LONGEST_DELAY_S: Final = 8.0


@attrs.define
class BusFaults:
    """The shares of messages with a fault, for each receiver."""

    lost: float = 0.0
    delayed: float = 0.0
    doubled: float = 0.0
    forged: float = 0.0


@attrs.define(eq=False)
class Bus:
    """The one Redis of a server."""

    chance: random.Random
    trace: Trace
    nursery: trio.Nursery
    faults: BusFaults = attrs.Factory(BusFaults)
    is_down: bool = False
    latency_s: float = 0.0
    connections: list["RedisConnection"] = attrs.Factory(list)
    _recorded: list[bytes] = attrs.Factory(list)
    _farewells: list[tuple[str, bytes, bytes]] = attrs.Factory(list)

    def connect(self, life: Any) -> "RedisConnection":
        """Return the client's end of a new connection. Raises: OSError."""
        if self.is_down or life.is_dead:
            raise OSError("connection refused")
        connection = RedisConnection(self, life)
        self.connections.append(connection)
        return connection

    def break_down(self) -> None:
        """Break all connections; new ones are refused until `is_down` is False."""
        self.is_down = True
        for connection in list(self.connections):
            connection.cut()

    def publish(self, channel: bytes, payload: bytes) -> None:
        """Pass a message on to all subscribers, or not."""
        self._recorded.append(payload)
        for connection in self.connections:
            if channel in connection.channels:
                self._send(connection, channel, payload)
        if self.chance.random() < self.faults.forged:
            self._forge(channel, payload)

    def note_farewell(self, name: str, channel: bytes, payload: bytes) -> None:
        """Record what a process published last."""
        self._farewells.append((name, channel, payload))

    def repeat_farewells(self, name: str) -> None:
        """Send again what a process published last in its earlier lives."""
        for sender, channel, payload in self._farewells:
            if sender == name:
                self.trace.note("repeated", name)
                for connection in self.connections:
                    if channel in connection.channels:
                        connection.put(channel, payload)

    def _send(self, connection: "RedisConnection", channel: bytes, payload: bytes) -> None:
        dice, faults = self.chance.random(), self.faults
        if dice < faults.lost:
            return
        if dice < faults.lost + faults.delayed:
            self.nursery.start_soon(self._send_late, connection, channel, payload)
        elif dice < faults.lost + faults.delayed + faults.doubled:
            connection.put(channel, payload)
            self.nursery.start_soon(self._send_late, connection, channel, payload)
        else:
            connection.put(channel, payload)

    async def _send_late(
        self, connection: "RedisConnection", channel: bytes, payload: bytes
    ) -> None:
        await trio.sleep(round(self.chance.random() * LONGEST_DELAY_S, 4))
        connection.put(channel, payload)

    def _forge(self, channel: bytes, payload: bytes) -> None:
        """Send what a stranger with the password of Redis may: changed, recorded, or nonsense."""
        forged = self.chance.choice((self._changed, self._replayed, self._random))(payload)
        self.trace.note("forged", len(forged))
        for connection in self.connections:
            if channel in connection.channels:
                connection.put(channel, forged)

    def _changed(self, payload: bytes) -> bytes:
        changed = bytearray(payload)
        changed[self.chance.randrange(len(changed))] ^= 1 + self.chance.randrange(255)
        return bytes(changed)

    def _replayed(self, _: bytes) -> bytes:
        return self.chance.choice(self._recorded)

    def _random(self, _: bytes) -> bytes:
        return self.chance.randbytes(self.chance.randint(0, 60))


@attrs.define(eq=False)
class RedisConnection(trio.abc.Stream):
    """A connection to Redis: the client's end, and what Redis knows of it."""

    _bus: Bus
    _life: Any
    channels: set[bytes] = attrs.Factory(set)
    _last: tuple[bytes, bytes] | None = None
    _commands: hiredis.Reader = attrs.Factory(hiredis.Reader)
    _replies: bytearray = attrs.Factory(bytearray)
    _wake: trio.Event = attrs.Factory(trio.Event)

    async def send_all(self, data: Any) -> None:
        """Send commands, which are executed at once."""
        await trio.lowlevel.checkpoint()
        if self._is_broken():
            raise trio.BrokenResourceError("the connection broke")
        self._commands.feed(bytes(data))
        while (command := self._commands.gets()) is not False:
            self._execute(command)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what Redis has sent, or b"" at the end."""
        await trio.lowlevel.checkpoint()
        while not self._replies:
            if self._is_broken():
                return b""
            await self._wake.wait()
            self._wake = trio.Event()
        if self.channels and self._bus.latency_s:
            await trio.sleep(self._bus.latency_s)
        replies = bytes(self._replies)
        self._replies.clear()
        return replies

    async def wait_send_all_might_not_block(self) -> None:
        """Return at once."""
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Close the connection."""
        if self._last is not None and not self._life.is_dead:
            self._bus.note_farewell(self._life.name, *self._last)
            self._last = None
        self.cut()
        await trio.lowlevel.checkpoint()

    def put(self, channel: bytes, payload: bytes) -> None:
        """Receive a message."""
        self._reply([b"message", channel, payload])

    def cut(self) -> None:
        """Break the connection."""
        if self in self._bus.connections:
            self._bus.connections.remove(self)
        self._wake.set()

    def _is_broken(self) -> bool:
        return self not in self._bus.connections or self._life.is_dead

    def _execute(self, command: list[bytes]) -> None:
        name, *arguments = command
        match name.upper():
            case b"PUBLISH":
                self._last = (arguments[0], arguments[1])
                self._bus.publish(*arguments)
                self._reply(1)
            case b"SUBSCRIBE":
                for channel in arguments:
                    self.channels.add(channel)
                    self._reply([b"subscribe", channel, len(self.channels)])
            case b"UNSUBSCRIBE":
                for channel in arguments:
                    self.channels.discard(channel)
                    self._reply([b"unsubscribe", channel, len(self.channels)])
            case _:
                self._reply(b"OK")

    def _reply(self, reply: Any) -> None:
        if self in self._bus.connections:
            self._replies += _encode(reply)
            self._wake.set()


def _encode(reply: Any) -> bytes:
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    return b"*%d\r\n" % len(reply) + b"".join(map(_encode, reply))
