"""The chain-cover index: auth chains and their differences, computed as ranges.

The index assigns every event a place (chain, sequence), which never changes. Rules:

- An event reaches, by its auth events, all events before it in its own chain. By each link of its
  chain whose origin is at or before the event, it also reaches the link's target and all events
  before the target in that chain.
- So the auth chain of any set of events is one sequence per chain, and an auth difference is a few
  ranges of places.
- A missing link makes results too small, without any error: pass the links of all chains that
  `chains_to_load` yields. A link that is not needed does no harm.

All functions work on rows that storage keeps: places of events, and links by the chain of their
origin. Algorithm: Synapse, docs/auth_chain_difference_algorithm.md.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence, Set
from typing import NamedTuple, TypeAlias

import attrs

from hs.core.events.event import Event
from hs.core.events.event_types import StateKey
from hs.core.ids import EventID


class Place(NamedTuple):
    """The place of an event in the index; sequences start at 1."""

    chain_id: int
    sequence: int


class Link(NamedTuple):
    """A link between chains.

    Events at or after `origin` in its chain reach `target` and all events before it in its chain.
    """

    origin: Place
    target: Place


Links: TypeAlias = Mapping[int, Sequence[Link]]
"""All links that start in a chain, by that chain."""

Reach: TypeAlias = dict[int, int]
"""The greatest sequence that is reached in each chain."""


class PlaceRange(NamedTuple):
    """The places of a chain after `after`, up to and including `upto`."""

    chain_id: int
    after: int
    upto: int


@attrs.frozen
class ChainCoverRows:
    """The rows to be added to the index for new events."""

    places: Mapping[EventID, Place]
    links: Sequence[Link]


def place_events(
    events: Sequence[Event],
    known: Mapping[EventID, StateKey],
    places: Mapping[EventID, Place],
    lengths: Mapping[int, int],
    links: Links,
    new_chain_ids: Iterator[int],
) -> ChainCoverRows:
    """Choose places for new events; auth events must come before the events that cite them.

    `known` contains the state keys of the cited events that are already in the index, `places`
    their places, `lengths` the lengths of their chains, and `links` the links of their chains.
    Links missing from `links` only cause redundant links to be added. Cited events that have no
    place are ignored.
    """
    state_keys = {**known, **{event.event_id: (event.type, event.state_key) for event in events}}
    placed = dict(places)
    new_lengths = dict(lengths)
    all_links: dict[int, list[Link]] = {
        chain_id: list(chain_links) for chain_id, chain_links in links.items()
    }
    rows: dict[EventID, Place] = {}
    added: list[Link] = []
    for event in events:
        cited = [
            event_id
            for event_id in event.auth_events
            if event_id in placed and event_id in state_keys
        ]
        place = _next_in_chain(event, cited, state_keys, placed, new_lengths)
        if place is None:
            place = Place(next(new_chain_ids), 1)
        rows[event.event_id] = placed[event.event_id] = place
        new_lengths[place.chain_id] = place.sequence
        for target in _unreached({placed[event_id] for event_id in cited}, place, all_links):
            link = Link(place, target)
            all_links.setdefault(place.chain_id, []).append(link)
            added.append(link)
    return ChainCoverRows(rows, added)


def chains_to_load(starts: Iterable[Place]) -> Generator[Set[int], Links, Links]:
    """Collect the links of all chains that can be reached from the given places.

    Yields: sets of chain IDs, and expects to be sent the links of these chains. Returns all links.
    """
    collected: dict[int, Sequence[Link]] = {}
    needed = {place.chain_id for place in starts}
    while needed:
        loaded = yield needed
        collected.update({chain_id: loaded.get(chain_id, ()) for chain_id in needed})
        targets = {link.target.chain_id for chain_id in needed for link in collected[chain_id]}
        needed = targets - collected.keys()
    return collected


def reach_of(starts: Iterable[Place], links: Links) -> Reach:
    """Return the union of the auth chains of the events at the given places.

    An event is not part of its own auth chain, unless another of the events reaches it.
    """
    reach: Reach = {}
    waiting: Reach = {}
    for place in starts:
        _raise_reach(waiting, place.chain_id, place.sequence)
    for chain_id, sequence in waiting.items():
        if sequence > 1:
            reach[chain_id] = sequence - 1
    followed: Reach = {}
    while waiting:
        chain_id, sequence = waiting.popitem()
        done_upto = followed.get(chain_id, 0)
        if sequence <= done_upto:
            continue
        followed[chain_id] = sequence
        for link in links.get(chain_id, ()):
            if done_upto < link.origin.sequence <= sequence:
                _raise_reach(reach, link.target.chain_id, link.target.sequence)
                _raise_reach(waiting, link.target.chain_id, link.target.sequence)
    return reach


def difference_ranges(
    state_sets: Sequence[Iterable[Place]], links: Links, shared: Iterable[Place] = ()
) -> list[PlaceRange]:
    """Return the auth difference of states, each given by the places of its events.

    Places of events that all states contain may be passed once, as `shared`, instead.
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
    """Return the conflicted state subgraph, without conflicted events that no other one reaches.

    State resolution adds those itself: the full conflicted set contains all conflicted events.
    """
    reach = reach_of(conflicted, links)
    targets = [place for place in conflicted if place.sequence <= reach.get(place.chain_id, 0)]
    ranges = [
        PlaceRange(chain_id, first_sequence - 1, reach[chain_id])
        for chain_id, first_sequence in _first_above(targets, reach, links).items()
        if first_sequence <= reach.get(chain_id, 0)
    ]
    return sorted(ranges)


def _first_above(targets: Iterable[Place], reach: Reach, links: Links) -> dict[int, int]:
    """Return for each chain the first sequence whose event is a target or reaches one."""
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
    state_keys: Mapping[EventID, tuple[str, str | None]],
    placed: Mapping[EventID, Place],
    lengths: Mapping[int, int],
) -> Place | None:
    """Return the place after the state event that `event` replaces, if that is the last of its
    chain.

    A chain contains events of one state key. If an event could continue the chain of any of its
    auth events, the chains of events that nearly all others cite, such as power levels, would be
    split into many short ones.
    """
    for event_id in cited:
        place = placed[event_id]
        is_same_key = state_keys[event_id] == (event.type, event.state_key)
        if is_same_key and lengths.get(place.chain_id) == place.sequence:
            return Place(place.chain_id, place.sequence + 1)
    return None


def _unreached(targets: set[Place], place: Place, links: Links) -> list[Place]:
    """Leave out the targets that the place, or another target, reaches already."""
    known = reach_of([place], links)
    unreached = [
        target for target in sorted(targets) if target.sequence > known.get(target.chain_id, 0)
    ]
    return [target for target in unreached if not _reached_from(target, unreached, links)]


def _reached_from(target: Place, candidates: Iterable[Place], links: Links) -> bool:
    """Return whether a place is reached from one of the other candidates."""
    return any(
        reach_of([candidate], links).get(target.chain_id, 0) >= target.sequence
        for candidate in candidates
        if candidate != target
    )


def _raise_reach(reach: Reach, chain_id: int, sequence: int) -> None:
    if sequence > reach.get(chain_id, 0):
        reach[chain_id] = sequence
