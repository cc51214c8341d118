"""Requests for the event closest to a timestamp. Spec: server-server API, Retrieving events."""

from typing import Final, Literal

from hs.core.errors import InvalidParam, RemoteFault
from hs.core.ids import EventID, RoomID, ServerName, parse_event_id
from hs.services.federation_client.client import FederationClient, segment

TIMEOUT_S: Final = 8.0
MAX_BYTES: Final = 16 << 10


async def get_event_at_time(
    client: FederationClient,
    server: ServerName,
    room_id: RoomID,
    ts: int,
    direction: Literal["b", "f"],
) -> tuple[EventID, int] | None:
    """Return the ID and timestamp of the event closest to a time; None if the server has none.

    Raises: RemoteFault.
    """
    path = f"/_matrix/federation/v1/timestamp_to_event/{segment(room_id)}"
    query = {"ts": ts, "dir": direction}
    try:
        response = await client.get(server, path, query, timeout_s=TIMEOUT_S, max_bytes=MAX_BYTES)
    except RemoteFault as fault:
        if fault.error is not None and fault.error.status == 404:
            return None
        raise
    found_ts = response.get("origin_server_ts")
    try:
        event_id = parse_event_id(response.get("event_id"))
    except InvalidParam:
        event_id = None
    if event_id is None or type(found_ts) is not int:
        raise RemoteFault(server, "its response has no event_id and origin_server_ts", retry=False)
    return event_id, found_ts
