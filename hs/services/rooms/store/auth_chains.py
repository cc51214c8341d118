"""Auth chains of stored events, looked up as ranges of the chain-cover index.

Events that are not committed are not in it.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from typing import Final

import attrs

from hs.core.events.event import Event
from hs.core.ids import EventID
from hs.core.stateres.chain_cover import (
    Link,
    Place,
    chains_to_load,
    difference_ranges,
    subgraph_ranges,
)
from hs.lib.caching.lru_cache import LruCache
from hs.storage.database import Database, Tx
from hs.storage.rooms import chain_cover

MAX_PLACES: Final = 200_000

# An event that has no place yet counts as a chain of its own; no event has the number 0.
_ENTERING: Final = Place(0, 1)


def _places() -> LruCache[EventID, Place]:
    return LruCache("auth_chain_places", max_entries=MAX_PLACES)


@attrs.frozen(eq=False)
class AuthGraph:
    """The auth graphs of all rooms; a place in the index never changes."""

    _database: Database
    _places: LruCache[EventID, Place] = attrs.field(factory=_places)

    async def difference(
        self, states: Sequence[Collection[EventID]], entering: Event | None = None
    ) -> frozenset[EventID]:
        """Give what is in the auth chain of some state but not of every one.

        `entering` may be among the events without being committed; no other event cites it.
        """
        shared = frozenset(states[0]).intersection(*states[1:])
        own = [[each for each in state if each not in shared] for state in states]
        common = await self._places_of(shared, entering)
        places = await self._places_of({each for state in own for each in state}, entering)
        placed = [[places[event_id] for event_id in state] for state in own]
        links = await self._links_from(entering)
        return frozenset(
            await self._database.read(_difference, placed, list(common.values()), links)
        )

    async def subgraph(
        self, conflicted: Set[EventID], entering: Event | None = None
    ) -> frozenset[EventID]:
        """Give every event on a path of auth events between two conflicted ones.

        Of the ends, those that no other end reaches may be left out.
        """
        places = await self._places_of(conflicted, entering)
        return frozenset(
            await self._database.read(
                _subgraph, list(places.values()), await self._links_from(entering)
            )
        )

    async def _links_from(self, entering: Event | None) -> list[Link]:
        if entering is None:
            return []
        cited = await self._places_of(entering.auth_events, None)
        return [Link(_ENTERING, place) for place in cited.values()]

    async def _places_of(
        self, event_ids: Iterable[EventID], entering: Event | None
    ) -> dict[EventID, Place]:
        found: dict[EventID, Place] = {}
        unknown: list[EventID] = []
        for event_id in event_ids:
            if entering is not None and event_id == entering.event_id:
                found[event_id] = _ENTERING
                continue
            place = self._places.get(event_id)
            if place is None:
                unknown.append(event_id)
            else:
                found[event_id] = place
        if unknown:
            loaded = await self._database.read(chain_cover.places_of, unknown)
            lacking = [event_id for event_id in unknown if event_id not in loaded]
            assert not lacking, f"not in the index of auth chains: {lacking[:5]}"
            for event_id, place in loaded.items():
                self._places.put(event_id, place)
            found.update(loaded)
        return found


async def _difference(
    tx: Tx, states: Sequence[Sequence[Place]], shared: Sequence[Place], entering: Sequence[Link]
) -> set[EventID]:
    starts = [*shared, *(place for state in states for place in state)]
    links = await _load_links(tx, starts, entering)
    return await chain_cover.events_in(tx, difference_ranges(states, links, shared))


async def _subgraph(tx: Tx, conflicted: Sequence[Place], entering: Sequence[Link]) -> set[EventID]:
    links = await _load_links(tx, conflicted, entering)
    return await chain_cover.events_in(tx, subgraph_ranges(conflicted, links))


async def _load_links(
    tx: Tx, starts: Collection[Place], entering: Sequence[Link]
) -> Mapping[int, Sequence[Link]]:
    stored = [*(place for place in starts if place != _ENTERING), *(one.target for one in entering)]
    links = await chain_cover.load_links(tx, chains_to_load(stored))
    return {**links, _ENTERING.chain_id: entering}
