"""The chain-cover index of auth chains, and its extension when state events are stored.

Every state event has a place (chain, sequence) in `auth_chains`; links between chains are in
`auth_chain_links`. A chain's ID is the stream ID of the event that starts it. The algorithm is in
`hs.core.stateres.chain_cover`; this module loads what it needs and stores what it returns.

Rules:

- `index_chains` runs in the transaction that stores the events, so a state event and its place
  appear together. Its auth events were stored before it or are in the same batch.
- Places and links are only added, never changed, so they can be cached without invalidation.
- Events of a room are stored by one process, its owner. Two units therefore never extend the same
  chain at once; if they did, UNIQUE (chain_id, sequence) would reject one of them.
- Readers load the links of whole chains: a missing link would make an auth chain too small.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence, Set
from typing import TypeVar

from hs.core.events.event import Event
from hs.core.events.event_types import StateKey
from hs.core.ids import EventID
from hs.core.stateres.chain_cover import Link, Links, Place, PlaceRange, place_events
from hs.storage.database import Tx
from hs.storage.dialect import sql
from hs.storage.rows import InsertRows

T = TypeVar("T")

PLACES = sql(
    lambda d: (
        "SELECT event_id, chain_id, sequence FROM auth_chains "
        f"WHERE {d.any_of('event_id', 1, 'text')}"
    )
)
CITED = sql(
    lambda d: (
        "SELECT a.event_id, a.chain_id, a.sequence, e.type, e.state_key, "
        "(SELECT max(c.sequence) FROM auth_chains c WHERE c.chain_id = a.chain_id) "
        "FROM auth_chains a JOIN events e ON e.event_id = a.event_id "
        f"WHERE {d.any_of('a.event_id', 1, 'text')}"
    )
)
LINKS = sql(
    lambda d: (
        "SELECT origin_chain, origin_sequence, target_chain, target_sequence "
        f"FROM auth_chain_links WHERE {d.any_of('origin_chain', 1, 'bigint')}"
    )
)
EVENTS_IN = sql(
    lambda d: (
        "SELECT a.event_id FROM auth_chains a "
        f"JOIN {d.unnest('ranges', 'chain_id bigint, low bigint, high bigint')} "
        "ON a.chain_id = ranges.chain_id "
        "AND a.sequence > ranges.low AND a.sequence <= ranges.high"
    )
)
INSERT_PLACES = InsertRows(
    "auth_chains",
    "stream_id bigint, event_id text, room_id text, chain_id bigint, sequence bigint",
)
INSERT_LINKS = InsertRows(
    "auth_chain_links",
    "origin_chain bigint, origin_sequence bigint, target_chain bigint, target_sequence bigint",
)


async def index_chains(tx: Tx, events: Sequence[tuple[int, Event]]) -> None:
    """Add new state events, given with their stream IDs, to the index.

    Each event must follow those of its auth events that are in the same batch. Auth events that
    have no place in the index are ignored.
    """
    new = {event.event_id for _, event in events}
    missing = {cited for _, event in events for cited in event.auth_events if cited not in new}
    known_keys: dict[EventID, StateKey] = {}
    placed: dict[EventID, Place] = {}
    lengths: dict[int, int] = {}
    for row in await tx.fetch(CITED, sorted(missing)) if missing else ():
        event_id = EventID(row[0])
        known_keys[event_id] = (row[3], row[4])
        placed[event_id] = Place(row[1], row[2])
        lengths[row[1]] = row[5]
    rows = place_events(
        [event for _, event in events],
        known_keys,
        placed,
        lengths,
        await links_of(tx, lengths) if lengths else {},
        iter([stream_id for stream_id, _ in events]),
    )
    places = ((stream_id, event, rows.places[event.event_id]) for stream_id, event in events)
    await tx.insert_rows(
        INSERT_PLACES,
        [
            (stream_id, event.event_id, event.room_id, place.chain_id, place.sequence)
            for stream_id, event, place in places
        ],
    )
    await tx.insert_rows(
        INSERT_LINKS,
        [
            (link.origin.chain_id, link.origin.sequence, link.target.chain_id, link.target.sequence)
            for link in rows.links
        ],
    )


async def places_of(tx: Tx, event_ids: Sequence[EventID]) -> dict[EventID, Place]:
    """Return the places of those events that are in the index."""
    rows = await tx.fetch(PLACES, list(event_ids))
    return {EventID(row[0]): Place(row[1], row[2]) for row in rows}


async def links_of(tx: Tx, chain_ids: Iterable[int]) -> dict[int, list[Link]]:
    """Return the links that start in these chains, by chain."""
    links: dict[int, list[Link]] = {}
    for row in await tx.fetch(LINKS, sorted(chain_ids)):
        links.setdefault(row[0], []).append(Link(Place(row[0], row[1]), Place(row[2], row[3])))
    return links


async def load_links(tx: Tx, steps: Generator[Set[int], Links, T]) -> T:
    """Run a generator that asks for the links of chains (`chains_to_load`); return its result."""
    try:
        needed = next(steps)
        while True:
            loaded: Mapping[int, Sequence[Link]] = await links_of(tx, needed)
            needed = steps.send(loaded)
    except StopIteration as stop:
        result: T = stop.value
        return result


async def events_in(tx: Tx, ranges: Sequence[PlaceRange]) -> set[EventID]:
    """Return the events whose places are in the ranges."""
    if not ranges:
        return set()
    rows = await tx.fetch(
        EVENTS_IN,
        [chain_range.chain_id for chain_range in ranges],
        [chain_range.after for chain_range in ranges],
        [chain_range.upto for chain_range in ranges],
    )
    return {EventID(row[0]) for row in rows}
