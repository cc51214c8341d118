"""The chain-cover index yields the same auth differences and subgraphs as walking the graph."""

import itertools
from collections.abc import Generator, Iterable, Set

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hs.core.ids import EventID
from hs.core.stateres.auth_graph import auth_chain, auth_chain_difference, conflicted_subgraph
from hs.core.stateres.chain_cover import (
    ChainCoverRows,
    Link,
    Links,
    Place,
    PlaceRange,
    chains_to_load,
    difference_ranges,
    place_events,
    reach_of,
    subgraph_ranges,
)
from hs.core.stateres.conflict import find_conflict
from hs.core.versions import ROOM_VERSIONS
from tests.support.inputs.forked_rooms import ForkedRoom, forked_rooms, new_room

ROOMS = st.one_of([forked_rooms(ROOM_VERSIONS[version]) for version in ("11", "12")])
SETTINGS = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Index:
    """The rows of a room's index, as storage would hold them."""

    def __init__(self, room: ForkedRoom, batch: int = 1) -> None:
        self.places: dict[EventID, Place] = {}
        self.rows: list[Link] = []
        self.numbers = itertools.count(1)
        pending = list(room.events.values())
        for start in range(0, len(pending), batch):
            events = pending[start : start + batch]
            lengths: dict[int, int] = {}
            for place in self.places.values():
                lengths[place.chain_id] = max(lengths.get(place.chain_id, 0), place.sequence)
            known = {
                event_id: (event.type, event.state_key or "")
                for event_id, event in room.events.items()
            }
            rows = place_events(events, known, self.places, lengths, self.links(), self.numbers)
            self.add(rows)

    def add(self, rows: ChainCoverRows) -> None:
        self.places.update(rows.places)
        self.rows.extend(rows.links)

    def links(self) -> Links:
        by_chain: dict[int, list[Link]] = {}
        for link in self.rows:
            by_chain.setdefault(link.origin.chain_id, []).append(link)
        return by_chain

    def in_ranges(self, ranges: Iterable[PlaceRange]) -> set[EventID]:
        return {
            event_id
            for event_id, place in self.places.items()
            for place_range in ranges
            if place_range.chain_id == place.chain_id
            and place_range.after < place.sequence <= place_range.upto
        }

    def places_of(self, event_ids: Iterable[EventID]) -> list[Place]:
        return [self.places[event_id] for event_id in event_ids]


def graph_of(room: ForkedRoom) -> dict[EventID, tuple[EventID, ...]]:
    return {event_id: event.auth_events for event_id, event in room.events.items()}


@SETTINGS
@given(ROOMS, st.integers(1, 8))
def test_reach_equals_auth_chain(room: ForkedRoom, batch: int) -> None:
    index = Index(room, batch)

    for event_id in room.events:
        reach = reach_of([index.places[event_id]], index.links())
        ranges = [PlaceRange(chain_id, 0, upto) for chain_id, upto in reach.items()]
        assert index.in_ranges(ranges) == auth_chain([event_id], graph_of(room))


@SETTINGS
@given(ROOMS)
def test_difference_ranges_equal_auth_difference(room: ForkedRoom) -> None:
    index = Index(room)
    states = [list(state.values()) for state in room.forks]

    ranges = difference_ranges([index.places_of(state) for state in states], index.links())

    assert index.in_ranges(ranges) == auth_chain_difference(states, graph_of(room))
    shared = set(states[0]).intersection(*states[1:])
    own = [index.places_of(set(state) - shared) for state in states]
    assert difference_ranges(own, index.links(), index.places_of(shared)) == ranges


@SETTINGS
@given(ROOMS)
def test_subgraph_ranges_equal_conflicted_subgraph(room: ForkedRoom) -> None:
    index = Index(room)
    conflicted = find_conflict(room.forks).event_ids

    ranges = subgraph_ranges(index.places_of(conflicted), index.links())

    subgraph = index.in_ranges(ranges) | conflicted
    assert subgraph == conflicted_subgraph(conflicted, graph_of(room)) | conflicted


@SETTINGS
@given(ROOMS)
def test_only_links_of_reached_chains_are_loaded(room: ForkedRoom) -> None:
    index = Index(room)
    starts = index.places_of(room.forks[0].values())
    rows = index.links()
    loaded_chains: list[int] = []

    links = _load_links(chains_to_load(starts), rows, loaded_chains)

    assert len(loaded_chains) == len(set(loaded_chains))
    assert reach_of(starts, links) == reach_of(starts, rows)


def _load_links(
    steps: Generator[Set[int], Links, Links], rows: Links, loaded_chains: list[int]
) -> Links:
    try:
        needed = next(steps)
        while True:
            loaded_chains.extend(needed)
            needed = steps.send(
                {chain_id: rows[chain_id] for chain_id in needed if chain_id in rows}
            )
    except StopIteration as stop:
        links: Links = stop.value
        return links


def test_successive_power_levels_form_one_chain_with_few_links() -> None:
    room = new_room(ROOM_VERSIONS["11"])
    for number in range(50):
        users = {"@admin:one": 100, "@bob:two": 50 - number}
        change = ("m.room.power_levels", "", {"users": users})
        assert room.add(len(room.tips) - 1, "@admin:one", change, 100 + number)

    index = Index(room)

    levels = [
        event_id for event_id, event in room.events.items() if event.type == "m.room.power_levels"
    ]
    assert len({index.places[event_id].chain_id for event_id in levels}) == 1
    assert len(index.rows) < 12


def test_event_without_known_auth_events_starts_a_chain() -> None:
    room = new_room(ROOM_VERSIONS["11"])
    orphan = list(room.events.values())[2]

    rows = place_events([orphan], {}, {}, {}, {}, itertools.count(7))

    assert rows == ChainCoverRows({orphan.event_id: Place(7, 1)}, [])
