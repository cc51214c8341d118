"""Keeps the index of words, off the sending path: one process reads the log of events behind it.

Whoever searches waits a moment until the index has what their process had seen by then.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
import orjson
import trio

from hs.core.events import event_types
from hs.core.positions import VectorPosition
from hs.core.search_words import words_of
from hs.repl.feed import Batch, Feed
from hs.repl.rows import EventRow
from hs.repl.streams import BACKFILL, EVENTS
from hs.storage.database import Database
from hs.storage.directory import search as storage
from hs.storage.directory.search import Entry, Gone, TextEvent

GATHER_S: Final = 0.5
BATCH: Final = 500
PAUSE_S: Final = 0.05
"""Rest between batches while there is much to catch up, so that others get their turn."""

TOLD_EVERY: Final = 20_000
FORWARDS: Final = "events"
BACKWARDS: Final = "backfill"
KEYS: Final = {
    "content.body": (event_types.MESSAGE, "body"),
    "content.name": (event_types.NAME, "name"),
    "content.topic": (event_types.TOPIC, "topic"),
}
MEMBER_OF: Final = dict(KEYS.values())
_PLAIN: Final = "text/plain"
_ACCEPTED: Final = 0

log = logging.getLogger(__name__)


class SearchIndexer:
    """Indexes what the log has; one process does, the others wait for it."""

    def __init__(self, database: Database, feed: Feed) -> None:
        self._database = database
        self._feed = feed
        self._wake = trio.Event()
        self._position: VectorPosition | None = None  # as it is noted, once it was read
        self._is_backfilled = False
        feed.subscribe(EVENTS, self._on_events)
        feed.subscribe(BACKFILL, self._on_backfill)

    async def run(self) -> None:
        """Keep the index, for ever."""
        self._position = None
        while True:
            self._wake = trio.Event()
            await self.catch_up()
            await self._wake.wait()
            # What many say in a moment is one transaction.
            await trio.sleep(GATHER_S)

    async def catch_up(self) -> None:
        """Index everything that is stored."""
        seen = self._feed.position(EVENTS)
        position = self._position or await self._noted()
        start = told = after = position.floor
        while True:
            found = await self._database.read_long(storage.newer, after, BATCH)
            is_last = len(found) < BATCH
            if is_last:
                position = position.merge(seen)
            else:
                after = found[-1].stream_id
                # Of what was not yet delivered here, other writers may still add lower numbers.
                position = position.raise_floor(min(after, seen.floor))
            await self._put(found, FORWARDS, position.encode())
            self._position = position
            if is_last:
                break
            if after - told >= TOLD_EVERY:
                told = after
                total = await self._database.read(storage.highest)
                log.info("search index: events up to %d of %d", after, total)
            await trio.sleep(PAUSE_S)
        if told > start:
            log.info("search index: all events are in it")
        if not self._is_backfilled:
            self._is_backfilled = True
            await self._index_backfilled()

    async def _index_backfilled(self) -> None:
        """Index events of before our time, which are numbered downwards."""
        noted = await self._database.read(storage.progress, BACKWARDS)
        below = int(noted) if noted is not None else 0
        while found := await self._database.read_long(storage.older, below, BATCH):
            below = found[-1].stream_id
            await self._put(found, BACKWARDS, str(below))
            await trio.sleep(PAUSE_S)

    async def _noted(self) -> VectorPosition:
        noted = await self._database.read(storage.progress, FORWARDS)
        return VectorPosition() if noted is None else VectorPosition.parse(noted)

    async def _put(self, found: Sequence[TextEvent], name: str, position: str) -> None:
        rooms = sorted({one.room_id for one in found})
        encrypted = await self._database.read(storage.encrypted_rooms, rooms)
        searched = [one for one in found if one.room_id not in encrypted]
        entries = await trio.to_thread.run_sync(_entries, searched)
        redactions = [one.event_id for one in found if one.type == event_types.REDACTION]
        # Of rooms that became encrypted; what they said before goes as well.
        became = {one.room_id for one in found if one.type == event_types.ENCRYPTION} & encrypted
        gone = Gone(redactions, sorted(became))
        await self._database.write(storage.put, entries, gone, name, position)

    def _on_events(self, batch: Batch[EventRow]) -> None:
        if any(concerns_search(row) for _, row in batch.rows):
            self._wake.set()

    def _on_backfill(self, batch: Batch[EventRow]) -> None:
        self._is_backfilled = False
        self._wake.set()


@attrs.define(eq=False)
class SearchProgress:
    """Knows in each process what the index must have so that it is up to date."""

    _database: Database
    _wanted: dict[str, int] = attrs.Factory(dict)

    @classmethod
    def following(cls, database: Database, feed: Feed) -> "SearchProgress":
        """Follow the feed."""
        progress = cls(database)
        feed.subscribe(EVENTS, progress._on_events)
        return progress

    async def wait_current(self, timeout_s: float, poll_s: float = 0.05) -> bool:
        """Wait until all that this process has seen is in the index; False: it takes too long."""
        wanted = dict(self._wanted)
        with trio.move_on_after(timeout_s):
            while wanted:
                noted = await self._database.read(storage.progress, FORWARDS)
                position = VectorPosition() if noted is None else VectorPosition.parse(noted)
                wanted = {
                    writer: number
                    for writer, number in wanted.items()
                    if not position.covers(writer, number)
                }
                self._forget(position)
                if wanted:
                    await trio.sleep(poll_s)
        return not wanted

    def _forget(self, position: VectorPosition) -> None:
        for writer, number in list(self._wanted.items()):
            if position.covers(writer, number):
                del self._wanted[writer]

    def _on_events(self, batch: Batch[EventRow]) -> None:
        for stream_id, row in batch.rows:
            if concerns_search(row):
                self._wanted[batch.writer] = stream_id


def concerns_search(row: EventRow) -> bool:
    """Tell whether an event is to be indexed, or takes others out of the index."""
    return row.type in MEMBER_OF or row.type == event_types.ENCRYPTION or row.redaction_applies


def text_of(event_type: str, content: Any) -> str:
    """Give the text by which an event is found; empty if there is none."""
    if not isinstance(content, dict):
        return ""
    text = content.get(MEMBER_OF.get(event_type, ""))
    text = text if isinstance(text, str) else ""
    if event_type == event_types.TOPIC:
        block = _plain_topic(content)
        # As a rule the two are the same.
        text = text if block == text else f"{text}\n{block}".strip()
    return text


def _plain_topic(content: Mapping[str, Any]) -> str:
    """Give the plain text among the representations of a topic."""
    block = content.get("m.topic")
    texts = block.get("m.text") if isinstance(block, dict) else None
    for one in texts if isinstance(texts, list) else ():
        if isinstance(one, dict) and one.get("mimetype", _PLAIN) == _PLAIN:
            body = one.get("body")
            return body if isinstance(body, str) else ""
    return ""


def _entries(found: Sequence[TextEvent]) -> list[Entry]:
    """Make entries of what has words; in a thread, for long texts take their time."""
    entries = []
    for one in found:
        if one.status != _ACCEPTED or one.redacted_by is not None or one.type not in MEMBER_OF:
            continue
        words = words_of(text_of(one.type, orjson.loads(bytes(one.pdu)).get("content")))
        if words:
            entries.append(
                Entry(one.stream_id, one.room_id, one.type, one.sender, one.origin_server_ts, words)
            )
    return entries
