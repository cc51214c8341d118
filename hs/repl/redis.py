"""The transport between processes: Redis pub/sub.

Redis makes replication fast, not safe. Rules:

- The rows of table streams are in the database and those of memory streams in their writers, so
  a lost message is only a gap, which Intake fills. It is noticed by the next message of the
  writer or, at the latest, by its next announcement of positions. A position is announced once
  more a few beats after it changed; all are announced if a process connects or messages were
  lost, and once a minute. So processes that do nothing send each other almost nothing. A process
  that hears another one announce itself does the same if that is soon due. So the announcements of
  all processes come at one moment, and wake each process less often.
- A connection is announced with REPLICATE, again if that may be lost, and the positions of this
  process. What was published while it was down is a gap for the others, and the reverse.
- Positions are read from the database after subscribing, so no commit falls in between.
- While Redis is down, this process polls the database once per beat; otherwise only announcements
  wake it. A connection on which not even its own ALIVE messages arrive counts as down.
- Batches of plain rows go to the processes that take them only. The others are told the position
  some moments later. All messages say how far back there are only plain rows, so that processes
  without them notice a gap if and only if they miss other rows.
- Messages travel in sealed envelopes (envelope.py); whatever else arrives is dropped.
- Messages are processed as they are read, those of one read without a checkpoint. Those that
  arrive before this process knows where to begin wait.
- Both queues are bounded. When one is full it is emptied, which makes gaps, and the loss of
  outgoing messages is announced at the next beat.
"""

import logging
import math
import re
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import attrs
import trio

from hs.core.stream_def import ANY_PROCESS, StreamDef, StreamWriters
from hs.core.streams import SLOTS
from hs.repl.announced import AnnouncedProcesses
from hs.repl.envelope import Envelopes, InvalidEnvelope
from hs.repl.feed import Batch, Feed, is_plain
from hs.repl.intake import Intake
from hs.repl.message import (
    Message,
    MessageKind,
    encode_message,
    position_message,
    rows_message,
)
from hs.repl.redis_link import CONNECT_S, Audience, RedisDown, RedisLink
from hs.repl.transport import Source

BEAT_S = 1.0
ADVANCE_S = 0.02  # for which advances of idle writers are collected before a message
PLAIN_S = 0.2  # for which positions of plain rows are collected, for processes that do without
ANNOUNCE_EVERY = 10  # beats; after that a lost last message is noticed
JOIN_WITHIN = 5  # beats; how long before it is due a process announces itself with others
ANNOUNCE_ALL_EVERY = 60  # beats
PUBLISH_S = 5.0
PING_S = 5.0
SILENT_S = 25.0  # without any message, own ones included: the connection is dead
FLUSH_S = 1.0
FIRST_PAUSE_S = 0.1
LAST_PAUSE_S = 5.0
MAX_OUT = 10_000
MAX_IN = 100_000
LOG_EVERY_S = 60.0

log = logging.getLogger(__name__)


def _ignore(instance: str) -> None:
    pass


@attrs.frozen(eq=False)
class _Published:
    """How far a writer has published, and the position of its last rows that were not plain."""

    position: int
    changed: int


@attrs.frozen(eq=False)
class _Rows:
    """A batch to send; `changed` and `is_plain` are those of the message."""

    batch: Batch[Any]
    epoch: int
    changed: int
    is_plain: bool


