"""Auth chains, auth differences and conflicted state subgraphs of an auth graph in memory.

`chain_cover` computes the same from an index, without loading the graph.

Spec: rooms/v12, State resolution, Definitions.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import TypeAlias

from hs.core.ids import EventID

AuthGraph: TypeAlias = Mapping[EventID, Iterable[EventID]]
"""The auth events of each event; an event that is missing counts as having none."""


def auth_chain(starts: Iterable[EventID], graph: AuthGraph) -> set[EventID]:
    """Return the union of the auth chains of events.

    An event is not part of its own auth chain.
    """
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
    """Return the auth difference: the events in the auth chain of some state but not of all.

    Each state is given by all its events, also the unconflicted ones: their auth chains count too.
    """
    chains = [auth_chain(state, graph) for state in state_sets]
    if not chains:
        return frozenset()
    shared = chains[0].intersection(*chains[1:])
    return frozenset(chains[0].union(*chains[1:]) - shared)


def conflicted_subgraph(conflicted: Set[EventID], graph: AuthGraph) -> frozenset[EventID]:
    """Return the conflicted state subgraph.

    It contains every event on a path of auth events between two conflicted events, and those two.
    """
    reached = auth_chain(conflicted, graph)
    children: dict[EventID, list[EventID]] = {}
    for event_id in reached | conflicted:
        for parent in graph.get(event_id, ()):
            children.setdefault(parent, []).append(event_id)
    subgraph: set[EventID] = set()
    waiting = list(conflicted & reached)
    while waiting:
        event_id = waiting.pop()
        if event_id not in subgraph:
            subgraph.add(event_id)
            waiting.extend(children.get(event_id, ()))
    return frozenset(subgraph)
