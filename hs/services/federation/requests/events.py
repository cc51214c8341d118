"""Requests for the events of a room and for its state.

PDUs are returned as they were received, without any check.

Spec: server-server API, PDUs; Backfilling and retrieving missing events; Retrieving events.
"""

from collections.abc import Callable, Collection, Sequence, Set
from itertools import chain
from typing import Any, Final, NamedTuple

import msgspec
import orjson
import trio

from hs.core.canonical_json import JsonObject, parse_json
from hs.core.errors import InvalidEvent, MatrixError, RemoteFault
from hs.core.events.event import Event
from hs.core.ids import EventID, RoomID, ServerName
from hs.services.federation_client.client import (
    FederationClient,
    check_status,
    check_values,
    segment,
    uri_of,
)

PREFIX: Final = "/_matrix/federation/v1"
EVENTS_TIMEOUT_S: Final = 30.0
STATE_TIMEOUT_S: Final = 60.0
MAX_EVENT_RESPONSE_BYTES: Final = 1 << 18
MAX_EVENTS_RESPONSE_BYTES: Final = 8 << 20
MAX_STATE_IDS_BYTES: Final = 16 << 20
MAX_STATE_BYTES: Final = 64 << 20
MAX_STATE_IDS: Final = 200_000

Pdu = Any
ParsePdu = Callable[[Pdu], Event]
"""Parses a PDU. Raises: InvalidEvent."""


class _StateBody(msgspec.Struct):
    pdus: list[msgspec.Raw]
    auth_chain: list[msgspec.Raw]


_STATE: Final = msgspec.json.Decoder(_StateBody)


class StateIds(NamedTuple):
    """The IDs of the state before an event, and of its auth chain."""

    state: list[EventID]
    auth_chain: list[EventID]


async def get_missing_events(
    client: FederationClient,
    server: ServerName,
    room_id: RoomID,
    *,
    earliest: Collection[EventID],
    latest: Collection[EventID],
    limit: int,
) -> list[Pdu]:
    """Return events before `latest` and not before `earliest`. Raises: RemoteFault."""
    body = orjson.dumps(
        {
            "earliest_events": sorted(earliest),
            "latest_events": sorted(latest),
            "limit": limit,
        },
        option=orjson.OPT_SORT_KEYS,
    )
    response = await client.request(
        server,
        "POST",
        uri_of(f"{PREFIX}/get_missing_events/{segment(room_id)}"),
        body,
        timeout_s=EVENTS_TIMEOUT_S,
        max_bytes=MAX_EVENTS_RESPONSE_BYTES,
    )
    return _pdus_in(server, response, "events")[:limit]


async def get_event(client: FederationClient, server: ServerName, event_id: EventID) -> Pdu:
    """Return one event. Raises: RemoteFault."""
    response = await client.get(
        server,
        f"{PREFIX}/event/{segment(event_id)}",
        timeout_s=EVENTS_TIMEOUT_S,
        max_bytes=MAX_EVENT_RESPONSE_BYTES,
    )
    pdus = _pdus_in(server, response, "pdus")
    if not pdus:
        raise RemoteFault(server, "its response contains no event", retry=False)
    return pdus[0]


async def get_event_auth(
    client: FederationClient, server: ServerName, room_id: RoomID, event_id: EventID
) -> list[Pdu]:
    """Return the auth chain of an event. Raises: RemoteFault."""
    response = await client.get(
        server,
        f"{PREFIX}/event_auth/{segment(room_id)}/{segment(event_id)}",
        timeout_s=EVENTS_TIMEOUT_S,
        max_bytes=MAX_EVENTS_RESPONSE_BYTES,
    )
    return _pdus_in(server, response, "auth_chain")


async def get_state_ids(
    client: FederationClient, server: ServerName, room_id: RoomID, event_id: EventID
) -> StateIds:
    """Return the IDs of the state before an event, and of its auth chain. Raises: RemoteFault."""
    response = await client.get(
        server,
        f"{PREFIX}/state_ids/{segment(room_id)}",
        {"event_id": event_id},
        timeout_s=STATE_TIMEOUT_S,
        max_bytes=MAX_STATE_IDS_BYTES,
    )
    return StateIds(
        _ids_in(server, response, "pdu_ids"), _ids_in(server, response, "auth_chain_ids")
    )


async def get_state(
    client: FederationClient,
    server: ServerName,
    room_id: RoomID,
    event_id: EventID,
    *,
    wanted: Collection[EventID],
    parse: ParsePdu,
) -> dict[EventID, Event]:
    """Return those events that are wanted of the state before an event and of its auth chain.

    One PDU after the other is parsed, and only what is wanted is kept: the response may be large.
    Raises: RemoteFault.
    """
    response = await client.exchange(
        server,
        "GET",
        uri_of(f"{PREFIX}/state/{segment(room_id)}", {"event_id": event_id}),
        None,
        timeout_s=STATE_TIMEOUT_S,
        max_bytes=MAX_STATE_BYTES,
    )
    check_status(server, response)
    return await trio.to_thread.run_sync(
        _events_of_state, server, response.body, frozenset(wanted), parse
    )


def _events_of_state(
    server: ServerName, body: bytes, wanted: Set[EventID], parse: ParsePdu
) -> dict[EventID, Event]:
    check_values(server, body)
    try:
        state = _STATE.decode(body)
    except (msgspec.MsgspecError, RecursionError) as fault:
        raise RemoteFault(server, f"its state is malformed: {fault}", retry=False) from None
    events: dict[EventID, Event] = {}
    for raw in chain(state.pdus, state.auth_chain):
        try:
            event = parse(parse_json(bytes(raw)))
        except (MatrixError, InvalidEvent):
            continue
        if event.event_id in wanted:
            events[event.event_id] = event
    return events


async def backfill(
    client: FederationClient,
    server: ServerName,
    room_id: RoomID,
    event_ids: Sequence[EventID],
    limit: int,
) -> list[Pdu]:
    """Return events at and before the given ones. Raises: RemoteFault."""
    response = await client.get(
        server,
        f"{PREFIX}/backfill/{segment(room_id)}",
        {"v": event_ids, "limit": limit},
        timeout_s=EVENTS_TIMEOUT_S,
        max_bytes=MAX_EVENTS_RESPONSE_BYTES,
    )
    return _pdus_in(server, response, "pdus")[:limit]


def _pdus_in(server: ServerName, response: JsonObject, field: str) -> list[Pdu]:
    pdus = response.get(field)
    if not isinstance(pdus, list):
        raise RemoteFault(server, f"its response has no list {field}", retry=False)
    return pdus


def _ids_in(server: ServerName, response: JsonObject, field: str) -> list[EventID]:
    ids = response.get(field)
    if not isinstance(ids, list) or len(ids) > MAX_STATE_IDS:
        raise RemoteFault(
            server, f"its response has no list {field} of at most {MAX_STATE_IDS} IDs"
        )
    return [EventID(each) for each in ids if _may_be_event_id(each)]


def _may_be_event_id(value: object) -> bool:
    return isinstance(value, str) and value[:1] == "$" and len(value) <= 255 and "\0" not in value
