"""Auth chains of stored events, computed from the chain cover index.

Events that are not committed are not in the index. One of them, the event that is just being added
to a room, can be passed to the methods as `uncommitted`; no other event cites it.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from typing import Final

import attrs

from hs.core.events.event import Event
from hs.core.ids import EventID
from hs.core.stateres.chain_cover import (
    Link,
    Place,
    PlaceRange,
    chains_to_load,
    difference_ranges,
    reach_of,
    subgraph_ranges,
)
from hs.lib.caching.lru_cache import LruCache
from hs.storage.database import Database, Tx
from hs.storage.rooms import chain_cover

MAX_PLACES: Final = 200_000

# The uncommitted event is a chain of its own; no stored chain has the number 0.
_UNCOMMITTED: Final = Place(0, 1)


def _places() -> LruCache[EventID, Place]:
    return LruCache("auth_chain_places", max_entries=MAX_PLACES)


@attrs.frozen(eq=False)
class AuthGraph:
    """The auth chains of all rooms; an event's place in the index never changes."""

    _database: Database
    _places: LruCache[EventID, Place] = attrs.field(factory=_places)

    async def difference(
        self,
        own: Sequence[Collection[EventID]],
        shared: Collection[EventID],
        uncommitted: Event | None = None,
    ) -> frozenset[EventID]:
        """Return the auth difference: events in the auth chain of some state but not of all.

        Each state consists of its `own` events and of the `shared` ones.
        """
        common = await self._places_of(shared, uncommitted)
        places = await self._places_of({each for state in own for each in state}, uncommitted)
        placed = [[places[event_id] for event_id in state] for state in own]
        links = await self._links_from(uncommitted)
        return frozenset(
            await self._database.read(_difference, placed, list(common.values()), links)
        )

    async def chain_of(self, event_ids: Collection[EventID]) -> frozenset[EventID]:
        """Return the auth chain of committed state events: what they cite, directly or not."""
        places = await self._places_of(event_ids, None)
        return frozenset(await self._database.read(_chain, list(places.values())))

    async def subgraph(
        self, conflicted: Set[EventID], uncommitted: Event | None = None
    ) -> frozenset[EventID]:
        """Return every event on a path of auth events between two conflicted events.

        Conflicted events at the ends that no other one reaches may be left out.
        """
        places = await self._places_of(conflicted, uncommitted)
        return frozenset(
            await self._database.read(
                _subgraph, list(places.values()), await self._links_from(uncommitted)
            )
        )

    async def _links_from(self, uncommitted: Event | None) -> list[Link]:
        if uncommitted is None:
            return []
        cited = await self._places_of(uncommitted.auth_events, None)
        return [Link(_UNCOMMITTED, place) for place in cited.values()]

    async def _places_of(
        self, event_ids: Iterable[EventID], uncommitted: Event | None
    ) -> dict[EventID, Place]:
        places: dict[EventID, Place] = {}
        unknown: list[EventID] = []
        for event_id in event_ids:
            if uncommitted is not None and event_id == uncommitted.event_id:
                places[event_id] = _UNCOMMITTED
                continue
            place = self._places.get(event_id)
            if place is None:
                unknown.append(event_id)
            else:
                places[event_id] = place
        if unknown:
            loaded = await self._database.read(chain_cover.places_of, unknown)
            missing = [event_id for event_id in unknown if event_id not in loaded]
            assert not missing, f"events not in the chain cover index: {missing[:5]}"
            for event_id, place in loaded.items():
                self._places.put(event_id, place)
            places.update(loaded)
        return places


async def _difference(
    tx: Tx, states: Sequence[Sequence[Place]], shared: Sequence[Place], uncommitted: Sequence[Link]
) -> set[EventID]:
    starts = [*shared, *(place for state in states for place in state)]
    links = await _load_links(tx, starts, uncommitted)
    return await chain_cover.events_in(tx, difference_ranges(states, links, shared))


async def _chain(tx: Tx, places: Sequence[Place]) -> set[EventID]:
    reach = reach_of(places, await _load_links(tx, places, ()))
    return await chain_cover.events_in(
        tx, [PlaceRange(chain_id, 0, sequence) for chain_id, sequence in reach.items()]
    )


async def _subgraph(
    tx: Tx, conflicted: Sequence[Place], uncommitted: Sequence[Link]
) -> set[EventID]:
    links = await _load_links(tx, conflicted, uncommitted)
    return await chain_cover.events_in(tx, subgraph_ranges(conflicted, links))


async def _load_links(
    tx: Tx, starts: Collection[Place], uncommitted: Sequence[Link]
) -> Mapping[int, Sequence[Link]]:
    stored = [
        *(place for place in starts if place != _UNCOMMITTED),
        *(link.target for link in uncommitted),
    ]
    links = await chain_cover.load_links(tx, chains_to_load(stored))
    return {**links, _UNCOMMITTED.chain_id: uncommitted}
