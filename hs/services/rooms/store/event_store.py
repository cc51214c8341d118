"""Events by ID: what the feed brought lately and what was read, in memory up to a bound."""

from collections import OrderedDict
from collections.abc import Collection, Iterable
from typing import Final

import attrs

from hs.core.events.event import Event
from hs.core.events.format import load_event
from hs.core.ids import EventID
from hs.core.versions import room_version
from hs.lib.caching.lru_cache import LruCache
from hs.repl.feed import Batch, Feed
from hs.repl.rows import EventRow
from hs.repl.streams import BACKFILL, EVENTS
from hs.services.rooms.store.stored_event import Status, StoredEvent
from hs.storage.database import Database
from hs.storage.rooms import events
from hs.storage.rooms.events import FoundEvent

MAX_BYTES: Final = 64 * 1024 * 1024
MAX_REDACTIONS: Final = 2000

_OVERHEAD_BYTES: Final = 1500
_PARSED_FACTOR: Final = 4  # the parsed JSON of an event, over its bytes


@attrs.define(eq=False)
class _Unread:
    """An event as the feed brought it; most are never asked for here, so not parsed."""

    row: EventRow
    pdu: bytes
    stream_id: int
    writer: str
    redacted_by: EventID | None


_Entry = StoredEvent | _Unread


def _weigh(event_id: EventID, entry: _Entry) -> int:
    pdu = entry.pdu if isinstance(entry, _Unread) else entry.event.canonical
    return _OVERHEAD_BYTES + len(pdu) * _PARSED_FACTOR


class EventStore:
    """The events of all rooms; every process has one, fed by the streams of events."""

    def __init__(self, database: Database, feed: Feed, max_bytes: int = MAX_BYTES) -> None:
        self._database = database
        self._entries: LruCache[EventID, _Entry] = LruCache(
            "events", max_weight=max_bytes, weigh=_weigh
        )
        self._expected: dict[EventID, Event] = {}
        # Redactions the feed brought: a read that began before must not undo them.
        self._redactions: OrderedDict[EventID, EventID] = OrderedDict()
        feed.subscribe(EVENTS, self._on_rows)
        feed.subscribe(BACKFILL, self._on_rows)

    @property
    def cache(self) -> LruCache[EventID, _Entry]:
        """Give what metrics and settings look at."""
        return self._entries

    def get_nowait(self, event_id: EventID) -> StoredEvent | None:
        """Give an event that is in memory."""
        entry = self._entries.get(event_id)
        return self._parsed(event_id, entry) if isinstance(entry, _Unread) else entry

    def _parsed(self, event_id: EventID, entry: _Unread) -> StoredEvent:
        stored = _read(entry)
        self._entries.put(event_id, stored)
        return stored

    async def get(self, event_ids: Iterable[EventID]) -> dict[EventID, StoredEvent]:
        """Give those of the events that are stored, in the order asked for."""
        wanted = dict.fromkeys(event_ids)
        found = {
            event_id: entry if isinstance(entry, StoredEvent) else self._parsed(event_id, entry)
            for event_id, entry in self._entries.get_kept(wanted).items()
        }
        if len(found) == len(wanted):
            return found
        missing = [event_id for event_id in wanted if event_id not in found]
        for record in await self._database.read(events.find, missing):
            stored = self._keep(record)
            found[stored.event_id] = stored
        return {event_id: found[event_id] for event_id in wanted if event_id in found}

    async def get_one(self, event_id: EventID) -> StoredEvent | None:
        """Give one event, None if it is not stored."""
        stored = self.get_nowait(event_id)
        return stored or (await self.get((event_id,))).get(event_id)

    async def get_numbered(self, stream_ids: Collection[int]) -> dict[int, StoredEvent]:
        """Give the events with these numbers, those that exist."""
        found = await self._database.read(events.find_by_stream_id, list(stream_ids))
        return {record.stream_id: self._keep(record) for record in found}

    def keep_found(self, records: Iterable[FoundEvent]) -> list[StoredEvent]:
        """Make events of rows that a caller's own unit has read, and remember them."""
        return [self._keep(record) for record in records]

    def remember(self, stored: StoredEvent) -> None:
        """Keep an event in memory that a caller made or read."""
        self._entries.put(stored.event_id, stored)

    def expect(self, event: Event) -> None:
        """Have an event that is about to be committed not parsed again."""
        self._expected[event.event_id] = event

    def expect_no_more(self, event_id: EventID) -> None:
        """Forget an event whose commit failed."""
        self._expected.pop(event_id, None)

    def forget(self, event_id: EventID) -> None:
        """Have an event read again, as its row changed otherwise than by a redaction."""
        self._entries.pop(event_id)

    def _keep(self, record: FoundEvent) -> StoredEvent:
        # What the feed brought while the row was being read is at least as new as the row.
        kept = self.get_nowait(EventID(record.event_id))
        if kept is not None:
            return kept
        stored = _from_record(record)
        redaction = self._redactions.get(stored.event_id)
        if redaction is not None:
            stored.redacted_by = redaction
        self._entries.put(stored.event_id, stored)
        return stored

    def _on_rows(self, batch: Batch[EventRow]) -> None:
        for stream_id, row in batch.rows:
            self._on_row(stream_id, row, batch.writer)

    def _on_row(self, stream_id: int, row: EventRow, writer: str) -> None:
        event_id = EventID(row.event_id)
        redacted_by = None if row.redacted_by is None else EventID(row.redacted_by)
        event = self._expected.pop(event_id, None)
        if row.pdu is not None:
            unread = _Unread(row, row.pdu, stream_id, writer, redacted_by)
            self._entries.put(event_id, unread if event is None else _of(unread, event))
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


def _read(unread: _Unread) -> StoredEvent:
    rules = room_version(unread.row.room_version)
    return _of(unread, load_event(EventID(unread.row.event_id), unread.pdu, rules))


def _of(unread: _Unread, event: Event) -> StoredEvent:
    row = unread.row
    return StoredEvent(
        event,
        unread.stream_id,
        unread.writer,
        row.snapshot_id,
        _status(row),
        unread.redacted_by,
        row.contains_url,
    )


def _status(row: EventRow) -> Status:
    if row.outlier:
        return Status.OUTLIER
    if row.rejected:
        return Status.REJECTED
    return Status.SOFT_FAILED if row.soft_failed else Status.ACCEPTED


def _from_record(record: FoundEvent) -> StoredEvent:
    rules = room_version(record.version)
    return StoredEvent(
        load_event(EventID(record.event_id), record.pdu, rules),
        record.stream_id,
        record.writer,
        record.snapshot_id,
        Status(record.status),
        None if record.redacted_by is None else EventID(record.redacted_by),
        bool(record.contains_url),
    )
