"""Resolve the states of forks, with events and auth chains from the stores."""

from collections.abc import Sequence

import attrs

from hs.core.events.event import Event
from hs.core.ids import EventID
from hs.core.stateres.conflict import Conflict
from hs.core.stateres.loading import LoadedEvents
from hs.core.stateres.resolve import (
    Resolution,
    ResolutionInput,
    needs_auth_difference,
    needs_subgraph,
    resolution_steps,
)
from hs.core.versions import RoomVersion
from hs.services.rooms.store.auth_chains import AuthGraph
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.state_snapshots import StateMap
from hs.services.rooms.store.stored_event import EventStatus


@attrs.frozen(eq=False)
class StateResolver:
    """Resolves states whose events are all committed, except at most one."""

    _events: EventStore
    _graph: AuthGraph

    async def resolve(
        self,
        rules: RoomVersion,
        conflict: Conflict,
        states: Sequence[StateMap],
        uncommitted: Event | None = None,
    ) -> StateMap:
        """Return the resolved state.

        `uncommitted` is an event that may be in the states without being committed.

        Spec: rooms, State resolution.
        """
        if not conflict.conflicted:
            return conflict.unconflicted
        conflicted = conflict.event_ids
        difference: frozenset[EventID] = frozenset()
        subgraph: frozenset[EventID] = frozenset()
        if needs_auth_difference(rules):
            own = [[state[key] for key in conflict.conflicted if key in state] for state in states]
            difference = await self._graph.difference(
                own, frozenset(conflict.unconflicted.values()), uncommitted
            )
        if needs_subgraph(rules):
            subgraph = await self._graph.subgraph(conflicted, uncommitted) | conflicted
        return await self._run(
            resolution_steps(ResolutionInput(rules, conflict, difference, subgraph)), uncommitted
        )

    async def _run(self, steps: Resolution, uncommitted: Event | None) -> StateMap:
        try:
            needed = next(steps)
            while True:
                needed = steps.send(await self._load(needed, uncommitted))
        except StopIteration as stop:
            resolved: StateMap = stop.value
            return resolved

    async def _load(self, needed: frozenset[EventID], uncommitted: Event | None) -> LoadedEvents:
        stored_events = await self._events.get(needed)
        loaded = {event_id: stored.event for event_id, stored in stored_events.items()}
        if uncommitted is not None and uncommitted.event_id in needed:
            loaded[uncommitted.event_id] = uncommitted
        rejected = {
            each for each, stored in stored_events.items() if stored.status == EventStatus.REJECTED
        }
        return LoadedEvents(loaded, rejected)
