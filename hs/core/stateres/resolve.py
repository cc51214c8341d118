"""State resolution for every room version.

Resolution does no I/O: `resolution_steps` is a generator that yields the IDs of the events it
needs, is sent `LoadedEvents`, and returns the resolved state. `resolve` runs it over events in
memory.

Spec: rooms/, State resolution.
"""

from collections.abc import Generator, Mapping, Sequence, Set
from typing import TypeAlias

import attrs
from immutables import Map

from hs.core.events.event import Event
from hs.core.events.event_types import StateKey
from hs.core.ids import EventID
from hs.core.stateres.auth_graph import auth_chain_difference, conflicted_subgraph
from hs.core.stateres.conflict import Conflict, StateMap, find_conflict
from hs.core.stateres.loading import EventStore, LoadedEvents
from hs.core.stateres.v1 import resolve_v1
from hs.core.stateres.v2 import resolve_v2
from hs.core.versions import RoomVersion

Resolution: TypeAlias = Generator[frozenset[EventID], LoadedEvents, Map[StateKey, EventID]]


@attrs.frozen
class ResolutionInput:
    """The input of state resolution.

    `auth_difference` is used from state resolution version 2 on; it is of the whole states, not
    only of their conflicted parts. `subgraph`, the conflicted state subgraph, is used from version
    2.1 on.
    """

    rules: RoomVersion
    conflict: Conflict
    auth_difference: Set[EventID] = frozenset()
    subgraph: Set[EventID] = frozenset()


def needs_auth_difference(rules: RoomVersion) -> bool:
    """Return whether resolution uses the auth difference."""
    return rules.state_resolution != "v1"


def needs_subgraph(rules: RoomVersion) -> bool:
    """Return whether resolution uses the conflicted state subgraph."""
    return rules.state_resolution == "v2.1"


def resolution_steps(problem: ResolutionInput) -> Resolution:
    """Resolve states, yielding the IDs of events that must be loaded to continue."""
    conflict, rules = problem.conflict, problem.rules
    if not conflict.conflicted:
        return conflict.unconflicted
    store = EventStore(rules)
    if rules.state_resolution == "v1":
        return (yield from resolve_v1(conflict, store))
    full = conflict.event_ids | problem.auth_difference
    if rules.state_resolution == "v2":
        return (yield from resolve_v2(conflict, full, conflict.unconflicted, store))
    return (yield from resolve_v2(conflict, full | problem.subgraph, Map(), store))


def run_in_memory(steps: Resolution, loaded: LoadedEvents) -> Map[StateKey, EventID]:
    """Run the steps of a resolution over events in memory."""
    try:
        needed = next(steps)
        while True:
            events = {
                event_id: loaded.events[event_id]
                for event_id in needed
                if event_id in loaded.events
            }
            needed = steps.send(LoadedEvents(events, loaded.rejected & needed))
    except StopIteration as stop:
        resolved: Map[StateKey, EventID] = stop.value
        return resolved


def resolve(
    rules: RoomVersion,
    state_sets: Sequence[StateMap],
    events: Mapping[EventID, Event],
    rejected: Set[EventID] = frozenset(),
) -> Map[StateKey, EventID]:
    """Resolve states of a room.

    `events` must contain the events of all states and their auth chains.
    """
    conflict = find_conflict(state_sets)
    if not conflict.conflicted:
        return conflict.unconflicted
    graph = {event_id: event.auth_events for event_id, event in events.items()}
    problem = ResolutionInput(
        rules,
        conflict,
        auth_chain_difference([state.values() for state in state_sets], graph),
        conflicted_subgraph(conflict.event_ids, graph) if needs_subgraph(rules) else frozenset(),
    )
    return run_in_memory(resolution_steps(problem), LoadedEvents(events, rejected))
