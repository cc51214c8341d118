"""The chain-cover index of auth chains: its rows, and keeping it while state events are stored.

A chain has the number of the event that starts it.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence, Set
from typing import TypeVar

from hs.core.events.event import Event
from hs.core.events.event_types import StateKey
from hs.core.ids import EventID
from hs.core.stateres.chain_cover import Link, Links, Place, PlaceRange, place_events
from hs.storage.database import Tx
from hs.storage.dialect import sql
from hs.storage.rows import Rows

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
        f"JOIN {d.unnest('wanted', 'chain_id bigint, low bigint, high bigint')} "
        "ON a.chain_id = wanted.chain_id "
        "AND a.sequence > wanted.low AND a.sequence <= wanted.high"
    )
)
INSERT_PLACES = Rows(
    "auth_chains",
    "stream_id bigint, event_id text, room_id text, chain_id bigint, sequence bigint",
)
INSERT_LINKS = Rows(
    "auth_chain_links",
    "origin_chain bigint, origin_sequence bigint, target_chain bigint, target_sequence bigint",
)


async def index_chains(tx: Tx, events: Sequence[tuple[int, Event]]) -> None:
    """Find places in the index for new state events, each after its auth events."""
    new = {event.event_id for _, event in events}
    wanted = {cited for _, event in events for cited in event.auth_events if cited not in new}
    known: dict[EventID, StateKey] = {}
    placed: dict[EventID, Place] = {}
    lengths: dict[int, int] = {}
    for row in await tx.fetch(CITED, sorted(wanted)) if wanted else ():
        event_id = EventID(row[0])
        known[event_id] = (row[3], row[4])
        placed[event_id] = Place(row[1], row[2])
        lengths[row[1]] = row[5]
    rows = place_events(
        [event for _, event in events],
        known,
        placed,
        lengths,
        await links_of(tx, lengths) if lengths else {},
        iter([number for number, _ in events]),
    )
    places = ((number, event, rows.places[event.event_id]) for number, event in events)
    await tx.insert_rows(
        INSERT_PLACES,
        [
            (number, event.event_id, event.room_id, place.chain_id, place.sequence)
            for number, event, place in places
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
    """Give the places of those events that are in the index."""
    rows = await tx.fetch(PLACES, list(event_ids))
    return {EventID(row[0]): Place(row[1], row[2]) for row in rows}


async def links_of(tx: Tx, chain_ids: Iterable[int]) -> dict[int, list[Link]]:
    """Give the links of chains, by the chain they start in."""
    links: dict[int, list[Link]] = {}
    for row in await tx.fetch(LINKS, sorted(chain_ids)):
        links.setdefault(row[0], []).append(Link(Place(row[0], row[1]), Place(row[2], row[3])))
    return links


async def load_links(tx: Tx, steps: Generator[Set[int], Links, T]) -> T:
    """Answer steps that ask for the links of chains, and give their result."""
    try:
        needed = next(steps)
        while True:
            loaded: Mapping[int, Sequence[Link]] = await links_of(tx, needed)
            needed = steps.send(loaded)
    except StopIteration as stop:
        result: T = stop.value
        return result


async def events_in(tx: Tx, ranges: Sequence[PlaceRange]) -> set[EventID]:
    """Give the events whose places are in ranges."""
    if not ranges:
        return set()
    rows = await tx.fetch(
        EVENTS_IN,
        [each.chain_id for each in ranges],
        [each.after for each in ranges],
        [each.upto for each in ranges],
    )
    return {EventID(row[0]) for row in rows}
