"""What is summed up of the children of an event: its latest edit, its thread, its references.

Read once for each event, empty answers too, and forgotten when the feed brings another child or
takes one away.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Final

import attrs

from hs.core.ids import EventID, UserID
from hs.core.relations import AGGREGATED, REFERENCE, REPLACE, is_valid_replacement
from hs.lib.caching.lru_cache import LruCache
from hs.repl.feed import Batch, Feed
from hs.repl.rows import EventRow
from hs.repl.streams import BACKFILL, EVENTS
from hs.services.rooms.store.event_store import EventStore
from hs.storage.database import Database
from hs.storage.rooms import relations

MAX_ENTRIES: Final = 10_000
MAX_EDITS_TRIED: Final = 5


@attrs.frozen
class ThreadSummary:
    """A thread: its last reply, and how many replies each user wrote."""

    latest: EventID
    count: int
    senders: Mapping[UserID, int]


@attrs.frozen
class Aggregate:
    """What is known of the children of one event."""

    edit: EventID | None = None
    thread: ThreadSummary | None = None
    references: tuple[EventID, ...] = ()


NOTHING: Final = Aggregate()


class Aggregates:
    """The aggregates of events, in each process."""

    def __init__(self, database: Database, feed: Feed, events: EventStore) -> None:
        self._database = database
        self._events = events
        self._entries: LruCache[EventID, Aggregate] = LruCache(
            "aggregates", max_entries=MAX_ENTRIES
        )
        # For each reading under way, the parents that the feed touched meanwhile.
        self._touched: list[set[EventID]] = []
        feed.subscribe(EVENTS, self._on_rows)
        feed.subscribe(BACKFILL, self._on_rows)

    @property
    def cache(self) -> LruCache[EventID, Aggregate]:
        """Give what metrics and settings look at."""
        return self._entries

    def get_nowait(self, event_id: EventID) -> Aggregate | None:
        """Give what was loaded of an event's children; None if that is not in memory."""
        return self._entries.get(event_id)

    async def load(self, event_ids: Collection[EventID]) -> dict[EventID, Aggregate]:
        """Give the aggregates of events, reading those that are not in memory."""
        found = self._entries.get_kept(event_ids)
        missing = [event_id for event_id in event_ids if event_id not in found]
        if missing:
            found.update(await self._read(missing))
        return found

    async def latest_replies_but(
        self, root_ids: Collection[EventID], senders: Collection[UserID]
    ) -> dict[EventID, EventID]:
        """Give the last reply in each of some threads that none of some users sent."""
        found = await self._database.read(
            relations.latest_replies_but, list(root_ids), list(senders)
        )
        return {EventID(root): EventID(reply) for root, reply in found.items()}

    async def _read(self, event_ids: list[EventID]) -> dict[EventID, Aggregate]:
        touched: set[EventID] = set()
        self._touched.append(touched)
        try:
            related = await self._database.read(relations.related_to, event_ids, MAX_EDITS_TRIED)
            edits = await self._latest_edits(related.linked)
        finally:
            self._touched = [one for one in self._touched if one is not touched]
        found = dict.fromkeys(event_ids, NOTHING)
        for root, thread in _threads(related).items():
            found[root] = attrs.evolve(found[root], thread=thread)
        for parent, edit in edits.items():
            found[parent] = attrs.evolve(found[parent], edit=edit)
        for parent, children in _references(related.linked).items():
            found[parent] = attrs.evolve(found[parent], references=children)
        for event_id, aggregate in found.items():
            if event_id not in touched:
                self._entries.put(event_id, aggregate)
        return found

    async def _latest_edits(self, linked: Iterable[relations.Linked]) -> dict[EventID, EventID]:
        tried: dict[EventID, list[EventID]] = {}
        for one in linked:
            if one.rel_type == REPLACE:
                edits = tried.setdefault(EventID(one.parent_id), [])
                edits.append(EventID(one.event_id))
        if not tried:
            return {}
        originals = await self._events.get(tried)
        latest: dict[EventID, EventID] = {}
        for parent, edits in tried.items():
            original = originals.get(parent)
            if original is None or original.redacted_by is not None:
                continue
            found = await self._events.get(edits)
            for edit in found.values():
                if edit.redacted_by is None and is_valid_replacement(original.event, edit.event):
                    latest[parent] = edit.event_id
                    break
        return latest

    def _on_rows(self, batch: Batch[EventRow]) -> None:
        for _, row in batch.rows:
            if row.txn is not None:
                # Made here a moment ago: nothing can refer to it yet.
                self._entries.put(EventID(row.event_id), NOTHING)
            if row.relates_to is not None and row.relates_to[0] in AGGREGATED:
                self._forget(EventID(row.relates_to[1]))
            if row.redaction_applies and row.redacts is not None:
                self._forget(EventID(row.redacts))
            if row.lost_relation is not None and row.lost_relation[0] in AGGREGATED:
                self._forget(EventID(row.lost_relation[1]))

    def _forget(self, event_id: EventID) -> None:
        self._entries.pop(event_id)
        for touched in self._touched:
            touched.add(event_id)


def _threads(related: relations.Related) -> dict[EventID, ThreadSummary]:
    senders: dict[str, dict[UserID, int]] = {}
    for root, sender, count in related.repliers:
        senders.setdefault(root, {})[UserID(sender)] = count
    return {
        EventID(one.root_id): ThreadSummary(
            EventID(one.latest_event_id), one.replies, senders.get(one.root_id, {})
        )
        for one in related.threads
    }


def _references(linked: Iterable[relations.Linked]) -> dict[EventID, tuple[EventID, ...]]:
    children: dict[EventID, tuple[EventID, ...]] = {}
    for one in linked:
        if one.rel_type == REFERENCE:
            parent = EventID(one.parent_id)
            children[parent] = (EventID(one.event_id), *children.get(parent, ()))
    return children
