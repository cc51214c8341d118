"""A second implementation of state resolution, written literally after the specification.

It is slow, and shares only events and authorisation rules with the server.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from hs.core.auth.power_levels import PowerLevels
from hs.core.auth.rules import check_auth
from hs.core.errors import Forbidden
from hs.core.events.event import Event
from hs.core.events.event_types import StateKey
from hs.core.ids import EventID

Events: TypeAlias = Mapping[EventID, Event]
State: TypeAlias = dict[StateKey, Event]


def chain(event: Event, events: Events) -> set[Event]:
    parents = [events[event_id] for event_id in event.auth_events]
    return set(parents).union(*(chain(parent, events) for parent in parents))


def split(states: Sequence[State]) -> tuple[State, set[Event]]:
    unconflicted: State = {}
    conflicted: set[Event] = set()
    for key in {key for state in states for key in state}:
        values = {state.get(key) for state in states}
        if len(values) == 1:
            unconflicted[key] = states[0][key]
        else:
            conflicted |= {value for value in values if value is not None}
    return unconflicted, conflicted


def auth_difference(states: Sequence[State], events: Events) -> set[Event]:
    chains = [set().union(*(chain(event, events) for event in state.values())) for state in states]
    return set().union(*chains) - chains[0].intersection(*chains)


def subgraph(conflicted: set[Event], events: Events) -> set[Event]:
    return {
        event
        for start in conflicted
        for event in chain(start, events) | {start}
        for end in conflicted
        if (start != end and end in chain(start, events))
        and (event in (start, end) or end in chain(event, events))
    }


def allowed(event: Event, state: State) -> bool:
    try:
        check_auth(event, state)
    except Forbidden:
        return False
    return True


def cited(event: Event, event_type: str, events: Events) -> Event | None:
    if event_type == "m.room.create" and event.rules.room_id_is_create_hash:
        return events[EventID("$" + event.room_id[1:])]
    cited_events = [
        events[event_id] for event_id in event.auth_events if events[event_id].type == event_type
    ]
    return cited_events[0] if cited_events else None


def power(event: Event, events: Events) -> int:
    create = cited(event, "m.room.create", events) or event
    levels = cited(event, "m.room.power_levels", events)
    return PowerLevels.of(levels, create, event.rules).of_user(event.sender)


def power_order(chosen: set[Event], events: Events) -> list[Event]:
    ordered: list[Event] = []
    while len(ordered) < len(chosen):
        candidates = [
            event
            for event in chosen - set(ordered)
            if not ({events[event_id] for event_id in event.auth_events} & chosen) - set(ordered)
        ]
        ordered.append(
            min(candidates, key=lambda e: (-power(e, events), e.origin_server_ts, e.event_id))
        )
    return ordered


def mainline_of(levels: Event | None, events: Events) -> list[Event]:
    if levels is None:
        return []
    return [levels, *mainline_of(cited(levels, "m.room.power_levels", events), events)]


def mainline_rank(
    event: Event, mainline: list[Event], events: Events
) -> tuple[float, int, EventID]:
    position = math.inf
    for levels in mainline_of(cited(event, "m.room.power_levels", events), events):
        if levels in mainline:
            position = mainline.index(levels)
            break
    return -position, event.origin_server_ts, event.event_id


def iterate(state: State, ordered: list[Event], events: Events, rejected: set[EventID]) -> State:
    state = dict(state)
    for event in ordered:
        auth_state = dict(state)
        usable = [events[event_id] for event_id in event.auth_events if event_id not in rejected]
        create = cited(event, "m.room.create", events)
        if create is not None:
            usable.append(create)
        for auth_event in usable:
            auth_state.setdefault((auth_event.type, auth_event.state_key or ""), auth_event)
        if allowed(event, auth_state):
            state[event.type, event.state_key or ""] = event
    return state


def is_power(event: Event) -> bool:
    if event.type == "m.room.member":
        return event.content["membership"] in ("leave", "ban") and event.sender != event.state_key
    return event.type in ("m.room.power_levels", "m.room.join_rules")


def chain_within(event: Event, full: set[Event], events: Events) -> set[Event]:
    """Return an event and its auth chain, followed only within the full conflicted set."""
    parents = {events[event_id] for event_id in event.auth_events} & full
    return {event}.union(*(chain_within(parent, full, events) for parent in parents))


def resolve_v2(states: Sequence[State], events: Events, rejected: set[EventID]) -> State:
    unconflicted, conflicted = split(states)
    full = conflicted | auth_difference(states, events)
    version_2_1 = next(iter(events.values())).rules.state_resolution == "v2.1"
    if version_2_1:
        full |= subgraph(conflicted, events)
    chosen: set[Event] = set().union(
        *(chain_within(event, full, events) for event in full if is_power(event))
    )
    start = {} if version_2_1 else unconflicted
    partial = iterate(start, power_order(chosen, events), events, rejected)
    mainline = mainline_of(partial.get(("m.room.power_levels", "")), events)
    rest = sorted(full - chosen, key=lambda event: mainline_rank(event, mainline, events))
    return {**iterate(partial, rest, events, rejected), **unconflicted}


def sha1(event: Event) -> int:
    return int(hashlib.sha1(event.event_id.encode()).hexdigest(), 16)


def resolve_v1(states: Sequence[State]) -> State:
    candidates: dict[StateKey, list[Event]] = {}
    for state in states:
        for key, event in state.items():
            if event not in candidates.setdefault(key, []):
                candidates[key].append(event)
    resolved = {key: events[0] for key, events in candidates.items() if len(events) == 1}
    conflicts = {key: events for key, events in candidates.items() if len(events) > 1}
    for event_type in ("m.room.power_levels", "m.room.join_rules", "m.room.member"):
        before = dict(resolved)
        for key, events in conflicts.items():
            if key[0] == event_type:
                events.sort(key=lambda event: (event.depth, -sha1(event)))
                resolved[key] = events[0]
                for event in events[1:]:
                    if not allowed(event, {**before, key: resolved[key]}):
                        break
                    resolved[key] = event
    before = dict(resolved)
    for key, events in conflicts.items():
        if key not in resolved:
            passing = [event for event in events if allowed(event, before)]
            if passing:
                resolved[key] = max(passing, key=lambda event: (event.depth, -sha1(event)))
    return resolved


def resolve(
    states: Sequence[Mapping[StateKey, EventID]], events: Events, rejected: set[EventID]
) -> dict[StateKey, EventID]:
    full = [{key: events[event_id] for key, event_id in state.items()} for state in states]
    if next(iter(events.values())).rules.state_resolution == "v1":
        resolved = resolve_v1(full)
    else:
        resolved = resolve_v2(full, events, rejected)
    return {key: event.event_id for key, event in resolved.items()}
