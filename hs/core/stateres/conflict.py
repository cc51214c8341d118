"""The unconflicted state map and the conflicted state set of the states of several forks.

Spec: rooms/v2, State resolution, Definitions.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import TypeAlias

import attrs
from immutables import Map

from hs.core.events.event_types import StateKey
from hs.core.ids import EventID

StateMap: TypeAlias = Mapping[StateKey, EventID]


@attrs.frozen
class Conflict:
    """The states of several forks, divided into what they agree on and what they do not.

    `unconflicted` is the unconflicted state map. `conflicted` maps each other key to its values in
    all states; that includes keys that some of the states lack.
    """

    unconflicted: Map[StateKey, EventID]
    conflicted: Mapping[StateKey, frozenset[EventID]]

    @property
    def event_ids(self) -> frozenset[EventID]:
        """The conflicted state set."""
        return frozenset().union(*self.conflicted.values())


def find_conflict(
    state_sets: Sequence[StateMap], candidates: Collection[StateKey] | None = None
) -> Conflict:
    """Divide the states of forks into their unconflicted and conflicted parts.

    At least one state is required. If `candidates` is given, the states are known not to differ in
    other keys.
    """
    first = state_sets[0]
    conflicting: dict[StateKey, set[EventID]] = {}
    for state in state_sets[1:]:
        if state is first:
            continue
        for key in chain(state, first) if candidates is None else candidates:
            event_id = state.get(key)
            if first.get(key) != event_id:
                others = conflicting.setdefault(key, set())
                if event_id is not None:
                    others.add(event_id)
    for key, event_ids in conflicting.items():
        if key in first:
            event_ids.add(first[key])
    unconflicted = first if isinstance(first, Map) else Map(first.items())
    unconflicted_changes = unconflicted.mutate()
    for key in conflicting:
        unconflicted_changes.pop(key, None)
    conflicted = {key: frozenset(event_ids) for key, event_ids in conflicting.items()}
    return Conflict(unconflicted_changes.finish(), conflicted)
