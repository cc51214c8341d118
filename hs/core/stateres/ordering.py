"""The two orders in which conflicted events are tried.

Spec: rooms/v2, State resolution, Definitions.
"""

import heapq
import math
from collections.abc import Generator, Iterable, Sequence

from hs.core.auth.power_levels import PowerLevels
from hs.core.events import types
from hs.core.events.event import Event
from hs.core.ids import EventID
from hs.core.stateres.loading import EventStore, LoadedEvents, Loading


def reverse_topological_power_order(events: Iterable[Event], store: EventStore) -> list[Event]:
    """Sort events so that each comes after its auth events, by power where that leaves a choice.

    The auth events of all must be loaded.
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
    ready = [_power_rank(by_id[each], store) for each, count in unplaced.items() if count == 0]
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
    """Sort events by how near their power levels are to those of the resolved state."""
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
    return -_senders_power(event, store), event.origin_server_ts, event.event_id


def _senders_power(event: Event, store: EventStore) -> int:
    if event.type == types.CREATE:
        # It cites no create event, for it is one.
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
) -> Loading:
    """Give power levels events off the mainline the position at which they come back to it."""
    off: dict[EventID, Event] = {}
    front = {each.event_id: each for each in starts if each is not None}
    while front := {key: each for key, each in front.items() if key not in positions | off}:
        off |= front
        yield from store.load_auth_events(front.values())
        following = (_power_levels_of(each, store) for each in front.values())
        front = {each.event_id: each for each in following if each is not None}
    for event in off.values():
        path: list[EventID] = []
        at: Event | None = event
        while at is not None and at.event_id not in positions:
            path.append(at.event_id)
            at = _power_levels_of(at, store)
        position = math.inf if at is None else positions[at.event_id]
        positions.update(dict.fromkeys(path, position))
