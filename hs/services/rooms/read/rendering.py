"""Render stored events as the JSON that clients receive.

Rules:

- What is the same for all clients, the prefix, is rendered once per event and cached. What differs
  (age, membership, transaction ID, bundled aggregations) is appended to it for each viewer.
- A prefix depends on the event, on the redaction that applies to it and, through `prev_content`, on
  the state event that it replaced. When the feed delivers a redaction, the prefixes of its target
  and of the target's successor are dropped. A prefix that lacks `redacted_because`, because the
  redaction is not in memory, is not cached.
- Rendering itself never awaits: `prepare` or `prepare_state` has to load the redactions, replaced
  state, aggregations and transaction IDs first. What is evicted in between is left out.
- Bundled events get the same checks as the events around them: those in `Viewer.hidden` and those
  of ignored users are left out.

Spec: client-server API, Room event format; rooms/v11, client considerations of redactions.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain
from typing import Any, Final

import attrs
import orjson

from hs.core.canonical_json import JsonObject
from hs.core.events.event import RAW_EVENT
from hs.core.events.redaction import redact
from hs.core.ids import EventID, RoomID, UserID
from hs.core.requester import Requester
from hs.core.streams import BACKFILL, EVENTS, EventRow
from hs.lib.caching.lru_cache import LruCache
from hs.lib.clock import Clock
from hs.repl.feed import Batch, Feed, Interest
from hs.services.rooms.read.event_prefixes import (
    MEMBERSHIPS,
    EventPrefix,
    membership_json,
    messages_json,
    prefix_of,
    prefix_of_raw,
    prefix_of_unredacted,
    previous_content,
    redacted_because,
    remaining_json,
    state_json,
    weigh_prefix,
)
from hs.services.rooms.read.sent_events import SentEvents
from hs.services.rooms.store.aggregations import (
    NO_AGGREGATIONS,
    Aggregations,
    AggregationStore,
    bundled_events,
)
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.state_store import StateStore
from hs.services.rooms.store.sticky_events import StickyEvents
from hs.services.rooms.store.stored_event import DELAYED_EVENT_DEVICE, StoredEvent
from hs.storage.database import Database
from hs.storage.sync.room_changes import TimelineRow

MAX_BYTES: Final = 16 * 1024 * 1024
MAX_SUCCESSORS: Final = 20_000
_NO_PREFIXES: Final[Mapping[EventID, EventPrefix]] = {}


@attrs.frozen
class Viewer:
    """The client that events are rendered for, and the time.

    `aggregates` are the aggregations of the prepared events that have any. `latest_replies` are
    those of threads with replies of users that the viewer ignores. `hidden` are children that the
    viewer may not see.
    """

    user_id: UserID
    device_id: str | None
    now_ms: int
    ignored: AbstractSet[UserID] = frozenset()
    aggregates: dict[EventID, Aggregations] = attrs.field(factory=dict)
    latest_replies: dict[EventID, EventID] = attrs.field(factory=dict)
    hidden: set[EventID] = attrs.field(factory=set)


class EventRenderer:
    """Renders events in the client format; every process has one."""

    def __init__(
        self,
        database: Database,
        feed: Feed,
        events: EventStore,
        aggregates: AggregationStore,
        states: StateStore,
        sticky: StickyEvents,
        clock: Clock,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._sent = SentEvents(database, feed)
        self._events = events
        self._aggregates = aggregates
        self._states = states
        self._sticky = sticky
        self.now_ms = clock.now_ms  # the time from which the age of events is told
        self._prefixes: LruCache[EventID, EventPrefix] = LruCache(
            "rendered_events", max_weight=max_bytes, weigh=weigh_prefix
        )
        # Maps a state event to the one that contains its content as `prev_content`.
        self._successors: LruCache[EventID, EventID] = LruCache(
            "rendered_previous", max_entries=MAX_SUCCESSORS
        )
        feed.subscribe(EVENTS, self._on_rows, Interest.CHANGES)
        feed.subscribe(BACKFILL, self._on_rows)

    @property
    def cache(self) -> LruCache[EventID, EventPrefix]:
        """The cache, for metrics and its size setting."""
        return self._prefixes

    def viewer(self, requester: Requester, ignored: AbstractSet[UserID] = frozenset()) -> Viewer:
        """Return the viewer for a requester, as of now."""
        return Viewer(requester.user_id, requester.device_id, self.now_ms(), ignored)

    async def prepare(self, events: Sequence[StoredEvent], viewer: Viewer) -> None:
        """Load what `timeline_event` needs for these events."""
        await self._prepare_previous(events)
        user_id = viewer.user_id
        own_ids = [each.event.event_id for each in events if each.event.sender == user_id]
        if viewer.device_id is not None:
            await self._sent.load(own_ids, viewer.user_id)
        own = await self._aggregates.load([stored.event.event_id for stored in events])
        aggregates = {key: each for key, each in own.items() if each is not NO_AGGREGATIONS}
        viewer.aggregates.update(aggregates)
        if viewer.ignored:
            await self._load_replies_of_others(aggregates, viewer)
        related = bundled_events(aggregates.values())
        related.update(viewer.latest_replies.values())
        if related:
            nested = await self._aggregates.load(related)
            related.update(each.edit for each in nested.values() if each.edit is not None)
            children = await self._events.get(related)
            await self.prepare_state(list(children.values()))
        await self.prepare_state(events)

    def bundled_children(self, events: Iterable[StoredEvent], viewer: Viewer) -> list[StoredEvent]:
        """Return the events that will be bundled with others; `prepare` comes first."""
        known = viewer.aggregates
        related = bundled_events(known[each.event_id] for each in events if each.event_id in known)
        related.update(viewer.latest_replies.values())
        children = [self._events.get_nowait(event_id) for event_id in related]
        return [child for child in children if child is not None]

    async def prepare_state(self, events: Iterable[StoredEvent]) -> None:
        """Load what `state_event` needs for these events: redactions."""
        redactions = [
            stored.redacted_by
            for stored in events
            if stored.redacted_by is not None and stored.event.event_id not in self._prefixes
        ]
        if redactions:
            await self._events.get(redactions)

    def timeline_event(
        self, stored: StoredEvent, viewer: Viewer, membership: str | None, *, room_id: bool
    ) -> bytes:
        """Render an event with all of `unsigned`; `prepare` comes first.

        `membership` is that of the viewer at the event. /sync omits `room_id`.
        """
        return self.timeline_events(((stored, membership, False),), viewer, room_id=room_id)[0]

    def timeline_events(
        self,
        visible_events: Collection[tuple[StoredEvent, str | None, bool]],
        viewer: Viewer,
        *,
        room_id: bool,
    ) -> list[bytes]:
        """Render events like `timeline_event`, or `pruned_event` where the last value is true."""
        # Inlined, as function calls per event are most of the cost of a timeline.
        prefixes = self._prefixes.get_cached(
            [stored.event.event_id for stored, _, _ in visible_events]
        )
        user_id, now_ms = viewer.user_id, viewer.now_ms
        aggregates = viewer.aggregates
        rendered: list[bytes] = []
        for stored, membership, pruned in visible_events:
            if pruned:
                rendered.append(self.pruned_event(stored, viewer, membership, room_id=room_id))
                continue
            event = stored.event
            event_id = event.event_id
            prefix = prefixes.get(event_id) or self._render(stored)
            extra = prefix.because
            if prefix.previous:
                extra += prefix.previous
            if prefix.sticky_until > now_ms:
                extra += remaining_json(prefix, now_ms)
            if event.sender == user_id:
                extra += self._transaction(event_id, viewer)
            if event_id in aggregates:
                extra += self._relations(stored, aggregates[event_id], viewer)
            rendered.append(
                b'%b%b,"unsigned":{"age":%d%b%b}}'
                % (
                    prefix.body,
                    prefix.room if room_id else b"",
                    now_ms - event.origin_server_ts,
                    MEMBERSHIPS.get(membership) or membership_json(membership),
                    extra,
                )
            )
        return rendered

    async def prepare_messages(self, rows: Iterable[TimelineRow], viewer: Viewer) -> None:
        """Load what `messages` needs for these rows."""
        own_ids = [row.event_id for row in rows if row.sender == viewer.user_id]
        if viewer.device_id is not None:
            await self._sent.load(own_ids, viewer.user_id)

    def messages(self, rows: Sequence[TimelineRow], viewer: Viewer) -> list[bytes]:
        """Render rows as a joined member sees them in /sync; `prepare_messages` comes first.

        For messages that are neither redacted nor related to. This neither parses nor caches
        events, and costs a fraction of `timeline_events`.
        """
        user_id = viewer.user_id
        own = {row.event_id for row in rows if row.sender == user_id}
        transactions = {event_id: self._transaction(event_id, viewer) for event_id in own}
        return messages_json(rows, viewer.now_ms, transactions, self._sticky)

    def state_event(
        self,
        stored: StoredEvent,
        viewer: Viewer,
        membership: str | None = None,
        *,
        room_id: bool,
    ) -> bytes:
        """Render a state event, without `prev_content`; `prepare_state` comes first."""
        prefix = self._prefixes.get(stored.event.event_id) or self._render(stored)
        return state_json(prefix, viewer.now_ms, room_id, membership_json(membership))

    def state_events(
        self, events: Collection[StoredEvent], viewer: Viewer, *, room_id: bool
    ) -> list[bytes]:
        """Render events like `state_event`, and cache them as parts of a scan."""
        prefixes = self._prefixes.get_cached([stored.event.event_id for stored in events])
        put = self._prefixes.put_scanned
        return [
            state_json(
                prefixes.get(stored.event_id) or self._render(stored, put), viewer.now_ms, room_id
            )
            for stored in events
        ]

    async def load_states(
        self, states: Mapping[RoomID, Collection[EventID]], *, with_members: bool
    ) -> dict[EventID, EventPrefix]:
        """Load what `state_by_id` needs of current states, reading those of many rooms together.

        Some events may be missing from what this returns: `state_by_id` loads them.
        """
        prefixes = self._prefixes.get_cached(chain.from_iterable(states.values()))
        unknown = [
            room_id
            for room_id, event_ids in states.items()
            if any(event_id not in prefixes for event_id in event_ids)
        ]
        if unknown:
            pdus = await self._events.pdus_of_states(unknown, with_members)
            prefixes.update(self._prefixes_of(pdus))
        return prefixes

    async def state_by_id(
        self,
        event_ids: Collection[EventID],
        viewer: Viewer,
        *,
        room_id: bool,
        loaded: Mapping[EventID, EventPrefix] = _NO_PREFIXES,
    ) -> dict[EventID, bytes]:
        """Load and render state events like `state_event`, without parsing most of them.

        They are cached as parts of a scan. `loaded` is what `load_states` returned.
        """
        prefixes = loaded
        if any(event_id not in loaded for event_id in event_ids):
            prefixes = {**loaded, **self._prefixes.get_cached(event_ids)}
            missing = [event_id for event_id in event_ids if event_id not in prefixes]
            prefixes.update(await self._load_prefixes(missing))
        now_ms = viewer.now_ms
        return {
            event_id: state_json(prefixes[event_id], now_ms, room_id)
            for event_id in event_ids
            if event_id in prefixes
        }

    def has_rendered(self, event_ids: Collection[EventID]) -> bool:
        """Return whether `state_by_id` has all of the events in memory."""
        return len(self._prefixes.cached_among(event_ids)) == len(event_ids)

    async def _load_prefixes(self, event_ids: Collection[EventID]) -> dict[EventID, EventPrefix]:
        if not event_ids:
            return {}
        prefixes = self._prefixes_of(await self._events.pdus(event_ids))
        remaining = [event_id for event_id in event_ids if event_id not in prefixes]
        if remaining:
            events = await self._events.scan(remaining)
            await self.prepare_state(events.values())
            put = self._prefixes.put_scanned
            prefixes.update((key, self._render(stored, put)) for key, stored in events.items())
        return prefixes

    def _prefixes_of(self, pdus: Mapping[EventID, bytes]) -> dict[EventID, EventPrefix]:
        """Render and cache PDUs that have just been read.

        Nothing may be awaited between reading and caching, so that no redaction is missed.
        """
        prefixes: dict[EventID, EventPrefix] = {}
        for event_id, pdu in pdus.items():
            raw = RAW_EVENT.decode(pdu)
            room_id = bytes(raw.room_id)
            if room_id:  # a create event may lack it
                prefixes[event_id] = prefix_of_raw(event_id, raw, room_id)
        self._prefixes.put_all_scanned(prefixes.items())
        return prefixes

    def pruned_event(
        self, stored: StoredEvent, viewer: Viewer, membership: str | None, *, room_id: bool
    ) -> bytes:
        """Render the redacted form of an event, as of users who requested erasure."""
        prefix = prefix_of(redact(stored.event), b"")
        aggregate = viewer.aggregates.get(stored.event_id)
        return b'%b%b,"unsigned":{"age":%d%b%b}}' % (
            prefix.body,
            prefix.room if room_id else b"",
            viewer.now_ms - stored.event.origin_server_ts,
            membership_json(membership),
            b"" if aggregate is None else self._relations(stored, aggregate, viewer),
        )

    async def _prepare_previous(self, events: Iterable[StoredEvent]) -> None:
        unprepared: list[tuple[StoredEvent, EventPrefix]] = []
        for stored in events:
            if stored.event.state_key is None:
                continue
            prefix = self._prefixes.get(stored.event_id)
            if prefix is not None and prefix.previous is not None:
                continue
            await self.prepare_state((stored,))
            unprepared.append((stored, self._render(stored) if prefix is None else prefix))
        if not unprepared:
            return
        replaced_events = await self._states.replaced_events([stored for stored, _ in unprepared])
        for stored, prefix in unprepared:
            previous = replaced_events.get(stored.event_id)
            prefix.previous = b"" if previous is None else previous_content(previous)
            if previous is not None:
                self._successors.put(previous.event_id, stored.event_id)

    async def _load_replies_of_others(
        self, aggregates: Mapping[EventID, Aggregations], viewer: Viewer
    ) -> None:
        roots = [
            event_id
            for event_id, aggregate in aggregates.items()
            if aggregate.thread is not None and viewer.ignored & aggregate.thread.senders.keys()
        ]
        if roots:
            latest = await self._aggregates.latest_replies_but(roots, viewer.ignored)
            viewer.latest_replies.update(latest)

    def _render(
        self, stored: StoredEvent, put: Callable[[EventID, EventPrefix], None] | None = None
    ) -> EventPrefix:
        # The event may have been redacted after it was read, and not be in the store's cache.
        redacted_by = stored.redacted_by or self._events.latest_redaction(stored.event_id)
        if redacted_by is None:
            prefix = prefix_of_unredacted(stored.event)
            if prefix.sticky_until:
                prefix.sticky_until = self._sticky.until_ms(stored)
        else:
            redaction = self._events.get_nowait(redacted_by)
            because = b"" if redaction is None else redacted_because(redaction)
            prefix = prefix_of(redact(stored.event), because)
            if redaction is None:
                return prefix
        (put or self._prefixes.put)(stored.event_id, prefix)
        return prefix

    def _transaction(self, event_id: EventID, viewer: Viewer) -> bytes:
        device_id, txn_id = self._sent.transaction(event_id)
        if device_id == DELAYED_EVENT_DEVICE:
            delay_id = orjson.dumps(txn_id)
            return b',"delay_id":%b,"org.matrix.msc4140.delay_id":%b' % (delay_id, delay_id)
        if not txn_id or viewer.device_id != device_id:
            return b""
        return b',"transaction_id":' + orjson.dumps(txn_id)

    def _relations(self, stored: StoredEvent, aggregate: Aggregations, viewer: Viewer) -> bytes:
        bundle: list[bytes] = []
        if stored.event.state_key is not None:
            # Spec: state events do not currently receive bundled aggregations.
            return b""
        if aggregate.edit is not None and aggregate.edit not in viewer.hidden:
            edit = self._events.get_nowait(aggregate.edit)
            if edit is not None:
                bundle.append(b'"m.replace":' + self.state_event(edit, viewer, room_id=True))
        if aggregate.thread is not None:
            thread = self._thread(stored, aggregate, viewer)
            if thread:
                bundle.append(b'"m.thread":' + thread)
        if aggregate.references:
            chunk = [{"event_id": event_id} for event_id in aggregate.references]
            bundle.append(b'"m.reference":' + orjson.dumps({"chunk": chunk}))
        return b',"m.relations":{%b}' % b",".join(bundle) if bundle else b""

    def _thread(self, stored: StoredEvent, aggregate: Aggregations, viewer: Viewer) -> bytes:
        thread = aggregate.thread
        assert thread is not None
        count = thread.count
        latest_id = viewer.latest_replies.get(stored.event_id, thread.latest)
        hidden = viewer.ignored & thread.senders.keys() if viewer.ignored else None
        if hidden:
            count -= sum(thread.senders[sender] for sender in hidden)
        latest = self._events.get_nowait(latest_id)
        if count <= 0 or latest is None or latest.event.sender in viewer.ignored:
            return b""
        if latest_id in viewer.hidden:
            return b""
        participated = viewer.user_id in thread.senders or stored.event.sender == viewer.user_id
        aggregate_of_reply = self._aggregates.get_nowait(latest_id) or NO_AGGREGATIONS
        without_thread = attrs.evolve(aggregate_of_reply, thread=None)
        extra = (
            b""
            if without_thread == NO_AGGREGATIONS
            else self._relations(latest, without_thread, viewer)
        )
        event = self.state_event(latest, viewer, room_id=True)
        return b'{"latest_event":%b%b}},"count":%d,"current_user_participated":%b}' % (
            event[:-2],
            extra,
            count,
            b"true" if participated else b"false",
        )

    def _on_rows(self, batch: Batch[EventRow]) -> None:
        for _, row in batch.rows:
            if row.redaction_applies and row.redacts is not None:
                target = EventID(row.redacts)
                self._prefixes.pop(target)
                successor = self._successors.get(target)
                if successor is not None:
                    self._prefixes.pop(successor)


def stripped_event(stored: StoredEvent) -> JsonObject:
    """Return an event in the stripped state format.

    Spec: client-server API, Stripped state.
    """
    event = stored.effective_event
    return {
        "type": event.type,
        "state_key": event.state_key,
        "sender": event.sender,
        "content": event.content,
    }


def content_of(stored: StoredEvent) -> Mapping[str, Any]:
    """Return an event's content; of a redacted event, what the redaction left."""
    return stored.effective_event.content


def json_array(rendered: Iterable[bytes]) -> orjson.Fragment:
    """Return rendered events as a JSON array."""
    return orjson.Fragment(b"[%b]" % b",".join(rendered))
