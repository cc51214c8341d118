"""The search index: one process reads the log of stored events and indexes their words.

Rules:

- Indexing is not part of sending an event. The indexer is woken by the feed, and reads events from
  the database in order of stream ID.
- The progress is stored in the transaction that stores the entries, so that a crash neither loses
  nor repeats any.
- The progress is a vector position. While the indexer is catching up, its floor never exceeds the
  positions that the feed has delivered: other writers may still commit lower stream IDs. Once all
  stored events are indexed, the progress covers everything that the feed had delivered before the
  read began.
- Backfilled events have a stream and a progress of their own; their stream IDs are the positions in
  it with a minus. Outliers that become part of a room's history keep their stream IDs, and have a
  position beyond those that are indexed already.
- Events of encrypted rooms are not indexed. When a room becomes encrypted, its entries are deleted;
  when an event is redacted, its entry is.
- A search waits, for a limited time, until the index covers what its process had seen when the
  search began (`SearchProgress`).
"""

import logging
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, Final

import attrs
import orjson
import trio

from hs.core.events import event_types
from hs.core.positions import VectorPosition
from hs.core.search_words import words_of
from hs.core.stream_def import StreamDef
from hs.core.streams import BACKFILL, EVENTS, EventRow
from hs.repl.feed import Batch, Feed, Interest
from hs.repl.feed_queue import FeedQueue, WhenFull
from hs.storage.database import Database, Tx
from hs.storage.directory import search as storage
from hs.storage.directory.search import IndexableEvent, IndexEntry, IndexRemovals

GATHER_S: Final = 0.5
BATCH: Final = 500
PAUSE_S: Final = 0.05
"""Pause between batches while catching up, to leave capacity to other work."""

LOG_EVERY: Final = 20_000
FORWARDS: Final = "events"
BACKWARDS: Final = "backfilled events"
LOGS: Final = (FORWARDS, BACKWARDS)
"""The logs of events and of backfilled events, which grow in opposite directions."""

ReadLog = Callable[[Tx, int, int], Coroutine[Any, Any, list[IndexableEvent]]]

KEYS: Final = {
    "content.body": (event_types.MESSAGE, "body"),
    "content.name": (event_types.NAME, "name"),
    "content.topic": (event_types.TOPIC, "topic"),
}
FIELD_OF_TYPE: Final = dict(KEYS.values())
_PLAIN: Final = "text/plain"
_ACCEPTED: Final = 0

log = logging.getLogger(__name__)


@attrs.frozen
class _Log:
    """A log to index. `read` lists events beyond a position times `sign`."""

    name: str
    stream: StreamDef[EventRow]
    read: ReadLog
    sign: int


_LOGS: Final = {
    FORWARDS: _Log(FORWARDS, EVENTS, storage.list_events_after, 1),
    BACKWARDS: _Log(BACKWARDS, BACKFILL, storage.list_events_before, -1),
}


class SearchIndexer:
    """The indexer, which runs in one process."""

    def __init__(self, database: Database, feed: Feed) -> None:
        self._database = database
        self._feed = feed
        self._positions: dict[str, VectorPosition] = {}  # as stored, of the logs that were read
        # The names of the logs with new events: each may be in hand and wait again.
        self._grown: FeedQueue[str] = FeedQueue(
            "search index", 2 * len(LOGS), WhenFull.DROP_NEWEST, is_open=False
        )
        self._grown.follow(feed, EVENTS, _grown_by_events)
        self._grown.follow(feed, BACKFILL, lambda batch: (BACKWARDS,))

    async def run(self) -> None:
        """Index stored events, then new ones, until cancelled."""
        self._positions.clear()
        with self._grown.opened():
            await self.catch_up()
            # Events gather for a moment, so that they are indexed in one transaction.
            await self._grown.serve(self._index, at_most=len(LOGS), gather_s=GATHER_S)

    async def catch_up(self) -> None:
        """Index all stored events."""
        await self._index(LOGS)

    async def _index(self, logs: Collection[str]) -> None:
        for name in LOGS:
            if name in logs:
                await self._index_log(_LOGS[name])

    async def _index_log(self, indexed: "_Log") -> None:
        name = indexed.name
        delivered = self._feed.position(indexed.stream)
        position = self._positions.get(name) or await self._read_progress(name)
        start = logged = after = position.floor
        while True:
            events = await self._database.read_long(indexed.read, indexed.sign * after, BATCH)
            is_last = len(events) < BATCH
            if is_last:
                position = position.merge(delivered)
            else:
                after = indexed.sign * events[-1].position
                # Other writers may still commit lower positions than those not delivered here yet.
                position = position.raise_floor(min(after, delivered.floor))
            await self._put(events, name, position.encode())
            self._positions[name] = position
            if is_last:
                break
            if after - logged >= LOG_EVERY:
                logged = after
                total = await self._database.read(storage.highest_stream_id)
                log.info("search index: indexed %s up to %d of %d", name, after, total)
            await trio.sleep(PAUSE_S)
        if logged > start:
            log.info("search index: all %s are indexed", name)

    async def _read_progress(self, name: str) -> VectorPosition:
        progress = await self._database.read(storage.load_progress, name)
        return VectorPosition() if progress is None else VectorPosition.parse(progress)

    async def _put(self, events: Sequence[IndexableEvent], name: str, position: str) -> None:
        room_ids = sorted({event.room_id for event in events})
        encrypted = await self._database.read(storage.encrypted_rooms, room_ids)
        indexed = [event for event in events if event.room_id not in encrypted]
        entries = await trio.to_thread.run_sync(_entries, indexed)
        redactions = [event.event_id for event in events if event.type == event_types.REDACTION]
        # The earlier entries of rooms that have become encrypted are deleted as well.
        newly_encrypted = encrypted & {
            event.room_id for event in events if event.type == event_types.ENCRYPTION
        }
        deletions = IndexRemovals(redactions, sorted(newly_encrypted))
        await self._database.write(storage.update_index, entries, deletions, name, position)


