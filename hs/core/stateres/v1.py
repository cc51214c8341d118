"""State resolution version 1, of room version 1.

Spec: rooms/v1, State resolution.
"""

import hashlib
from collections.abc import Generator

from immutables import Map

from hs.core.events import types
from hs.core.events.event import Event
from hs.core.events.event_types import StateKey
from hs.core.ids import EventID
from hs.core.stateres.conflict import Conflict
from hs.core.stateres.iteration import PartialState
from hs.core.stateres.loading import EventStore, LoadedEvents

_AUTH_TYPES = (types.POWER_LEVELS, types.JOIN_RULES, types.MEMBER)


def resolve_v1(
    conflict: Conflict, store: EventStore
) -> Generator[frozenset[EventID], LoadedEvents, Map[StateKey, EventID]]:
    """Resolve in passes: power levels, join rules, members, then all other events."""
    # In this version, a key that only some states have is no conflict if its event is the same.
    base = conflict.unconflicted.update(
        {key: next(iter(ids)) for key, ids in conflict.conflicted.items() if len(ids) == 1}
    )
    yield from store.load(conflict.event_ids)
    contested = {
        key: [store.events[event_id] for event_id in ids if event_id in store.events]
        for key, ids in conflict.conflicted.items()
        if len(ids) > 1
    }
    state = PartialState(base, store)
    yield from state.load_for([event for events in contested.values() for event in events])
    for event_type in _AUTH_TYPES:
        # All conflicts of a pass are resolved against the state before the pass, so their order
        # does not matter.
        state.changes |= {
            key: _last_allowed(state, events)
            for key, events in contested.items()
            if key[0] == event_type and events
        }
    chosen = {
        key: _first_allowed(state, events)
        for key, events in contested.items()
        if key[0] not in _AUTH_TYPES
    }
    state.changes |= {key: event_id for key, event_id in chosen.items() if event_id is not None}
    return base.update(state.changes)


def _last_allowed(state: PartialState, events: list[Event]) -> EventID:
    """Return the last event, in ascending depth, up to which each is allowed after the previous."""
    ordered = sorted(events, key=_rank)
    current = ordered[0]
    for event in ordered[1:]:
        auth_state = state.auth_state_for(event)
        key = (current.type, current.state_key or "")
        if not state.allows(event, {**auth_state, key: current}):
            break
        current = event
    return current.event_id


def _first_allowed(state: PartialState, events: list[Event]) -> EventID | None:
    for event in sorted(events, key=_rank, reverse=True):
        if state.allows(event, state.auth_state_for(event)):
            return event.event_id
    return None


def _rank(event: Event) -> tuple[int, int]:
    # Ascending depth, then descending SHA-1 of the event ID.
    digest = hashlib.sha1(event.event_id.encode(), usedforsecurity=False).digest()
    return event.depth, -int.from_bytes(digest)
