"""The queues of PDUs that wait for events that they cite, processed by the owner of the rooms.

Rules:

- A queue contains the PDUs of one room that one server has sent. They are rows until they are
  stored as events, or deleted. Each step is idempotent, so a crash loses and duplicates none.
- Of one room and of one server, a few queues are processed at a time. So a server that sends
  invalid events, or does not respond, delays its own events only.
- A queue that still lacks events is processed again after pauses that grow, and at last its oldest
  PDUs are deleted. They are fetched again when a later event cites them, so little is lost. PDUs
  that cite events that not even their server has are deleted at once.
- A queue is processed at once if an event arrives that it waits for.
- The queues of a room that this server is joining wait for it; they were stored without a check of
  its ACL.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import attrs
import orjson
import trio

from hs.core.errors import LimitExceeded, MatrixError, NotOwner, Unavailable
from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.events.format import parse_pdu
from hs.core.ids import EventID, RoomID, ServerName, server_of
from hs.core.streams import EVENTS, EventRow
from hs.core.versions import RoomVersion
from hs.lib.backoff import Backoff
from hs.lib.clock import Clock
from hs.repl.feed import Batch, Feed, Interest
from hs.services.federation.inbound.extremity_limits import ExtremityLimits
from hs.services.federation.inbound.missing_events import FetchedEvents, MissingEventFetcher
from hs.services.rooms.append.hot_rooms import HotRooms
from hs.services.rooms.receive.event_receiver import PduOutcome, ReceiveResult, RoomReceiver
from hs.services.rooms.receive.expected_rooms import ExpectedRooms
from hs.services.rooms.store.memberships import Memberships
from hs.services.rooms.store.server_acls import ServerAcls
from hs.storage.database import Database
from hs.storage.federation import inbound_pdus
from hs.storage.federation.inbound_pdus import WaitingPdu

log = logging.getLogger(__name__)

MAX_QUEUED: Final = 500
"""PDUs of one server that may wait in one room."""

MAX_QUEUED_OF_ORIGIN: Final = 5000
"""PDUs of one server that may wait in all rooms together."""

PDUS_AT_ONCE: Final = 100
QUEUES_AT_ONCE: Final = 8
QUEUES_OF_ORIGIN: Final = 2
QUEUES_OF_ROOM: Final = 3
MAX_FAILURES: Final = 6
FIRST_PAUSE_S: Final = 5.0
LONGEST_PAUSE_S: Final = 600.0
PAUSE_FACTOR: Final = 4.0
ROOM_PAUSE_S: Final = 5.0
"""Pause of the queues of a room that has not arrived; its arrival ends the pause."""

RETRY_S: Final = 60.0
"""Pause after an error of this server."""

OTHER_SERVERS: Final = 3
"""Servers that are asked if the one that sent the events does not respond."""

OUTLIERS_AT_ONCE: Final = 500
"""Outliers that are stored while the room is locked once."""

QueueKey = tuple[RoomID, ServerName]


@attrs.define(eq=False)
class QueueState:
    """The state of a queue in memory. `due_s` is a time of trio's clock.

    `lacking` are the events that it waited for when it was processed last. `additions` counts the
    calls that have added PDUs.
    """

    length: int
    oldest_ms: int
    due_s: float
    backoff: Backoff
    lacking: frozenset[EventID] = frozenset()
    additions: int = 0


@attrs.define(eq=False)
class PduQueues:
    """The queues of the rooms that this process owns."""

    _database: Database
    _receiver: RoomReceiver
    _rooms: HotRooms
    _fetcher: MissingEventFetcher
    _memberships: Memberships
    _limits: ExtremityLimits = attrs.field(kw_only=True)
    _acls: ServerAcls = attrs.field(kw_only=True)
    _expected: ExpectedRooms = attrs.field(kw_only=True)
    _clock: Clock = attrs.field(kw_only=True)
    _owns: Callable[[RoomID], bool] = attrs.field(kw_only=True)
    _server_name: ServerName = attrs.field(kw_only=True)
    _states: dict[RoomID, dict[ServerName, QueueState]] = attrs.Factory(dict)
    _busy: set[QueueKey] = attrs.Factory(set)
    _busy_rooms: Counter[RoomID] = attrs.Factory(Counter)
    _busy_origins: Counter[ServerName] = attrs.Factory(Counter)
    _changed: trio.Event = attrs.Factory(trio.Event)
    _must_look: bool = True
    given_up: int = 0

    @property
    def length(self) -> int:
        """Number of PDUs that wait."""
        return sum(state.length for room in self._states.values() for state in room.values())

    @property
    def lag_s(self) -> float:
        """Age of the oldest PDU that waits, in seconds."""
        now_ms = self._clock.now_ms()
        oldest_ms = min(
            (state.oldest_ms for room in self._states.values() for state in room.values()),
            default=now_ms,
        )
        return max(0, now_ms - oldest_ms) / 1000

    async def add(self, room_id: RoomID, origin: ServerName, pdus: Mapping[EventID, bytes]) -> None:
        """Store PDUs until the events that they cite are there.

        Raises: LimitExceeded, if too many PDUs of this server wait in the room.
        """
        if self._length_of(origin) + len(pdus) > MAX_QUEUED_OF_ORIGIN:
            raise _queue_full("Too many of your events wait")
        now_ms = self._clock.now_ms()
        rows = [
            WaitingPdu(event_id, orjson.loads(pdu)["depth"], now_ms, pdu)
            for event_id, pdu in pdus.items()
        ]
        length = await self._database.write(inbound_pdus.add, room_id, origin, rows, MAX_QUEUED)
        if length is None:
            raise _queue_full(f"Too many of your events wait in room {room_id}")
        state = self._state((room_id, origin), now_ms)
        state.length = length
        state.additions += 1

    def _length_of(self, origin: ServerName) -> int:
        queues = (room.get(origin) for room in self._states.values())
        return sum(state.length for state in queues if state is not None)

    def note_received(self, room_id: RoomID, event_ids: Collection[EventID]) -> None:
        """Process the queues now that wait for one of these events."""
        for state in self._states.get(room_id, {}).values():
            if not state.lacking.isdisjoint(event_ids):
                state.due_s = trio.current_time()
                self._changed.set()

    def follow(self, feed: Feed) -> None:
        """Subscribe to the events: the queues of a room are tried when a local user joins it."""
        feed.subscribe(EVENTS, self._on_events, Interest.CHANGES)

    def _on_events(self, batch: Batch[EventRow]) -> None:
        if not self._states:
            return
        rooms = {row.room_id for _, row in batch.rows if row.membership == event_types.JOIN}
        for room_id in rooms & self._states.keys():
            for state in self._states[RoomID(room_id)].values():
                if not state.lacking:
                    state.due_s = trio.current_time()
                    self._changed.set()

    def look_again(self) -> None:
        """Read which queues there are, because this process owns other rooms than before."""
        self._must_look = True
        self._changed.set()

    async def run(self) -> None:
        """Process the queues until cancelled."""
        self._must_look = True
        self._busy.clear()
        self._busy_rooms.clear()
        self._busy_origins.clear()
        async with trio.open_nursery() as nursery:
            while True:
                self._changed = trio.Event()
                if self._must_look:
                    self._must_look = False
                    await self._look()
                with trio.move_on_after(self._start_due(nursery)):
                    await self._changed.wait()

    async def _look(self) -> None:
        for queue in await self._database.read(inbound_pdus.list_queues):
            if self._owns(RoomID(queue.room_id)):
                key = (RoomID(queue.room_id), ServerName(queue.origin))
                self._state(key, queue.oldest_ms).length = queue.length
        for room_id in [each for each in self._states if not self._owns(each)]:
            if not self._busy_rooms[room_id]:
                del self._states[room_id]

    def _state(self, key: QueueKey, oldest_ms: int) -> QueueState:
        room_id, origin = key
        queues = self._states.setdefault(room_id, {})
        if origin not in queues:
            backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S, PAUSE_FACTOR)
            queues[origin] = QueueState(0, oldest_ms, trio.current_time(), backoff)
            self._changed.set()
        return queues[origin]

    def _start_due(self, nursery: trio.Nursery) -> float:
        """Start processing the queues that are due; return the seconds until another one is."""
        now_s, next_s = trio.current_time(), float("inf")
        due: list[tuple[float, QueueKey]] = []
        for room_id, queues in self._states.items():
            for origin, state in queues.items():
                if state.due_s > now_s:
                    next_s = min(next_s, state.due_s)
                else:
                    due.append((state.due_s, (room_id, origin)))
        for _, key in sorted(due):
            if len(self._busy) >= QUEUES_AT_ONCE:
                break
            room_id, origin = key
            is_full = (
                self._busy_rooms[room_id] >= QUEUES_OF_ROOM
                or self._busy_origins[origin] >= QUEUES_OF_ORIGIN
            )
            if key in self._busy or is_full:
                continue
            self._busy.add(key)
            self._busy_rooms[room_id] += 1
            self._busy_origins[origin] += 1
            nursery.start_soon(self._work, key)
        # A queue that is due and not started is started when another one is done.
        return next_s - now_s

    async def _work(self, key: QueueKey) -> None:
        room_id, origin = key
        state = self._states[room_id][origin]
        try:
            await self._try_head(key, state)
        except NotOwner:
            self._must_look = True
        except (MatrixError, Unavailable) as fault:
            log.warning(
                "processing PDUs of %s in room %s failed, retrying in %.0f s: %s",
                origin,
                room_id,
                RETRY_S,
                fault,
            )
            state.due_s = trio.current_time() + RETRY_S
        finally:
            self._busy.discard(key)
            self._busy_rooms -= Counter([room_id])
            self._busy_origins -= Counter([origin])
            self._changed.set()

    async def _try_head(self, key: QueueKey, state: QueueState) -> None:
        """Receive the oldest PDUs of a queue, and the missing events that they cite."""
        additions = state.additions
        rows = await self._database.read(inbound_pdus.oldest, *key, PDUS_AT_ONCE)
        if not rows:
            self._note_length(key, state, 0, additions)
            return
        state.oldest_ms = rows[0].received_ms
        if not (await self._memberships.present(key[0])).local:
            if self._expected.rules_of(key[0]) is None:
                await self._delete(key, state, [row.event_id for row in rows])
            else:
                state.due_s = trio.current_time() + ROOM_PAUSE_S
            return
        if not await self._acls.permits(*key):
            await self._delete(key, state, [row.event_id for row in rows])
            return
        unfounded: frozenset[str] = frozenset()
        try:
            waiting, unfounded = await self._receive(key, state, rows)
        except (MatrixError, Unavailable):
            raise
        except Exception:
            # The PDUs of one server must not stop the queues of all others.
            log.exception("could not process PDUs of %s in room %s", key[1], key[0])
            waiting = rows
        done = {row.event_id for row in rows} - {row.event_id for row in waiting} - unfounded
        if done:
            state.backoff.reset()
            await self._delete(key, state, done)
            self.note_received(key[0], {EventID(each) for each in done})
            self._limits.note(key[0])
        if unfounded:
            await self._give_up(key, state, unfounded)
        if waiting:
            await self._fail(key, state, [row.event_id for row in waiting])

    async def _receive(
        self, key: QueueKey, state: QueueState, rows: Sequence[WaitingPdu]
    ) -> tuple[Sequence[WaitingPdu], frozenset[str]]:
        """Receive PDUs and the missing events that they cite.

        Return the PDUs that still wait, and the IDs of unfounded ones.
        """
        result = await self._receiver.receive(key[0], [row.pdu for row in rows], [], {})
        waiting = _waiting(rows, result)
        unfounded: frozenset[str] = frozenset()
        if waiting:
            fetched = await self._fetch(key, waiting)
            unfounded = frozenset(fetched.unfounded)
            waiting = [row for row in waiting if row.event_id not in unfounded]
            if fetched.found_nothing(len(waiting)):
                state.lacking = _lacking(result)
                return waiting, unfounded
            result = await self._receive_fetched(key[0], fetched)
            outcomes = {verdict.event_id: verdict.outcome for verdict in result.verdicts}
            waiting = [
                row for row in waiting if outcomes.get(EventID(row.event_id)) is PduOutcome.WAITING
            ]
        state.lacking = _lacking(result)
        return waiting, unfounded

    async def _fetch(self, key: QueueKey, waiting: Collection[WaitingPdu]) -> FetchedEvents:
        room_id, origin = key
        async with self._rooms.hold(room_id) as room:
            rules = room.rules
            extremities = [end.event_id for end in room.head.extremities]
        servers = [origin, *await self._other_servers(room_id, origin)]
        events = [_parsed(row, rules) for row in waiting]
        return await self._fetcher.fetch(rules, servers, events, extremities)

    async def _receive_fetched(self, room_id: RoomID, fetched: FetchedEvents) -> ReceiveResult:
        outliers = [event.canonical for event in fetched.outliers]
        while len(outliers) > OUTLIERS_AT_ONCE:
            await self._receiver.receive(room_id, [], outliers[:OUTLIERS_AT_ONCE], {})
            outliers = outliers[OUTLIERS_AT_ONCE:]
        pdus = [event.canonical for event in fetched.events]
        return await self._receiver.receive(room_id, pdus, outliers, fetched.states)

    async def _other_servers(self, room_id: RoomID, origin: ServerName) -> list[ServerName]:
        """Return servers that have been in the room for long: they know most of it."""
        servers: list[ServerName] = []
        for user_id in (await self._memberships.present(room_id)).joined:
            server = server_of(user_id)
            if server not in (origin, self._server_name, *servers):
                servers.append(server)
                if len(servers) >= OTHER_SERVERS:
                    break
        return servers

    async def _fail(self, key: QueueKey, state: QueueState, waiting: Collection[str]) -> None:
        pause_s = state.backoff.next_s()
        state.due_s = trio.current_time() + pause_s
        if state.backoff.failures >= MAX_FAILURES:
            state.backoff.reset()
            await self._give_up(key, state, waiting)

    async def _give_up(self, key: QueueKey, state: QueueState, waiting: Collection[str]) -> None:
        self.given_up += len(waiting)
        log.warning(
            "deleting %d PDUs of %s in room %s: events that they cite could not be fetched",
            len(waiting),
            key[1],
            key[0],
        )
        await self._delete(key, state, waiting)

    async def _delete(self, key: QueueKey, state: QueueState, event_ids: Collection[str]) -> None:
        additions = state.additions
        length = await self._database.write(inbound_pdus.delete, *key, event_ids)
        self._note_length(key, state, length, additions)

    def _note_length(self, key: QueueKey, state: QueueState, length: int, additions: int) -> None:
        """Record the length of a queue as it was read after so many additions."""
        if length or state.additions != additions:
            state.length = max(length, 1)
            state.due_s = trio.current_time()
            return
        room_id, origin = key
        queues = self._states[room_id]
        queues.pop(origin, None)
        if not queues:
            del self._states[room_id]


def _queue_full(message: str) -> LimitExceeded:
    return LimitExceeded(message, retry_after_ms=int(FIRST_PAUSE_S * 1000))


def _waiting(rows: Collection[WaitingPdu], result: ReceiveResult) -> list[WaitingPdu]:
    return [
        row
        for row, verdict in zip(rows, result.verdicts, strict=True)
        if verdict.outcome is PduOutcome.WAITING
    ]


def _lacking(result: ReceiveResult) -> frozenset[EventID]:
    return frozenset((*result.missing.prev_events, *result.missing.auth_events))


def _parsed(row: WaitingPdu, rules: RoomVersion) -> Event:
    return parse_pdu(orjson.loads(row.pdu), rules)
