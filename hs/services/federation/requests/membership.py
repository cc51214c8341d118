"""Requests that change memberships through other servers.

Spec: server-server API, Joining Rooms, Knocking upon a room, Inviting to a room, Leaving Rooms,
Third-party invites.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import attrs
import msgspec
import trio

from hs.core.canonical_json import JsonObject, encode_lenient, parse_json
from hs.core.errors import MatrixError, RemoteFault
from hs.core.events.event import Event
from hs.core.ids import RoomID, ServerName, UserID
from hs.core.versions import ROOM_VERSIONS
from hs.services.federation_client.client import (
    MAX_RESPONSE_BYTES,
    FederationClient,
    check_status,
    check_values,
    is_unrecognized,
    segment,
    uri_of,
)

MAKE_TIMEOUT_S: Final = 30.0
SEND_TIMEOUT_S: Final = 60.0
JOIN_TIMEOUT_S: Final = 180.0
"""Time for the response with the state of a room, which may have 100,000 members."""

MAX_ROOM_BYTES: Final = 100 << 20
MAX_ROOM_EVENTS: Final = 400_000

_V1: Final = "/_matrix/federation/v1"
_V2: Final = "/_matrix/federation/v2"


@attrs.frozen
class EventTemplate:
    """An unsigned event, and the version of its room; nothing in it has been checked."""

    room_version: str
    event: JsonObject


@attrs.frozen(eq=False)
class SentJoin:
    """The room that a server sent in response to a join, as PDUs; nothing has been checked.

    `event` is the join as that server has signed it, or null.
    """

    state: Sequence[bytes]
    auth_chain: Sequence[bytes]
    event: bytes


class _SentJoinBody(msgspec.Struct):
    state: list[msgspec.Raw]
    auth_chain: list[msgspec.Raw]
    event: msgspec.Raw = msgspec.Raw(b"null")
    members_omitted: bool = False


_SENT_JOIN: Final = msgspec.json.Decoder(_SentJoinBody)
_SENT_JOIN_V1: Final = msgspec.json.Decoder(tuple[int, _SentJoinBody])


async def make_membership(
    client: FederationClient,
    server: ServerName,
    membership: str,
    room_id: RoomID,
    user_id: UserID,
) -> EventTemplate:
    """Ask for the template of a member event: "join", "knock" or "leave". Raises: RemoteFault."""
    path = f"{_V1}/make_{membership}/{segment(room_id)}/{segment(user_id)}"
    query = None if membership == "leave" else {"ver": list(ROOM_VERSIONS)}
    response = await client.get(server, path, query, timeout_s=MAKE_TIMEOUT_S)
    version, event = response.get("room_version", "1"), response.get("event")
    if not isinstance(version, str) or not isinstance(event, dict):
        raise RemoteFault(server, f"its response to make_{membership} has no event", retry=False)
    return EventTemplate(version, event)


async def send_join(client: FederationClient, server: ServerName, event: Event) -> SentJoin:
    """Submit a join and return the room. Raises: RemoteFault."""
    tail = f"send_join/{segment(event.room_id)}/{segment(event.event_id)}"
    uri = uri_of(f"{_V2}/{tail}", {"omit_members": "false"})
    put = partial(_put, client, server, timeout_s=JOIN_TIMEOUT_S, max_bytes=MAX_ROOM_BYTES)
    decoder: Any = _SENT_JOIN
    try:
        body = await put(uri, event.canonical)
    except RemoteFault as fault:
        if not is_unrecognized(fault):
            raise
        body = await put(f"{_V1}/{tail}", event.canonical)
        decoder = _SENT_JOIN_V1
    return await trio.to_thread.run_sync(_sent_join, server, decoder, body)


def _sent_join(server: ServerName, decoder: Any, raw: bytes) -> SentJoin:
    check_values(server, raw)
    try:
        decoded = decoder.decode(raw)
    except (msgspec.MsgspecError, RecursionError) as fault:
        raise RemoteFault(
            server, f"its response to send_join is malformed: {fault}", retry=False
        ) from None
    body: _SentJoinBody = decoded[1] if isinstance(decoded, tuple) else decoded
    if body.members_omitted:
        raise RemoteFault(server, "it omitted members from the state of the room", retry=False)
    if len(body.state) + len(body.auth_chain) > MAX_ROOM_EVENTS:
        raise RemoteFault(server, "the state of the room has too many events", retry=False)
    return SentJoin(
        [bytes(pdu) for pdu in body.state],
        [bytes(pdu) for pdu in body.auth_chain],
        bytes(body.event),
    )


async def send_knock(client: FederationClient, server: ServerName, event: Event) -> list[Any]:
    """Submit a knock and return the stripped state of the room. Raises: RemoteFault."""
    uri = f"{_V1}/send_knock/{segment(event.room_id)}/{segment(event.event_id)}"
    response = await client.request(server, "PUT", uri, event.canonical, timeout_s=SEND_TIMEOUT_S)
    state = response.get("knock_room_state")
    return state if isinstance(state, list) else []


async def send_leave(client: FederationClient, server: ServerName, event: Event) -> None:
    """Submit a leave. Raises: RemoteFault."""
    tail = f"send_leave/{segment(event.room_id)}/{segment(event.event_id)}"
    try:
        await _put(client, server, f"{_V2}/{tail}", event.canonical)
    except RemoteFault as fault:
        if not is_unrecognized(fault):
            raise
        await _put(client, server, f"{_V1}/{tail}", event.canonical)


async def send_invite(
    client: FederationClient, server: ServerName, event: Event, room_state: Sequence[JsonObject]
) -> JsonObject:
    """Submit an invite and return it as the server has signed it. Raises: RemoteFault."""
    tail = f"invite/{segment(event.room_id)}/{segment(event.event_id)}"
    body = {
        "event": event.pdu,
        "room_version": event.rules.identifier,
        "invite_room_state": list(room_state),
    }
    try:
        raw = await _put(client, server, f"{_V2}/{tail}", encode_lenient(body))
    except RemoteFault as fault:
        # Servers that only know the older form serve rooms of the first two versions.
        if not is_unrecognized(fault) or event.rules.event_id_is_hash:
            raise
        body = {**event.pdu, "unsigned": {"invite_room_state": list(room_state)}}
        raw = await _put(client, server, f"{_V1}/{tail}", encode_lenient(body))
    response = _parsed(raw)
    if isinstance(response, list) and len(response) == 2:
        response = response[1]
    signed = response.get("event") if isinstance(response, dict) else None
    if not isinstance(signed, dict):
        raise RemoteFault(server, "its response to an invite has no event", retry=False)
    return signed


async def exchange_third_party_invite(
    client: FederationClient, server: ServerName, room_id: RoomID, event: Mapping[str, Any]
) -> None:
    """Ask the server of the inviter for the invite of a third-party invite. Raises: RemoteFault."""
    uri = f"{_V1}/exchange_third_party_invite/{segment(room_id)}"
    await client.request(server, "PUT", uri, encode_lenient(event), timeout_s=SEND_TIMEOUT_S)


async def _put(
    client: FederationClient,
    server: ServerName,
    uri: str,
    body: bytes,
    timeout_s: float = SEND_TIMEOUT_S,
    max_bytes: int = MAX_RESPONSE_BYTES,
) -> bytes:
    """Return the body of a successful response. Raises: RemoteFault."""
    response = await client.exchange(
        server, "PUT", uri, body, timeout_s=timeout_s, max_bytes=max_bytes
    )
    check_status(server, response)
    return response.body


def _parsed(raw: bytes) -> Any:
    try:
        return parse_json(raw)
    except MatrixError:
        return None
