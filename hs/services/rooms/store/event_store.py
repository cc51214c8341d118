"""The cache of events by ID, filled by the feed and by reads from the database.

Rules:

- An event never changes, but its row may: a redaction sets `redacted_by`, and an outlier gets its
  state. Both arrive by the feed, which updates the cached entry, so an entry is never older than
  this process's feed.
- A read from the database may have begun before such a change and end after it. What the feed has
  cached in the meantime wins over the row that was read, and redactions that the feed delivered
  lately are applied to it. MAX_REDACTIONS need only cover the time that one read takes.
- Rows of the feed are parsed when somebody asks for the event: most processes never need most
  events.
- The owner of a room passes the events that it commits to `expect`, so that its own events are not
  parsed again when the feed delivers them.
- With `Interest.OWN`, in a process that nobody asks, messages that others write are not cached.
  They are read from the database if this process takes over their rooms.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from typing import Final

import attrs

from hs.core.events.event import Event, EventHead, event_with_head, load_event
from hs.core.ids import EventID, RoomID
from hs.core.streams import BACKFILL, EVENTS, EventRow
from hs.core.versions import room_version
from hs.lib.caching.lru_cache import LruCache
from hs.repl.feed import Batch, Feed, Interest
from hs.services.rooms.store.stored_event import EventStatus, StoredEvent
from hs.storage.database import Database
from hs.storage.rooms import events
from hs.storage.rooms.events import LoadedEvent
from hs.storage.rooms.stored_pdus import expand_pdu
from hs.storage.sync.room_changes import TimelineRow

MAX_BYTES: Final = 64 * 1024 * 1024
MAX_REDACTIONS: Final = 2000

_OVERHEAD_BYTES: Final = 1000
_PARSED_FACTOR: Final = 2  # the canonical JSON, and the content if it was parsed


@attrs.define(eq=False)
class _UnparsedEvent:
    """An event as the feed delivered it, not parsed yet."""

    row: EventRow
    pdu: bytes
    stream_id: int
    writer: str
    redacted_by: EventID | None


_Entry = StoredEvent | _UnparsedEvent


def _weigh(event_id: EventID, entry: _Entry) -> int:
    pdu = entry.pdu if isinstance(entry, _UnparsedEvent) else entry.event.canonical
    return _OVERHEAD_BYTES + len(pdu) * _PARSED_FACTOR


class EventStore:
    """The events of all rooms; every process has one."""

    def __init__(
        self,
        database: Database,
        feed: Feed,
        max_bytes: int = MAX_BYTES,
        interest: Interest = Interest.ALL,
    ) -> None:
        self._database = database
        self._entries: LruCache[EventID, _Entry] = LruCache(
            "events", max_weight=max_bytes, weigh=_weigh
        )
        self._expected: dict[EventID, Event] = {}
        # Recent redactions by the feed, for reads that began before: target -> redaction.
        self._redactions: OrderedDict[EventID, EventID] = OrderedDict()
        feed.subscribe(EVENTS, self._on_rows, interest)
        feed.subscribe(BACKFILL, self._on_rows)

    @property
    def cache(self) -> LruCache[EventID, _Entry]:
        """The cache, for metrics and its size setting."""
        return self._entries

    def get_nowait(self, event_id: EventID) -> StoredEvent | None:
        """Return an event that is in memory."""
        entry = self._entries.get(event_id)
        return self._parsed(event_id, entry) if isinstance(entry, _UnparsedEvent) else entry

    def _parsed(self, event_id: EventID, entry: _UnparsedEvent) -> StoredEvent:
        stored = _parse(entry)
        self._entries.put(event_id, stored)
        return stored

    async def get(self, event_ids: Iterable[EventID]) -> dict[EventID, StoredEvent]:
        """Return the events that are stored, in the order of `event_ids`."""
        return await self._get(event_ids, self._entries.put)

    async def scan(self, event_ids: Iterable[EventID]) -> dict[EventID, StoredEvent]:
        """Return events like `get`, but cache them as parts of a scan.

        Otherwise a room with more members than the cache holds would empty it each time.
        """
        return await self._get(event_ids, self._entries.put_scanned)

    async def pdus(self, event_ids: Collection[EventID]) -> dict[EventID, bytes]:
        """Return the canonical JSON of those of the events that are not redacted.

        This neither parses nor caches events, and costs a fraction of `get`.
        """
        cached = self._entries.get_cached(event_ids)
        missing = [event_id for event_id in event_ids if event_id not in cached]
        pdus = {
            event_id: entry.pdu if isinstance(entry, _UnparsedEvent) else entry.event.canonical
            for event_id, entry in cached.items()
        }
        if missing:
            for event_id, pdu in await self._database.read(events.find_pdus, missing):
                pdus[EventID(event_id)] = pdu
        # The feed may have delivered redactions during the read.
        for event_id, entry in cached.items():
            if entry.redacted_by is not None:
                del pdus[event_id]
        for event_id in pdus.keys() & self._redactions.keys():
            del pdus[event_id]
        return pdus

    async def pdus_of_states(
        self, room_ids: Collection[RoomID], with_members: bool
    ) -> dict[EventID, bytes]:
        """Return the canonical JSON of the current state of rooms, without redacted events.

        The database may be ahead of what this process knows of the state.
        """
        read = events.find_pdus_of_states
        rows = await self._database.read(read, list(room_ids), with_members)
        pdus = {EventID(event_id): pdu for event_id, pdu in rows}
        for event_id in pdus.keys() & self._redactions.keys():
            del pdus[event_id]
        return pdus

    async def _get(
        self, event_ids: Iterable[EventID], put: Callable[[EventID, StoredEvent], None]
    ) -> dict[EventID, StoredEvent]:
        ids = dict.fromkeys(event_ids)
        events_by_id = {
            event_id: entry if isinstance(entry, StoredEvent) else self._parsed(event_id, entry)
            for event_id, entry in self._entries.get_cached(ids).items()
        }
        if len(events_by_id) == len(ids):
            return events_by_id
        missing = [event_id for event_id in ids if event_id not in events_by_id]
        for record in await self._database.read(events.find, missing):
            stored = self._cache_record(record, put)
            events_by_id[stored.event_id] = stored
        return {event_id: events_by_id[event_id] for event_id in ids if event_id in events_by_id}

    async def get_one(self, event_id: EventID) -> StoredEvent | None:
        """Return one event; None if it is not stored."""
        stored = self.get_nowait(event_id)
        return stored or (await self.get((event_id,))).get(event_id)

    async def get_by_stream_ids(self, stream_ids: Collection[int]) -> dict[int, StoredEvent]:
        """Return the stored events with these stream IDs."""
        records = await self._database.read(events.find_by_stream_id, list(stream_ids))
        put = self._entries.put
        return {record.stream_id: self._cache_record(record, put) for record in records}

    def add_records(self, records: Iterable[LoadedEvent]) -> list[StoredEvent]:
        """Return the events of rows that the caller has read, and cache them."""
        return [self._cache_record(record, self._entries.put) for record in records]

    def add_timeline_rows(self, rows: Iterable[TimelineRow]) -> dict[EventID, StoredEvent]:
        """Return the events of rows that the caller has just read, cached as parts of a scan.

        The rows have the events themselves.
        """
        stored_events: dict[EventID, StoredEvent] = {}
        unknown: list[tuple[EventID, StoredEvent]] = []
        for row in rows:
            event_id = row.event_id
            stored = self.get_nowait(event_id)
            if stored is None:
                stored = _from_timeline_row(row)
                stored.redacted_by = self._redactions.get(event_id, stored.redacted_by)
                unknown.append((event_id, stored))
            stored_events[event_id] = stored
        self._entries.put_all_scanned(unknown)
        return stored_events

    def latest_redaction(self, event_id: EventID) -> EventID | None:
        """Return the redaction of an event, if the feed delivered it lately."""
        return self._redactions.get(event_id)

    def remember(self, stored: StoredEvent) -> None:
        """Cache an event that the caller built or read."""
        self._entries.put(stored.event_id, stored)

    def expect(self, event: Event) -> None:
        """Remember a parsed event until the feed delivers its row."""
        self._expected[event.event_id] = event

    def stop_expecting(self, event_id: EventID) -> None:
        """Forget an expected event whose commit failed."""
        self._expected.pop(event_id, None)

    def forget(self, event_id: EventID) -> None:
        """Drop an event from the cache, because its row changed otherwise than by a redaction."""
        self._entries.pop(event_id)

    def _cache_record(
        self, record: LoadedEvent, put: Callable[[EventID, StoredEvent], None]
    ) -> StoredEvent:
        # An entry cached by the feed while the row was being read is at least as new as the row.
        cached = self.get_nowait(EventID(record.event_id))
        if cached is not None:
            return cached
        stored = _from_record(record)
        redaction = self._redactions.get(stored.event_id)
        if redaction is not None:
            stored.redacted_by = redaction
        if stored.status != EventStatus.HIDDEN:
            # A hidden event may be shown later, by a row that does not name it.
            put(stored.event_id, stored)
        return stored

    def _on_rows(self, batch: Batch[EventRow]) -> None:
        for stream_id, row in batch.rows:
            self._on_row(stream_id, row, batch.writer)

    def _on_row(self, stream_id: int, row: EventRow, writer: str) -> None:
        event_id = EventID(row.event_id)
        redacted_by = None if row.redacted_by is None else EventID(row.redacted_by)
        event = self._expected.pop(event_id, None)
        if row.pdu is not None and not row.hidden:
            unparsed = _UnparsedEvent(row, row.pdu, row.number or stream_id, writer, redacted_by)
            self._entries.put(
                event_id, unparsed if event is None else _stored_event(unparsed, event)
            )
        if row.redaction_applies and row.redacts is not None:
            self._redact(EventID(row.redacts), event_id)

    def _redact(self, target: EventID, redaction: EventID) -> None:
        self._redactions[target] = redaction
        if len(self._redactions) > MAX_REDACTIONS:
            self._redactions.popitem(last=False)
        if target in self._entries:
            entry = self._entries.get(target)
            if entry is not None:
                entry.redacted_by = redaction


def _parse(unparsed: _UnparsedEvent) -> StoredEvent:
    rules = room_version(unparsed.row.room_version)
    return _stored_event(unparsed, load_event(EventID(unparsed.row.event_id), unparsed.pdu, rules))


def _stored_event(unparsed: _UnparsedEvent, event: Event) -> StoredEvent:
    row = unparsed.row
    return StoredEvent(
        event=event,
        stream_id=unparsed.stream_id,
        writer=unparsed.writer,
        snapshot_id=row.snapshot_id,
        status=_status(row),
        redacted_by=unparsed.redacted_by,
        contains_url=row.contains_url,
    )


def _status(row: EventRow) -> EventStatus:
    if row.outlier:
        return EventStatus.OUTLIER
    if row.rejected:
        return EventStatus.REJECTED
    if row.soft_failed:
        return EventStatus.SOFT_FAILED
    return EventStatus.HIDDEN if row.hidden else EventStatus.ACCEPTED


def _from_record(record: LoadedEvent) -> StoredEvent:
    rules = room_version(record.version)
    return StoredEvent(
        event=load_event(EventID(record.event_id), record.pdu, rules),
        stream_id=record.stream_id,
        writer=record.writer,
        snapshot_id=record.snapshot_id,
        status=record.status,
        redacted_by=None if record.redacted_by is None else EventID(record.redacted_by),
        contains_url=bool(record.contains_url),
    )


def _from_timeline_row(row: TimelineRow) -> StoredEvent:
    head = EventHead(
        type=row.type,
        sender=row.sender,
        depth=row.depth,
        origin_server_ts=row.origin_server_ts,
        room_id=row.room_id,
        state_key=row.state_key,
    )
    return StoredEvent(
        event=event_with_head(row.event_id, expand_pdu(row.pdu), room_version(row.version), head),
        stream_id=row.stream_id,
        writer=row.writer,
        snapshot_id=row.snapshot_id,
        redacted_by=row.redacted_by,
        contains_url=bool(row.contains_url),
    )
