"""The chain-cover index: a place for each event from which auth chains are read as ranges.

Every event has a place (chain, sequence). An event reaches, by its auth events, everything before
it in its own chain, and by the links of its chain up to its sequence it reaches places in other
chains. So an auth chain is one number per chain, and a difference of auth chains is a few ranges.

All functions work on rows that storage keeps: places of events, and links. Links are given by
their origin's chain; a link that is missing makes answers too small, so give those of all chains
that `chains_to_load` asks for.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence, Set
from typing import TypeAlias

import attrs

from hs.core.events.event import Event
from hs.core.events.event_types import StateKey
from hs.core.ids import EventID


@attrs.frozen(order=True)
class Place:
    """Where an event stands in the index; sequences start at 1."""

    chain_id: int
    sequence: int


@attrs.frozen
class Link:
    """From the origin on, a chain reaches the target and everything before the target."""

    origin: Place
    target: Place


Links: TypeAlias = Mapping[int, Sequence[Link]]
"""All links that start in a chain, by that chain."""

Reach: TypeAlias = dict[int, int]
"""The greatest sequence reached, by chain."""


@attrs.frozen(order=True)
class PlaceRange:
    """The places of a chain behind `after`, up to and with `upto`."""

    chain_id: int
    after: int
    upto: int


@attrs.frozen
class NewRows:
    """What placing events adds to the index."""

    places: Mapping[EventID, Place]
    links: Sequence[Link]


def place_events(
    events: Sequence[Event],
    known: Mapping[EventID, StateKey],
    places: Mapping[EventID, Place],
    lengths: Mapping[int, int],
    links: Links,
    new_chain_ids: Iterator[int],
) -> NewRows:
    """Find places for new events, each after its auth events in `events` or in `places`.

    `known` has the state keys of those auth events that are placed already, `lengths` the lengths
    of their chains, `links` the links of their chains as far as at hand: fewer only mean that
    links are added which say nothing new. An auth event that has no place is left out.
    """
    seen = {**known, **{event.event_id: (event.type, event.state_key) for event in events}}
    placed = dict(places)
    grown = dict(lengths)
    all_links: dict[int, list[Link]] = {chain_id: list(each) for chain_id, each in links.items()}
    rows: dict[EventID, Place] = {}
    added: list[Link] = []
    for event in events:
        cited = [each for each in event.auth_events if each in placed and each in seen]
        place = _next_in_chain(event, cited, seen, placed, grown)
        if place is None:
            place = Place(next(new_chain_ids), 1)
        rows[event.event_id] = placed[event.event_id] = place
        grown[place.chain_id] = place.sequence
        for target in _news({placed[each] for each in cited}, place, all_links):
            link = Link(place, target)
            all_links.setdefault(place.chain_id, []).append(link)
            added.append(link)
    return NewRows(rows, added)


def chains_to_load(starts: Iterable[Place]) -> Generator[Set[int], Links, Links]:
    """Collect the links of all chains that places reach.

    Yields IDs of chains, is sent their links, and returns all of them.
    """
    collected: dict[int, Sequence[Link]] = {}
    needed = {place.chain_id for place in starts}
    while needed:
        loaded = yield needed
        collected.update({chain_id: loaded.get(chain_id, ()) for chain_id in needed})
        targets = {link.target.chain_id for each in needed for link in collected[each]}
        needed = targets - collected.keys()
    return collected


def reach_of(starts: Iterable[Place], links: Links) -> Reach:
    """Give the auth chain of the events at some places; they are not in it for themselves."""
    reach: Reach = {}
    waiting: Reach = {}
    for place in starts:
        _raise(waiting, place.chain_id, place.sequence)
    for chain_id, sequence in waiting.items():
        if sequence > 1:
            reach[chain_id] = sequence - 1
    followed: Reach = {}
    while waiting:
        chain_id, sequence = waiting.popitem()
        done = followed.get(chain_id, 0)
        if sequence <= done:
            continue
        followed[chain_id] = sequence
        for link in links.get(chain_id, ()):
            if done < link.origin.sequence <= sequence:
                _raise(reach, link.target.chain_id, link.target.sequence)
                _raise(waiting, link.target.chain_id, link.target.sequence)
    return reach


def difference_ranges(
    state_sets: Sequence[Iterable[Place]], links: Links, shared: Iterable[Place] = ()
) -> list[PlaceRange]:
    """Give the auth difference of states, whose events are given by their places.

    Those of events that all states have may be given once, as `shared`.
    """
    reaches = [reach_of(places, links) for places in state_sets]
    common = reach_of(shared, links)
    ranges: list[PlaceRange] = []
    for chain_id in {chain_id for reach in reaches for chain_id in reach}:
        least = common.get(chain_id, 0)
        ends = [max(least, reach.get(chain_id, 0)) for reach in reaches]
        if min(ends) < max(ends):
            ranges.append(PlaceRange(chain_id, min(ends), max(ends)))
    return sorted(ranges)


def subgraph_ranges(conflicted: Sequence[Place], links: Links) -> list[PlaceRange]:
    """Give the conflicted state subgraph, but for those of its ends that no other end reaches.

    Together with the conflicted events themselves this is all of it.
    """
    reach = reach_of(conflicted, links)
    targets = [place for place in conflicted if place.sequence <= reach.get(place.chain_id, 0)]
    ranges = [
        PlaceRange(chain_id, first - 1, reach[chain_id])
        for chain_id, first in _first_above(targets, reach, links).items()
        if first <= reach.get(chain_id, 0)
    ]
    return sorted(ranges)


def _first_above(targets: Iterable[Place], reach: Reach, links: Links) -> dict[int, int]:
    """Give for each chain the first place from which a target is reached, or is one."""
    first: dict[int, int] = {}
    incoming: dict[int, list[Link]] = {}
    for chain_id in reach:
        for link in links.get(chain_id, ()):
            incoming.setdefault(link.target.chain_id, []).append(link)
    waiting = list(targets)
    while waiting:
        place = waiting.pop()
        if first.get(place.chain_id, place.sequence + 1) <= place.sequence:
            continue
        first[place.chain_id] = place.sequence
        waiting.extend(
            link.origin
            for link in incoming.get(place.chain_id, ())
            if link.target.sequence >= place.sequence
        )
    return first


def _next_in_chain(
    event: Event,
    cited: Sequence[EventID],
    seen: Mapping[EventID, tuple[str, str | None]],
    placed: Mapping[EventID, Place],
    lengths: Mapping[int, int],
) -> Place | None:
    """Give the place after the event's own predecessor, if that is the last of its chain.

    Chains follow one state key. Were an event to go behind any auth event, the chains of power
    levels and the like, which every event reaches, would soon be cut to pieces.
    """
    for event_id in cited:
        place = placed[event_id]
        is_same_key = seen[event_id] == (event.type, event.state_key)
        if is_same_key and lengths.get(place.chain_id) == place.sequence:
            return Place(place.chain_id, place.sequence + 1)
    return None


def _news(targets: set[Place], place: Place, links: Links) -> list[Place]:
    """Leave out the targets that the place, or another target, reaches anyway."""
    known = reach_of([place], links)
    news = [each for each in sorted(targets) if each.sequence > known.get(each.chain_id, 0)]
    return [target for target in news if not _reached_from(target, news, links)]


def _reached_from(target: Place, others: Iterable[Place], links: Links) -> bool:
    """Tell whether a place is reached from one of others."""
    return any(
        reach_of([other], links).get(target.chain_id, 0) >= target.sequence
        for other in others
        if other != target
    )


def _raise(reach: Reach, chain_id: int, sequence: int) -> None:
    if sequence > reach.get(chain_id, 0):
        reach[chain_id] = sequence
