"""Aggregations of the child events of an event: latest edit, thread summary, references.

Rules:

- An entry is read once for each event, empty ones too, and dropped when the feed delivers another
  child or the redaction of one.
- If that happens while the entry is being read, the result is returned but not cached, as it may
  have been read before the change.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Final

import attrs

from hs.core.ids import EventID, UserID
from hs.core.relations import AGGREGATED, REFERENCE, REPLACE, is_valid_replacement
from hs.core.streams import BACKFILL, EVENTS, EventRow
from hs.lib.caching.loading_cache import LoadingManyCache
from hs.lib.caching.lru_cache import LruCache
from hs.repl.feed import Batch, Feed, Interest
from hs.services.rooms.store.event_store import EventStore
from hs.storage.database import Database
from hs.storage.rooms import relations

MAX_ENTRIES: Final = 10_000
MAX_EDITS_TRIED: Final = 5  # the latest ones may be invalid or redacted


@attrs.frozen
class ThreadSummary:
    """The latest reply of a thread, and the number of replies by each user."""

    latest: EventID
    count: int
    senders: Mapping[UserID, int]


@attrs.frozen
class Aggregations:
    """The aggregations of the children of one event."""

    edit: EventID | None = None
    thread: ThreadSummary | None = None
    references: tuple[EventID, ...] = ()


NO_AGGREGATIONS: Final = Aggregations()


class AggregationStore:
    """The cache of aggregations; every process has one."""

    def __init__(self, database: Database, feed: Feed, events: EventStore) -> None:
        self._feed = feed
        self._database = database
        self._events = events
        self._entries: LruCache[EventID, Aggregations] = LruCache(
            "aggregates", max_entries=MAX_ENTRIES
        )
        self._cache = LoadingManyCache(self._entries, self._read)
        self._notes_new_events = False  # from the first question on
        feed.subscribe(EVENTS, self._on_changes, Interest.CHANGES)
        feed.subscribe(BACKFILL, self._on_changes)

    @property
    def cache(self) -> LruCache[EventID, Aggregations]:
        """The cache, for metrics and its size setting."""
        return self._entries

    def get_nowait(self, event_id: EventID) -> Aggregations | None:
        """Return an event's aggregations if they are in memory."""
        return self._entries.get(event_id)

    async def load(self, event_ids: Collection[EventID]) -> dict[EventID, Aggregations]:
        """Return the aggregations of events, reading those that are not in memory."""
        if not self._notes_new_events:
            self._notes_new_events = True
            self._feed.subscribe(EVENTS, self._on_all_rows)
        return await self._cache.get(dict.fromkeys(event_ids))

    async def latest_replies_but(
        self, root_ids: Collection[EventID], senders: Collection[UserID]
    ) -> dict[EventID, EventID]:
        """Return the latest reply in each thread that none of `senders` sent."""
        replies = await self._database.read(
            relations.latest_replies_except, list(root_ids), list(senders)
        )
        return {EventID(root): EventID(reply) for root, reply in replies.items()}

    async def _read(self, event_ids: list[EventID]) -> dict[EventID, Aggregations]:
        related = await self._database.read(relations.load_aggregations, event_ids, MAX_EDITS_TRIED)
        edits = await self._latest_edits(related.linked)
        aggregations = dict.fromkeys(event_ids, NO_AGGREGATIONS)
        for root, thread in _threads(related).items():
            aggregations[root] = attrs.evolve(aggregations[root], thread=thread)
        for parent, edit in edits.items():
            aggregations[parent] = attrs.evolve(aggregations[parent], edit=edit)
        for parent, children in _references(related.linked).items():
            aggregations[parent] = attrs.evolve(aggregations[parent], references=children)
        return aggregations

    async def _latest_edits(
        self, linked: Iterable[relations.RelationLink]
    ) -> dict[EventID, EventID]:
        candidates: dict[EventID, list[EventID]] = {}
        for link in linked:
            if link.rel_type == REPLACE:
                edits = candidates.setdefault(EventID(link.parent_id), [])
                edits.append(EventID(link.event_id))
        if not candidates:
            return {}
        originals = await self._events.get(candidates)
        latest: dict[EventID, EventID] = {}
        for parent, edits in candidates.items():
            original = originals.get(parent)
            if original is None or original.redacted_by is not None:
                continue
            stored = await self._events.get(edits)
            for edit in stored.values():
                if edit.redacted_by is None and is_valid_replacement(original.event, edit.event):
                    latest[parent] = edit.event_id
                    break
        return latest

    def _on_all_rows(self, batch: Batch[EventRow]) -> None:
        for _, row in batch.rows:
            if row.txn is not None:
                # Sent by a client of this server just now: nothing before it can refer to it.
                self._entries.put(EventID(row.event_id), NO_AGGREGATIONS)
            self._on_row(row)

    def _on_changes(self, batch: Batch[EventRow]) -> None:
        for _, row in batch.rows:
            self._on_row(row)

    def _on_row(self, row: EventRow) -> None:
        if row.relates_to is not None and row.relates_to[0] in AGGREGATED:
            self._cache.invalidate(EventID(row.relates_to[1]))
        if row.redaction_applies and row.redacts is not None:
            self._cache.invalidate(EventID(row.redacts))
        if row.lost_relation is not None and row.lost_relation[0] in AGGREGATED:
            self._cache.invalidate(EventID(row.lost_relation[1]))


def bundled_events(aggregations: Iterable[Aggregations]) -> set[EventID]:
    """Return the events that are bundled with others: edits, and the latest replies in threads."""
    bundled: set[EventID] = set()
    for aggregation in aggregations:
        if aggregation.edit is not None:
            bundled.add(aggregation.edit)
        if aggregation.thread is not None:
            bundled.add(aggregation.thread.latest)
    return bundled


def _threads(related: relations.AggregationRows) -> dict[EventID, ThreadSummary]:
    senders: dict[str, dict[UserID, int]] = {}
    for root, sender, count in related.repliers:
        senders.setdefault(root, {})[UserID(sender)] = count
    return {
        EventID(thread.root_id): ThreadSummary(
            EventID(thread.latest_event_id), thread.replies, senders.get(thread.root_id, {})
        )
        for thread in related.threads
    }


def _references(linked: Iterable[relations.RelationLink]) -> dict[EventID, tuple[EventID, ...]]:
    children: dict[EventID, tuple[EventID, ...]] = {}
    for link in linked:
        if link.rel_type == REFERENCE:
            parent = EventID(link.parent_id)
            children[parent] = (EventID(link.event_id), *children.get(parent, ()))
    return children
