"""Redis in a simulation: it loses, delays, doubles and reorders messages, and others forge some.

`FakeRedis` stands in for the class of the Redis library, so everything of hs.repl.redis runs.
"""

import random
from collections.abc import AsyncIterator
from typing import Any, Final

import attrs
import trio
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.simulation.determinism import Trace
from tests.worker_simulation.scheduling import OWNER

RECORDED: Final = 200
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
    pubsubs: list["FakePubSub"] = attrs.Factory(list)
    _recorded: list[tuple[str, bytes]] = attrs.Factory(list)

    def redis(self, **options: Any) -> "FakeRedis":
        """Return a client; in place of the class Redis."""
        return FakeRedis(self, OWNER.get(), options)

    def check(self, life: Any) -> None:
        """Raise if a process cannot reach Redis."""
        if self.is_down or life.is_dead:
            raise RedisConnectionError("Redis is down")

    def break_down(self) -> None:
        """Break all connections; new ones are refused until `is_down` is False."""
        self.is_down = True
        for pubsub in list(self.pubsubs):
            pubsub.cut()

    def publish(self, channel: str, payload: bytes) -> None:
        """Pass a message on to all subscribers, or not."""
        if len(self._recorded) < RECORDED or self.chance.random() < 0.05:
            self._recorded.append((channel, payload))
            del self._recorded[:-RECORDED]
        for pubsub in self.pubsubs:
            if channel in pubsub.channels:
                self._send(pubsub, channel, payload)
        if self.chance.random() < self.faults.forged:
            self._forge(channel, payload)

    def _send(self, pubsub: "FakePubSub", channel: str, payload: bytes) -> None:
        dice, faults = self.chance.random(), self.faults
        if dice < faults.lost:
            return
        if dice < faults.lost + faults.delayed:
            self.nursery.start_soon(self._send_late, pubsub, channel, payload)
        elif dice < faults.lost + faults.delayed + faults.doubled:
            pubsub.put(channel, payload)
            self.nursery.start_soon(self._send_late, pubsub, channel, payload)
        else:
            pubsub.put(channel, payload)

    async def _send_late(self, pubsub: "FakePubSub", channel: str, payload: bytes) -> None:
        await trio.sleep(round(self.chance.random() * LONGEST_DELAY_S, 4))
        pubsub.put(channel, payload)

    def _forge(self, channel: str, payload: bytes) -> None:
        """Send what a stranger with the password of Redis may: changed, recorded, or nonsense."""
        forged = self.chance.choice((self._changed, self._replayed, self._random))(payload)
        self.trace.note("forged", len(forged))
        for pubsub in self.pubsubs:
            if channel in pubsub.channels:
                pubsub.put(channel, forged)

    def _changed(self, payload: bytes) -> bytes:
        changed = bytearray(payload)
        changed[self.chance.randrange(len(changed))] ^= 1 + self.chance.randrange(255)
        return bytes(changed)

    def _replayed(self, _: bytes) -> bytes:
        return self.chance.choice(self._recorded)[1]

    def _random(self, _: bytes) -> bytes:
        return self.chance.randbytes(self.chance.randint(0, 60))


@attrs.define(eq=False)
class FakeRedis:
    """A client of Redis, as far as this server uses one."""

    _bus: Bus
    _life: Any
    _options: dict[str, Any]

    def pubsub(self, **_: Any) -> "FakePubSub":
        """Return the subscriptions of a connection."""
        return FakePubSub(self._bus, self._life)

    async def publish(self, channel: str, payload: bytes) -> None:
        """Publish a message."""
        await trio.lowlevel.checkpoint()
        self._bus.check(self._life)
        self._bus.publish(channel, payload)

    def pipeline(self, **_: Any) -> "_Pipeline":
        """Return a pipeline, which publishes several messages."""
        return _Pipeline(self)

    async def aclose(self) -> None:
        """Close the client."""
        await trio.lowlevel.checkpoint()


@attrs.define(eq=False)
class _Pipeline:
    _client: FakeRedis
    _messages: list[tuple[str, bytes]] = attrs.Factory(list)

    async def __aenter__(self) -> "_Pipeline":
        return self

    async def __aexit__(self, *_: object) -> None:
        self._messages.clear()

    def publish(self, channel: str, payload: bytes) -> None:
        self._messages.append((channel, payload))

    async def execute(self) -> None:
        for channel, payload in self._messages:
            await self._client.publish(channel, payload)


@attrs.define(eq=False)
class FakePubSub:
    """A connection that subscribes to channels."""

    _bus: Bus
    _life: Any
    channels: set[str] = attrs.Factory(set)
    _inbox: list[dict[str, Any]] = attrs.Factory(list)
    _wake: trio.Event = attrs.Factory(trio.Event)
    _is_cut: bool = False

    async def subscribe(self, *channels: str) -> None:
        """Subscribe to channels."""
        await trio.lowlevel.checkpoint()
        self._bus.check(self._life)
        if self not in self._bus.pubsubs:
            self._bus.pubsubs.append(self)
        for channel in channels:
            self.channels.add(channel)
            self._add({"type": "subscribe", "channel": channel})

    async def unsubscribe(self, *channels: str) -> None:
        """End subscriptions."""
        await trio.lowlevel.checkpoint()
        self.channels.difference_update(channels or set(self.channels))

    async def listen(self) -> AsyncIterator[dict[str, Any]]:
        """Yield messages until the connection breaks."""
        while True:
            await self._wake.wait()
            await trio.lowlevel.checkpoint()
            if self._is_cut or self._life.is_dead:
                raise RedisConnectionError("the connection broke")
            messages, self._inbox = self._inbox, []
            self._wake = trio.Event()
            for message in messages:
                yield message

    async def aclose(self) -> None:
        """Close the connection."""
        if self in self._bus.pubsubs:
            self._bus.pubsubs.remove(self)
        await trio.lowlevel.checkpoint()

    def put(self, channel: str, payload: bytes) -> None:
        """Receive a message, unless the connection is gone."""
        if self in self._bus.pubsubs:
            self._add({"type": "message", "channel": channel, "data": payload})

    def cut(self) -> None:
        """Break the connection."""
        self._is_cut = True
        self._wake.set()

    def _add(self, message: dict[str, Any]) -> None:
        self._inbox.append(message)
        self._wake.set()
