"""The transport between processes: Redis pub/sub, spoken in the asyncio loop of the bridge.

Nothing that matters depends on Redis: rows of table streams are in the database, those of memory
streams in their writers. A lost message is noticed by the next one, or by the next announcement
of positions; without Redis this process looks into the database instead, slowly.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import msgspec
import trio
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from hs.lib.aio import Bridge
from hs.repl.feed import Batch, Feed
from hs.repl.intake import Intake
from hs.repl.message import (
    Message,
    Saying,
    decode_message,
    encode_message,
    position_message,
    rows_message,
)
from hs.repl.streams import StreamDef
from hs.repl.transport import Source

CONNECT_S = 2.0  # how long a start waits for Redis
BEAT_S = 1.0
ADVANCE_S = 0.02  # how long the advances of silent writers gather before they are told
ANNOUNCE_EVERY = 5  # beats; bounds how long the loss of a last message goes unnoticed
PUBLISH_S = 5.0
SILENT_S = 15.0  # without a message, not even our own: the connection is dead
FLUSH_S = 1.0
FIRST_PAUSE_S = 0.1
LAST_PAUSE_S = 5.0
MAX_OUT = 10_000
MAX_IN = 100_000
FAIR_SHARE = 200  # messages between two checkpoints

log = logging.getLogger(__name__)


@attrs.frozen
class RedisAddress:
    """Where Redis is: host and port, or a Unix socket."""

    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    database: int = 0
    username: str | None = None
    password: str | None = attrs.field(default=None, repr=False)
    tls: bool = False
    ca_file: str | None = None
    certificate_file: str | None = None
    private_key_file: str | None = None


class RedisDown(Exception):
    """Redis cannot be reached, or the connection broke."""


@attrs.define(eq=False)
class RedisLink:
    """The asyncio side: one client, used in the bridge's loop only."""

    _address: RedisAddress
    _channel: str
    _instance: str
    _bridge: Bridge
    _client: "Redis | None" = None

    async def listen(
        self, on_subscribed: Callable[[], None], on_message: Callable[[bytes], None]
    ) -> None:
        """Subscribe and pass messages to trio until the connection breaks.

        Raises: RedisDown.
        """
        pubsub = self._opened().pubsub()
        try:
            await pubsub.subscribe(self._channel)
            async for message in pubsub.listen():
                if message["type"] == "message":
                    self._bridge.tell_trio(on_message, message["data"])
                elif message["type"] == "subscribe":
                    self._bridge.tell_trio(on_subscribed)
        except (RedisError, OSError) as error:
            raise RedisDown(str(error)) from error
        finally:
            await pubsub.aclose()  # type: ignore[no-untyped-call]  # redis does not annotate it
        raise RedisDown("the subscription ended")

    async def publish(self, sayings: Sequence["Message | tuple[Batch[Any], int]"]) -> None:
        """Publish in order, in one round trip.

        Raises: RedisDown.
        """
        encoded = [self._encode(saying) for saying in sayings]
        try:
            if len(encoded) == 1:
                await self._opened().publish(self._channel, encoded[0])
                return
            async with self._opened().pipeline(transaction=False) as pipe:
                for one in encoded:
                    pipe.publish(self._channel, one)
                await pipe.execute()
        except (RedisError, OSError) as error:
            raise RedisDown(str(error)) from error

    async def close(self) -> None:
        """Close all connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _encode(self, saying: "Message | tuple[Batch[Any], int]") -> bytes:
        if isinstance(saying, Message):
            return encode_message(saying)
        batch, epoch = saying
        return encode_message(rows_message(self._instance, batch, epoch))

    def _opened(self) -> Redis:
        if self._client is None:
            address = self._address
            place: dict[str, Any] = {"host": address.host, "port": address.port}
            if address.path is not None:
                place = {"unix_socket_path": address.path}
            if address.tls:
                place |= {"ssl": True, "ssl_ca_certs": address.ca_file}
                place |= {"ssl_certfile": address.certificate_file}
                place |= {"ssl_keyfile": address.private_key_file}
            # A silent reconnection would hide the messages lost in it, so there are no retries.
            self._client = Redis(
                **place,
                db=address.database,
                username=address.username,
                password=address.password,
                retry=Retry(NoBackoff(), 0),
                socket_timeout=None,  # a subscription may be silent; trio has the deadlines
                socket_connect_timeout=CONNECT_S,
            )
        return self._client


def _nobody_cares(instance: str) -> None:
    """Do nothing."""


@attrs.define(eq=False)
class RedisTransport:
    """Carries rows between the processes of one server.

    `received`, `sent`, `dropped` (messages that came too fast, or could not be sent) and
    `connections` are counted for metrics.
    """

    feed: Feed
    _instance: str
    _link: RedisLink
    _bridge: Bridge
    _intake: Intake
    _expected: Sequence[tuple[StreamDef[Any], str]]
    _on_leaving: Callable[[str], None] = _nobody_cares
    sources: list[Source] = attrs.Factory(list)
    shared: bool = True
    connected: bool = False
    _ever_connected: trio.Event = attrs.Factory(trio.Event)
    _outbox: list[Message | tuple[Batch[Any], int]] = attrs.Factory(list)
    _outbox_wake: trio.Event = attrs.Factory(trio.Event)
    _inbox: deque[bytes] = attrs.Factory(deque)
    _inbox_wake: trio.Event = attrs.Factory(trio.Event)
    _announced: dict[tuple[str, str], int] = attrs.Factory(dict)
    _lost_some: bool = False
    _advanced: trio.Event = attrs.Factory(trio.Event)
    _listening: trio.CancelScope = attrs.Factory(trio.CancelScope)
    _heard_at: float = 0.0
    received: int = 0
    sent: int = 0
    dropped: int = 0
    connections: int = 0

    @property
    def waiting_in(self) -> int:
        """How many messages came and were not looked at yet."""
        return len(self._inbox)

    @property
    def waiting_out(self) -> int:
        """How many messages Redis has not been given yet."""
        return len(self._outbox)

    def attach(self, source: Source) -> None:
        """Make a writer of this process known to everybody."""
        self.sources.append(source)
        self.feed.begin_epoch(source.stream, source.writer, source.epoch)
        self.feed.start_at(source.stream, source.writer, source.position)
        self._announce(source)

    def publish(self, batch: Batch[Any]) -> None:
        """Deliver here now, and to others as soon as Redis takes it."""
        self.feed.deliver(batch)
        self._announced[batch.stream.name, batch.writer] = batch.position
        self._say((batch, self.feed.epoch(batch.stream, batch.writer)))

    def advance(self, source: Source, position: int) -> None:
        """Move an idle writer forward here now, for others very soon.

        Soon, because a token given out here may at once be used at another process.
        """
        self.feed.start_at(source.stream, source.writer, position)
        self._advanced.set()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry messages until cancelled; started once this process follows the others."""
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._intake.run)
                nursery.start_soon(self._stay_connected)
                with trio.move_on_after(CONNECT_S):
                    await self._ever_connected.wait()
                # After subscribing: what is committed later comes as a message.
                await self._intake.begin(self._expected)
                nursery.start_soon(self._receive)
                nursery.start_soon(self._send)
                nursery.start_soon(self._tell_advances)
                nursery.start_soon(self._beat)
                task_status.started()
        finally:
            with trio.move_on_after(FLUSH_S, shield=True):
                await self._bridge.run(self._link.close)

    async def _stay_connected(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            self._listening = trio.CancelScope()
            with self._listening:
                try:
                    await self._bridge.run(self._link.listen, self._subscribed, self._heard)
                except RedisDown as error:
                    log.warning("Redis is down (%s): looking into the database instead", error)
            pause_s = FIRST_PAUSE_S if self.connected else min(pause_s * 2, LAST_PAUSE_S)
            self.connected = False
            await trio.sleep(pause_s)

    def _subscribed(self) -> None:
        self.connected = True
        self.connections += 1
        self._heard_at = trio.current_time()
        self._ever_connected.set()
        self._say(Message(Saying.REPLICATE, self._instance))
        self._announce_all()

    def _heard(self, encoded: bytes) -> None:
        self.received += 1
        if len(self._inbox) >= MAX_IN:
            self.dropped += len(self._inbox)
            self._inbox.clear()  # the gaps will be repaired
        self._inbox.append(encoded)
        self._inbox_wake.set()

    async def _receive(self) -> None:
        while True:
            await self._inbox_wake.wait()
            self._heard_at = trio.current_time()
            for _ in range(min(FAIR_SHARE, len(self._inbox))):
                self._take(self._inbox.popleft())
            if self._inbox:
                await trio.lowlevel.checkpoint()
            else:
                self._inbox_wake = trio.Event()

    def _take(self, encoded: bytes) -> None:
        try:
            message = decode_message(encoded)
            if message.instance == self._instance:
                return
            if message.saying is Saying.REPLICATE:
                self._announce_all()
            elif message.saying is Saying.LEAVING:
                self._on_leaving(message.instance)
            elif message.saying is not Saying.ALIVE:
                self._intake.accept(message)
        except msgspec.DecodeError as error:  # of another release, or not of ours at all
            log.warning("cannot read a message from Redis: %s", error)

    def _say(self, saying: Message | tuple[Batch[Any], int]) -> None:
        if not self.connected:
            return  # positions are announced on connecting, so others will notice
        if len(self._outbox) >= MAX_OUT:
            self.dropped += len(self._outbox)
            self._outbox.clear()
            self._lost_some = True
        self._outbox.append(saying)
        self._outbox_wake.set()

    async def _send(self) -> None:
        try:
            while True:
                await self._outbox_wake.wait()
                await self._send_waiting()
        finally:
            self._say(Message(Saying.LEAVING, self._instance))
            with trio.move_on_after(FLUSH_S, shield=True):
                await self._send_waiting()

    async def _send_waiting(self) -> None:
        sayings, self._outbox = self._outbox, []
        self._outbox_wake = trio.Event()
        if not sayings:
            return
        try:
            with trio.fail_after(PUBLISH_S):
                await self._bridge.run(self._link.publish, sayings)
        except (RedisDown, trio.TooSlowError) as error:
            log.warning("cannot publish to Redis: %s", error)
            self.dropped += len(sayings)
            self._lost_some = True  # so that the next beat tells what was lost
        else:
            self.sent += len(sayings)

    def _announce(self, source: Source) -> None:
        self._announced[source.stream.name, source.writer] = source.position
        self._say(position_message(self._instance, source))

    def _announce_all(self) -> None:
        for source in self.sources:
            self._announce(source)

    async def _tell_advances(self) -> None:
        while True:
            await self._advanced.wait()
            await trio.sleep(ADVANCE_S)
            self._advanced = trio.Event()
            self._announce_changed()

    def _announce_changed(self) -> None:
        for source in self.sources:
            last = self._announced.get((source.stream.name, source.writer), -1)
            if last < source.position:
                self._announce(source)

    async def _beat(self) -> None:
        beat = 0
        while True:
            await trio.sleep(BEAT_S)
            beat += 1
            if beat % ANNOUNCE_EVERY == 0 or self._lost_some:
                self._lost_some = False
                self._announce_all()
            if not self.connected:
                await self._intake.look()
            elif trio.current_time() - self._heard_at > SILENT_S:
                self._listening.cancel()
            elif beat % ANNOUNCE_EVERY == 0:
                self._say(Message(Saying.ALIVE, self._instance))


def channel_of(server_name: str) -> str:
    """Give the Redis channel of a server, apart from those of others on the same Redis."""
    return f"{server_name}/hs/streams"
