"""Resolving the states of forks, with events and auth chains from the stores."""

from collections.abc import Sequence

import attrs

from hs.core.events.event import Event
from hs.core.ids import EventID
from hs.core.stateres.conflict import Conflict
from hs.core.stateres.loading import LoadedEvents
from hs.core.stateres.resolve import (
    Problem,
    Resolution,
    needs_auth_difference,
    needs_subgraph,
    resolution_steps,
)
from hs.core.versions import RoomVersion
from hs.services.rooms.store.auth_chains import AuthGraph
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.state_snapshots import StateMap
from hs.services.rooms.store.stored_event import Status


@attrs.frozen(eq=False)
class StateResolver:
    """Brings states together; all their events but one must be committed."""

    _events: EventStore
    _graph: AuthGraph

    async def resolve(
        self,
        rules: RoomVersion,
        conflict: Conflict,
        states: Sequence[StateMap],
        entering: Event | None = None,
    ) -> StateMap:
        """Give the resolved state of states whose conflict is known.

        `entering` is an event that may be part of them without being committed.

        Spec: rooms/, State resolution.
        """
        if not conflict.conflicted:
            return conflict.unconflicted
        conflicted = conflict.event_ids
        difference: frozenset[EventID] = frozenset()
        subgraph: frozenset[EventID] = frozenset()
        if needs_auth_difference(rules):
            difference = await self._graph.difference(
                [set(state.values()) for state in states], entering
            )
        if needs_subgraph(rules):
            subgraph = await self._graph.subgraph(conflicted, entering) | conflicted
        return await self._run(
            resolution_steps(Problem(rules, conflict, difference, subgraph)), entering
        )

    async def _run(self, steps: Resolution, entering: Event | None) -> StateMap:
        try:
            needed = next(steps)
            while True:
                needed = steps.send(await self._load(needed, entering))
        except StopIteration as stop:
            resolved: StateMap = stop.value
            return resolved

    async def _load(self, needed: frozenset[EventID], entering: Event | None) -> LoadedEvents:
        found = await self._events.get(needed)
        loaded = {event_id: stored.event for event_id, stored in found.items()}
        if entering is not None and entering.event_id in needed:
            loaded[entering.event_id] = entering
        rejected = {each for each, one in found.items() if one.status == Status.REJECTED}
        return LoadedEvents(loaded, rejected)
