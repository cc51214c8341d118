"""Signed member events that other servers submit one by one: joins, knocks, leaves and invites."""

import attrs

from hs.core.canonical_json import JsonObject
from hs.core.errors import BadJson, Forbidden, InvalidEvent, InvalidEventJson, InvalidParam
from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.events.format import parse_pdu
from hs.core.ids import EventID, RoomID, ServerName, server_of
from hs.core.versions import RoomVersion


@attrs.frozen
class ExpectedEvent:
    """The room ID and event ID in the path of a request, and the membership that it is for."""

    room_id: RoomID
    event_id: EventID
    membership: str


def parse_submitted(
    origin: ServerName, pdu: JsonObject, rules: RoomVersion, expected: ExpectedEvent
) -> Event:
    """Return a submitted member event; its signatures are not verified.

    Raises: Forbidden, if the origin has not hashed and signed it, or its sender belongs to another
        server; BadJson, InvalidParam.
    """
    event = _parse_signed(origin, pdu, rules)
    membership = expected.membership
    if event.type != event_types.MEMBER or event.content.get("membership") != membership:
        raise InvalidParam(f"The event must be an m.room.member with the membership {membership}")
    if event.room_id != expected.room_id or event.event_id != expected.event_id:
        raise InvalidParam("The event must have the room ID and event ID of the path")
    if server_of(event.sender) != origin:
        raise Forbidden("The sender of the event must belong to your server")
    return event


def _parse_signed(origin: ServerName, pdu: JsonObject, rules: RoomVersion) -> Event:
    signatures = pdu.get("signatures")
    if not isinstance(signatures, dict) or not signatures.get(origin):
        raise Forbidden("The event is not signed by your server")
    if not isinstance(pdu.get("hashes"), dict):
        raise Forbidden("The event has no hashes, so your server cannot have signed it")
    try:
        return parse_pdu(pdu, rules)
    except InvalidEventJson as fault:
        raise BadJson(f"The event is not valid: {fault}") from None
    except InvalidEvent as fault:
        raise InvalidParam(f"The event is not valid: {fault}") from None