@attrs.define(eq=False)
class RedisTransport:
    """The transport between the processes of one server.

    `_expected` are the writers in other processes. `_on_leaving` is called with the name of an
    instance that stops as intended. `_announced_processes` learns of those that run. `received`,
    `sent`, `dropped` and `connections` are metrics; see Traffic.
    """

    feed: Feed
    _instance: str
    _link: RedisLink
    _make_envelopes: Callable[[], Awaitable[Envelopes]]
    _intake: Intake
    _expected: Sequence[tuple[StreamDef[Any], str]]
    _on_leaving: Callable[[str], None] = _ignore
    _announced_processes: AnnouncedProcesses = attrs.Factory(lambda: AnnouncedProcesses(""))
    sources: list[Source] = attrs.Factory(list)
    shared: bool = True
    connected: bool = False
    _ever_connected: trio.Event = attrs.Factory(trio.Event)
    _outbox: list[tuple[Audience, Message | _Rows]] = attrs.Factory(list)
    _outbox_wake: trio.Event = attrs.Factory(trio.Event)
    _inbox: deque[bytes] = attrs.Factory(deque)
    _is_following: bool = False
    _announced: dict[tuple[str, str], int] = attrs.Factory(dict)
    _repeated: dict[tuple[str, str], int] = attrs.Factory(dict)
    _published: dict[tuple[str, str], _Published] = attrs.Factory(dict)
    _unannounced: set[tuple[str, str]] = attrs.Factory(set)  # to those without plain rows
    _has_unannounced: trio.Event = attrs.Factory(trio.Event)
    _has_lost_messages: bool = False
    _has_asked: bool = False  # in the last messages that were sent
    _must_ask: bool = False
    _disturbed: trio.Event = attrs.Factory(trio.Event)  # while there may be work for each beat
    _resting: trio.CancelScope = attrs.Factory(trio.CancelScope)  # until the next announcement
    _advanced: trio.Event = attrs.Factory(trio.Event)
    _listening: trio.CancelScope = attrs.Factory(trio.CancelScope)
    _listens_to_plain: bool = False
    _received_at: float = 0.0
    _rejected_at: float = -math.inf
    _envelopes: Envelopes = attrs.field(init=False)
    received: int = 0
    sent: int = 0
    dropped: int = 0
    connections: int = 0

    @property
    def waiting_in(self) -> int:
        """Number of received messages that are not processed yet."""
        return len(self._inbox)

    @property
    def waiting_out(self) -> int:
        """Number of messages that are not sent yet."""
        return len(self._outbox)

    async def find_fault(self) -> str | None:
        """Return why Redis does not carry messages, or None."""
        if not self.connected:
            return "it cannot be reached"
        try:
            with trio.fail_after(PING_S):
                await self._link.ping()
        except RedisDown as error:
            return str(error)
        except trio.TooSlowError:
            return "it does not answer"
        return None

    def attach(self, source: Source) -> None:
        """Add a writer of this process and announce its position."""
        self.sources.append(source)
        self.feed.begin_epoch(source.stream, source.writer, source.epoch)
        self.feed.start_at(source.stream, source.writer, source.position)
        self._announce(source)

    def publish(self, batch: Batch[Any]) -> None:
        """Deliver a batch to the local feed now, and queue it for the other processes."""
        self.feed.deliver(batch)
        key = batch.stream.name, batch.writer
        changed = self._changed_before(key, batch.prev)
        self._announced[key] = batch.position
        epoch = self.feed.epoch(batch.stream, batch.writer)
        rows = _Rows(batch, epoch, changed, is_plain(batch))
        if rows.is_plain:
            self._published[key] = _Published(batch.position, changed)
            self._enqueue(rows, Audience.PLAIN)
            self._unannounced.add(key)
            self._has_unannounced.set()
        else:
            self._published[key] = _Published(batch.position, batch.position)
            self._enqueue(rows)
            self._unannounced.discard(key)

    def advance(self, source: Source, position: int) -> None:
        """Raise the position of an idle writer here now, in other processes within ADVANCE_S.

        That must be soon, because a client may present a token from here to another process,
        which then waits for the position.
        """
        self.feed.start_at(source.stream, source.writer, position)
        self._advanced.set()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry messages until cancelled; started when this process follows the others."""
        self._envelopes = await self._make_envelopes()
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._intake.run)
                nursery.start_soon(self._stay_connected)
                with trio.move_on_after(CONNECT_S):
                    await self._ever_connected.wait()
                # After subscribing, so that later commits arrive as messages.
                await self._intake.begin(self._expected)
                self._is_following = True
                self._process_waiting()
                nursery.start_soon(self._send)
                nursery.start_soon(self._announce_advances)
                nursery.start_soon(self._announce_plain)
                nursery.start_soon(self._take_plain)
                nursery.start_soon(self._beat)
                task_status.started()
        finally:
            with trio.move_on_after(FLUSH_S, shield=True):
                await self._link.aclose()

    async def _stay_connected(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            self._listening = trio.CancelScope()
            self._listens_to_plain = self.feed.takes_plain.is_set()
            with self._listening:
                audience = Audience.PLAIN if self._listens_to_plain else Audience.POSITIONS
                try:
                    await self._link.listen(self._on_subscribed, self._on_messages, audience)
                except RedisDown as error:
                    log.warning("Redis is down (%s), polling the database instead", error)
            pause_s = FIRST_PAUSE_S if self.connected else min(pause_s * 2, LAST_PAUSE_S)
            self.connected = False
            self._disturbed.set()
            await trio.sleep(pause_s)

    def _on_subscribed(self) -> None:
        self.connected = True
        self.connections += 1
        self._received_at = trio.current_time()
        self._ever_connected.set()
        self._ask()
        self._announce_all()

    def _on_messages(self, envelopes: list[bytes]) -> None:
        self.received += len(envelopes)
        self._received_at = trio.current_time()
        if len(self._inbox) >= MAX_IN:
            self.dropped += len(self._inbox)
            self._inbox.clear()  # the gaps will be filled
        self._inbox.extend(envelopes)
        if self._is_following:
            self._process_waiting()

    def _process_waiting(self) -> None:
        accepted: list[Message] = []
        while self._inbox:
            try:
                messages = self._envelopes.open(self._inbox.popleft())
            except InvalidEnvelope as error:
                self._log_rejection(error)
                continue
            for message in messages:
                if message.kind is MessageKind.REPLICATE:
                    self._announce_all()
                elif message.kind is MessageKind.LEAVING:
                    self._on_leaving(message.instance)
                elif message.kind is MessageKind.ALIVE:
                    self._announced_processes.note(message.instance, message.stream)
                    self._join_announcement()
                else:
                    accepted.append(message)
        self._intake.accept(*accepted)

    def _log_rejection(self, error: InvalidEnvelope) -> None:
        # Limited, because whoever has the password of Redis can cause this line.
        self.dropped += 1
        now = trio.current_time()
        if now >= self._rejected_at + LOG_EVERY_S:
            self._rejected_at = now
            log.warning("ignoring messages on Redis that are not of this server: %s", error)

    def _enqueue(self, message: Message | _Rows, audience: Audience = Audience.ALL) -> None:
        if not self.connected:
            return  # positions are announced on connecting, so the others will notice the gap
        if len(self._outbox) >= MAX_OUT:
            self._note_loss(self._outbox)
            self._outbox.clear()
        self._outbox.append((audience, message))
        self._outbox_wake.set()

    async def _send(self) -> None:
        try:
            while True:
                await self._outbox_wake.wait()
                await self._send_waiting()
        finally:
            self._enqueue(Message(MessageKind.LEAVING, self._instance))
            with trio.move_on_after(FLUSH_S, shield=True):
                await self._send_waiting()

    async def _send_waiting(self) -> None:
        messages, self._outbox = self._outbox, []
        self._outbox_wake = trio.Event()
        if not messages:
            return
        payloads = [
            (audience, payload)
            for audience, following in groupby(messages, itemgetter(0))
            for payload in self._envelopes.seal([self._encode(message) for _, message in following])
        ]
        try:
            with trio.fail_after(PUBLISH_S):
                await self._link.publish(payloads)
        except (RedisDown, trio.TooSlowError) as error:
            log.warning("cannot publish to Redis, %d messages dropped: %s", len(messages), error)
            # The messages before these may be lost, too.
            self._must_ask = self._must_ask or self._has_asked
            self._note_loss(messages)
        else:
            self.sent += len(messages)
            self._has_asked = _asks(messages)

    def _note_loss(self, messages: Sequence[tuple[Audience, Message | _Rows]]) -> None:
        """Have the next beat announce the positions, and ask for others if these messages did."""
        self.dropped += len(messages)
        self._must_ask = self._must_ask or _asks(messages)
        self._has_lost_messages = True
        self._disturbed.set()

    def _encode(self, message: Message | _Rows) -> bytes:
        if isinstance(message, Message):
            return encode_message(message)
        batch, slots = message.batch, self._slots_before(message.batch.stream)
        return encode_message(
            rows_message(
                self._instance,
                batch,
                message.epoch,
                slots,
                message.changed,
                plain=message.is_plain,
            )
        )

    def _changed_before(self, key: tuple[str, str], prev: int) -> int:
        """Return the position after which a writer has only plain rows up to its last one."""
        published = self._published.get(key)
        # Rows that were not published in this life may be any.
        return prev if published is None or published.position != prev else published.changed

    def _slots_before(self, stream: StreamDef[Any]) -> int:
        """Return how much of the stream of slots comes before what is sent now."""
        if stream.writers is not StreamWriters.SHARDED:
            return 0
        return self.feed.position_of(SLOTS, ANY_PROCESS) or 0

    def _announce(self, source: Source, audience: Audience = Audience.ALL) -> None:
        key = source.stream.name, source.writer
        if audience is Audience.ALL:
            self._announced[key] = source.position
        self._unannounced.discard(key)
        slots = self._slots_before(source.stream)
        changed = self._changed_before(key, source.committed)
        self._enqueue(position_message(self._instance, source, slots, changed), audience)

    def _ask(self) -> None:
        """Ask the other processes to announce their positions."""
        self._must_ask = False
        self._enqueue(Message(MessageKind.REPLICATE, self._instance))

    def _announce_process(self) -> None:
        digest = self._announced_processes.own
        self._enqueue(Message(MessageKind.ALIVE, self._instance, digest))

    def _announce_all(self) -> None:
        self._announce_process()
        for source in self.sources:
            self._announce(source)

    async def _announce_advances(self) -> None:
        while True:
            await self._advanced.wait()
            await trio.sleep(ADVANCE_S)
            self._advanced = trio.Event()
            self._announce_changed()

    async def _announce_plain(self) -> None:
        while True:
            await self._has_unannounced.wait()
            await trio.sleep(PLAIN_S)
            self._has_unannounced = trio.Event()
            for source in self.sources:
                if (source.stream.name, source.writer) in self._unannounced:
                    self._announce(source, Audience.POSITIONS)

    async def _take_plain(self) -> None:
        """Listen to plain rows, too, once a subscriber takes them."""
        await self.feed.takes_plain.wait()
        if not self._listens_to_plain:
            self._listening.cancel()

    def _announce_recent(self) -> None:
        """Announce this process, and the positions that changed since the last call."""
        self._announce_process()
        for source in self.sources:
            key = source.stream.name, source.writer
            if self._repeated.get(key) != source.position:
                self._repeated[key] = source.position
                self._announce(source)

    def _announce_changed(self) -> None:
        for source in self.sources:
            last = self._announced.get((source.stream.name, source.writer), -1)
            if last < source.position:
                self._announce(source)

    def _join_announcement(self) -> None:
        now = trio.current_time()
        if self._resting.deadline - now < JOIN_WITHIN * BEAT_S:
            self._resting.deadline = now

    async def _beat(self) -> None:
        recent_at, all_at = _next_announcements()
        while True:
            self._resting = trio.CancelScope(deadline=recent_at)
            with self._resting:
                await self._disturbed.wait()
                await trio.sleep(BEAT_S)
            now, recent_at = trio.current_time(), self._resting.deadline
            if now >= all_at or self._has_lost_messages:
                self._has_lost_messages = False
                recent_at, all_at = _next_announcements()
                if self._must_ask:
                    self._ask()
                self._announce_all()
            elif now >= recent_at:
                recent_at, _ = _next_announcements()
                self._announce_recent()
            if not self.connected:
                await self._intake.look()
            elif now - self._received_at > SILENT_S:
                self._listening.cancel()
            elif not self._has_lost_messages:
                self._disturbed = trio.Event()


def _asks(messages: Sequence[tuple[Audience, Message | _Rows]]) -> bool:
    return any(
        isinstance(message, Message) and message.kind is MessageKind.REPLICATE
        for _, message in messages
    )


def _next_announcements() -> tuple[float, float]:
    """Return when recent positions are announced again, and when all are."""
    now = trio.current_time()
    return now + ANNOUNCE_EVERY * BEAT_S, now + ANNOUNCE_ALL_EVERY * BEAT_S


def client_name(instance: str) -> str:
    """Return the name that CLIENT LIST of Redis shows; it must not contain spaces."""
    return "hs:" + re.sub(r"[^!-~]", "_", instance)


def channel_name(server_name: str) -> str:
    """Return the name of a server's Redis channel; several servers may share one Redis."""
    return f"{server_name}/hs/streams"
