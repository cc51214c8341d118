"""The order in which received events are processed: cited events come first."""

import heapq
from collections.abc import Callable, Collection, Iterable

from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.events.format import create_event_id_of
from hs.core.ids import EventID


def arrival_order(events: Collection[Event]) -> list[Event]:
    """Return the events sorted so that each follows its prev_events and auth events."""
    return _topological_order(events, lambda event: (*event.prev_events, *event.auth_events))


def auth_order(events: Collection[Event]) -> list[Event]:
    """Return the events sorted so that each follows its auth events and the create event."""
    return _topological_order(events, _auth_events)


def _auth_events(event: Event) -> tuple[EventID, ...]:
    if not event.rules.room_id_is_create_hash or event.type == event_types.CREATE:
        return event.auth_events
    return (create_event_id_of(event.room_id), *event.auth_events)


def _topological_order(
    events: Collection[Event], cited_by: Callable[[Event], Iterable[EventID]]
) -> list[Event]:
    by_id = {event.event_id: event for event in events}
    pending_counts: dict[EventID, int] = {}
    citing_events: dict[EventID, list[EventID]] = {}
    for event in events:
        cited = {each for each in cited_by(event) if each in by_id}
        pending_counts[event.event_id] = len(cited)
        for each in cited:
            citing_events.setdefault(each, []).append(event.event_id)
    ready = [(by_id[each].depth, each) for each, count in pending_counts.items() if count == 0]
    heapq.heapify(ready)
    ordered: list[Event] = []
    while ready:
        _, event_id = heapq.heappop(ready)
        ordered.append(by_id[event_id])
        for each in citing_events.get(event_id, ()):
            pending_counts[each] -= 1
            if pending_counts[each] == 0:
                heapq.heappush(ready, (by_id[each].depth, each))
    # In room versions 1 and 2 servers choose event IDs, so events may cite each other in a
    # cycle. They come last and are reported as waiting for each other.
    sorted_ids = {event.event_id for event in ordered}
    return [*ordered, *(event for event in events if event.event_id not in sorted_ids)]
