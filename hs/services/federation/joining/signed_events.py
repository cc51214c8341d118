"""Signed events that other servers submit one by one: joins, knocks, leaves and invites."""

from hs.core.canonical_json import JsonObject
from hs.core.errors import BadJson, Forbidden, InvalidEvent, InvalidEventJson, InvalidParam
from hs.core.events.event import Event
from hs.core.events.format import parse_pdu
from hs.core.ids import ServerName
from hs.core.versions import RoomVersion


def parse_submitted(origin: ServerName, pdu: JsonObject, rules: RoomVersion) -> Event:
    """Return a submitted event; its signatures are not verified.

    Raises: Forbidden, if the origin has not hashed and signed it; BadJson, InvalidParam.
    """
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
