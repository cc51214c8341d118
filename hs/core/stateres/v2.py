"""State resolution of room versions 2 to 11 (version 2) and from 12 on (version 2.1).

Spec: rooms/v2 and rooms/v12, State resolution.
"""

from collections.abc import Generator, Set

from immutables import Map

from hs.core.events import types
from hs.core.events.event import Event
from hs.core.events.event_types import StateKey
from hs.core.ids import EventID
from hs.core.stateres.conflict import Conflict, StateMap
from hs.core.stateres.iteration import PartialState
from hs.core.stateres.loading import EventStore, LoadedEvents
from hs.core.stateres.ordering import mainline_order, reverse_topological_power_order


def resolve_v2(
    conflict: Conflict, full_conflicted_set: Set[EventID], start: StateMap, store: EventStore
) -> Generator[frozenset[EventID], LoadedEvents, Map[StateKey, EventID]]:
    """Resolve in two rounds of iterative auth checks, which begin with the state `start`."""
    yield from store.load(full_conflicted_set)
    full = {
        event_id: store.events[event_id]
        for event_id in full_conflicted_set
        if event_id in store.events
    }
    yield from store.load_auth_events(full.values())
    # Step 1
    chosen = _with_power_events(full)
    first = reverse_topological_power_order(chosen.values(), store)
    # Step 2
    state = PartialState(start, store)
    yield from state.try_in_order(first)
    # Step 3
    rest = [event for event_id, event in full.items() if event_id not in chosen]
    levels_id = state.get(types.POWER_LEVELS_KEY)
    if levels_id is not None:
        yield from store.load([levels_id])
    second = yield from mainline_order(rest, state.event(types.POWER_LEVELS_KEY), store)
    # Step 4
    yield from state.try_in_order(second)
    # Step 5
    unconflicted = conflict.unconflicted
    return unconflicted.update(
        {key: event_id for key, event_id in state.changes.items() if key not in unconflicted}
    )


def is_power_event(event: Event) -> bool:
    """Return whether an event may remove someone's ability to do something in the room."""
    if event.state_key is None:
        return False
    if event.type == types.MEMBER:
        membership = event.content.get("membership")
        return membership in (types.LEAVE, types.BAN) and event.sender != event.state_key
    return event.type in (types.POWER_LEVELS, types.JOIN_RULES)


def _with_power_events(full: dict[EventID, Event]) -> dict[EventID, Event]:
    """Select the power events of the full conflicted set and their auth chains within the set.

    The specification adds all events of the auth chains that are in the set. Other servers follow
    the auth events only within the set, and so does this one. In version 2.1 the result is the
    same, as the paths between events of the set are in the set.
    """
    chosen: dict[EventID, Event] = {}
    waiting = [event_id for event_id, event in full.items() if is_power_event(event)]
    while waiting:
        event_id = waiting.pop()
        if event_id not in chosen:
            chosen[event_id] = full[event_id]
            waiting.extend(cited for cited in full[event_id].auth_events if cited in full)
    return chosen
