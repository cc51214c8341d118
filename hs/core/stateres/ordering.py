"""The orders in which events are applied: reverse topological power and mainline ordering.

Spec: rooms/v2, State resolution, Definitions.
"""

import heapq
import math
from collections.abc import Generator, Iterable, Sequence

from hs.core.auth.power_levels import PowerLevels
from hs.core.events import types
from hs.core.events.event import Event
from hs.core.ids import EventID
from hs.core.stateres.loading import EventStore, LoadedEvents, LoadSteps


def reverse_topological_power_order(events: Iterable[Event], store: EventStore) -> list[Event]:
    """Sort events so that each comes after its auth events, otherwise by their senders' power.

    The auth events of all events must be loaded.
    """
    by_id = {event.event_id: event for event in events}
    unplaced = {
        event_id: sum(parent in by_id for parent in set(event.auth_events))
        for event_id, event in by_id.items()
    }
    children: dict[EventID, list[EventID]] = {}
    for event_id, event in by_id.items():
        for parent in set(event.auth_events):
            children.setdefault(parent, []).append(event_id)
    ready = [
        _power_rank(by_id[event_id], store) for event_id, count in unplaced.items() if count == 0
    ]
    heapq.heapify(ready)
    ordered: list[Event] = []
    while ready:
        event_id = heapq.heappop(ready)[2]
        ordered.append(by_id[event_id])
        for child in children.get(event_id, ()):
            unplaced[child] -= 1
            if unplaced[child] == 0:
                heapq.heappush(ready, _power_rank(by_id[child], store))
    return ordered


def mainline_order(
    events: Sequence[Event], power_levels: Event | None, store: EventStore
) -> Generator[frozenset[EventID], LoadedEvents, list[Event]]:
    """Sort events by the mainline ordering based on a power levels event.

    `power_levels` is that of the partially resolved state; it must be loaded.
    """
    positions = yield from _mainline(power_levels, store)
    yield from store.load_auth_events(events)
    starts = {event.event_id: _power_levels_of(event, store) for event in events}
    yield from _extend_positions(starts.values(), positions, store)

    def rank(event: Event) -> tuple[float, int, EventID]:
        start = starts[event.event_id]
        position = math.inf if start is None else positions[start.event_id]
        return -position, event.origin_server_ts, event.event_id

    return sorted(events, key=rank)


def _power_rank(event: Event, store: EventStore) -> tuple[int, int, EventID]:
    return -_sender_power(event, store), event.origin_server_ts, event.event_id


def _sender_power(event: Event, store: EventStore) -> int:
    if event.type == types.CREATE:
        # A create event cites no auth events; its sender's power is that of the creator.
        return PowerLevels.of(None, event, event.rules).of_user(event.sender)
    create = store.auth_event(event, types.CREATE_KEY)
    if create is None:
        return 0
    levels = _power_levels_of(event, store)
    return PowerLevels.of(levels, create, event.rules).of_user(event.sender)


def _power_levels_of(event: Event, store: EventStore) -> Event | None:
    return store.auth_event(event, types.POWER_LEVELS_KEY)


def _mainline(
    start: Event | None, store: EventStore
) -> Generator[frozenset[EventID], LoadedEvents, dict[EventID, float]]:
    positions: dict[EventID, float] = {}
    levels = start
    while levels is not None and levels.event_id not in positions:
        positions[levels.event_id] = len(positions)
        yield from store.load_auth_events([levels])
        levels = _power_levels_of(levels, store)
    return positions


def _extend_positions(
    starts: Iterable[Event | None], positions: dict[EventID, float], store: EventStore
) -> LoadSteps:
    """Add to `positions` the mainline positions of power levels events off the mainline.

    Each gets the position at which its own chain of power levels events meets the mainline.
    """
    off_mainline: dict[EventID, Event] = {}
    frontier = {event.event_id: event for event in starts if event is not None}
    while frontier := {
        event_id: event
        for event_id, event in frontier.items()
        if event_id not in positions and event_id not in off_mainline
    }:
        off_mainline |= frontier
        yield from store.load_auth_events(frontier.values())
        following = (_power_levels_of(event, store) for event in frontier.values())
        frontier = {event.event_id: event for event in following if event is not None}
    for event in off_mainline.values():
        path: list[EventID] = []
        current: Event | None = event
        while current is not None and current.event_id not in positions:
            path.append(current.event_id)
            current = _power_levels_of(current, store)
        position = math.inf if current is None else positions[current.event_id]
        positions.update(dict.fromkeys(path, position))
