"""The auth graph held in memory: auth chains, their difference and the conflicted subgraph.

This is the plain form of what `chain_cover` finds by looking up ranges.

Spec: rooms/v12, State resolution, Definitions.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import TypeAlias

from hs.core.ids import EventID

AuthGraph: TypeAlias = Mapping[EventID, Iterable[EventID]]
"""The auth events of each event; what it does not hold counts as having none."""


def auth_chain(starts: Iterable[EventID], graph: AuthGraph) -> set[EventID]:
    """Give the union of the auth chains of events; an event is not in its own."""
    seen: set[EventID] = set()
    waiting = [parent for start in starts for parent in graph.get(start, ())]
    while waiting:
        event_id = waiting.pop()
        if event_id not in seen:
            seen.add(event_id)
            waiting.extend(graph.get(event_id, ()))
    return seen


def auth_chain_difference(
    state_sets: Sequence[Iterable[EventID]], graph: AuthGraph
) -> frozenset[EventID]:
    """Give what is in the auth chain of some state but not of every one.

    States are given by their events, all of them: also what the states share has auth chains.
    """
    chains = [auth_chain(state, graph) for state in state_sets]
    if not chains:
        return frozenset()
    shared = chains[0].intersection(*chains[1:])
    return frozenset(chains[0].union(*chains[1:]) - shared)


def conflicted_subgraph(conflicted: Set[EventID], graph: AuthGraph) -> frozenset[EventID]:
    """Give every event on a path of auth events between two conflicted ones, ends included."""
    reached = auth_chain(conflicted, graph)
    children: dict[EventID, list[EventID]] = {}
    for event_id in reached | conflicted:
        for parent in graph.get(event_id, ()):
            children.setdefault(parent, []).append(event_id)
    above: set[EventID] = set()
    waiting = list(conflicted & reached)
    while waiting:
        event_id = waiting.pop()
        if event_id not in above:
            above.add(event_id)
            waiting.extend(children.get(event_id, ()))
    return frozenset(above)
