"""Where the states of several forks agree, and where not.

Spec: rooms/v2, State resolution, Definitions.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import attrs
from immutables import Map

from hs.core.events.event_types import StateKey
from hs.core.ids import EventID

StateMap: TypeAlias = Mapping[StateKey, EventID]


@attrs.frozen
class Conflict:
    """The states of forks, taken apart.

    `unconflicted` holds what is the same in every state; `conflicted` all values of all other
    keys, also of keys that one state has and another lacks.
    """

    unconflicted: Map[StateKey, EventID]
    conflicted: Mapping[StateKey, frozenset[EventID]]

    @property
    def event_ids(self) -> frozenset[EventID]:
        """Give the conflicted state set."""
        return frozenset().union(*self.conflicted.values())


def find_conflict(state_sets: Sequence[StateMap]) -> Conflict:
    """Compare the states of forks; there is at least one."""
    first = state_sets[0]
    found: dict[StateKey, set[EventID]] = {}
    for other in state_sets[1:]:
        if other is first:
            continue
        for key, event_id in other.items():
            if first.get(key) != event_id:
                found.setdefault(key, set()).add(event_id)
        for key in first:
            if key not in other:
                found.setdefault(key, set())
    for key, event_ids in found.items():
        if key in first:
            event_ids.add(first[key])
    unconflicted = first if isinstance(first, Map) else Map(first.items())
    agreed = unconflicted.mutate()
    for key in found:
        agreed.pop(key, None)
    conflicted = {key: frozenset(event_ids) for key, event_ids in found.items()}
    return Conflict(agreed.finish(), conflicted)