@attrs.define(eq=False)
class SearchProgress:
    """The positions that the index must reach to cover what this process has seen."""

    _database: Database
    _required: dict[str, int] = attrs.Factory(dict)

    @classmethod
    def following(
        cls, database: Database, feed: Feed, interest: Interest = Interest.ALL
    ) -> "SearchProgress":
        """Create a SearchProgress that follows the feed."""
        progress = cls(database)
        feed.subscribe(EVENTS, progress._on_events, interest)
        return progress

    async def wait_current(self, timeout_s: float, poll_s: float = 0.05) -> bool:
        """Wait until the index covers what this process has seen; return False on timeout."""
        required = dict(self._required)
        with trio.move_on_after(timeout_s):
            while required:
                progress = await self._database.read(storage.load_progress, FORWARDS)
                position = VectorPosition() if progress is None else VectorPosition.parse(progress)
                required = {
                    writer: number
                    for writer, number in required.items()
                    if not position.covers(writer, number)
                }
                self._drop_covered(position)
                if required:
                    await trio.sleep(poll_s)
        return not required

    def _drop_covered(self, position: VectorPosition) -> None:
        for writer, number in list(self._required.items()):
            if position.covers(writer, number):
                del self._required[writer]

    def _on_events(self, batch: Batch[EventRow]) -> None:
        for stream_id, row in batch.rows:
            if concerns_search(row):
                self._required[batch.writer] = stream_id


def concerns_search(row: EventRow) -> bool:
    """Return whether an event is indexed, or removes entries from the index."""
    return row.type in FIELD_OF_TYPE or row.type == event_types.ENCRYPTION or row.redaction_applies


def text_of(event_type: str, content: Any) -> str:
    """Return the indexed text of an event; empty if it has none."""
    if not isinstance(content, dict):
        return ""
    text = content.get(FIELD_OF_TYPE.get(event_type, ""))
    text = text if isinstance(text, str) else ""
    if event_type == event_types.TOPIC:
        plain_text = _plain_topic(content)
        # Usually the two are equal.
        text = text if plain_text == text else f"{text}\n{plain_text}".strip()
    return text


def _plain_topic(content: Mapping[str, Any]) -> str:
    """Return the plain text representation of a topic (`m.topic`)."""
    block = content.get("m.topic")
    texts = block.get("m.text") if isinstance(block, dict) else None
    for representation in texts if isinstance(texts, list) else ():
        if isinstance(representation, dict) and representation.get("mimetype", _PLAIN) == _PLAIN:
            body = representation.get("body")
            return body if isinstance(body, str) else ""
    return ""


def _grown_by_events(batch: Batch[EventRow]) -> Collection[str]:
    return (FORWARDS,) if any(concerns_search(row) for _, row in batch.rows) else ()


def _entries(events: Sequence[IndexableEvent]) -> list[IndexEntry]:
    """Return the index entries of events with words. CPU-bound for long texts: run in a thread."""
    entries = []
    for event in events:
        if (
            event.status != _ACCEPTED
            or event.redacted_by is not None
            or event.type not in FIELD_OF_TYPE
        ):
            continue
        words = words_of(text_of(event.type, orjson.loads(event.pdu).get("content")))
        if words:
            entries.append(
                IndexEntry(
                    stream_id=event.stream_id,
                    room_id=event.room_id,
                    type=event.type,
                    sender=event.sender,
                    origin_server_ts=event.origin_server_ts,
                    words=words,
                )
            )
    return entries
