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
    """Resolve in two rounds of auth checks; `start` is the state before the first."""
    yield from store.load(full_conflicted_set)
    full = {each: store.events[each] for each in full_conflicted_set if each in store.events}
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
    agreed = conflict.unconflicted
    return agreed.update({key: each for key, each in state.changes.items() if key not in agreed})


def is_power_event(event: Event) -> bool:
    """Tell whether an event may take away someone's ability to do something in the room."""
    if event.state_key is None:
        return False
    if event.type == types.MEMBER:
        membership = event.content.get("membership")
        return membership in (types.LEAVE, types.BAN) and event.sender != event.state_key
    return event.type in (types.POWER_LEVELS, types.JOIN_RULES)


def _with_power_events(full: dict[EventID, Event]) -> dict[EventID, Event]:
    """Choose the power events and what they rest on, as far as it is in the set itself.

    Auth chains are followed within the set, which is how the servers in the federation read the
    specification. In version 2.1 nothing on the way can be outside it.
    """
    chosen: dict[EventID, Event] = {}
    waiting = [event_id for event_id, event in full.items() if is_power_event(event)]
    while waiting:
        event_id = waiting.pop()
        if event_id not in chosen:
            chosen[event_id] = full[event_id]
            waiting.extend(each for each in full[event_id].auth_events if each in full)
    return chosen
