"""Events for tests of pure functions: only the given fields, without hashes and signatures."""

from collections.abc import Iterable, Mapping
from typing import Any

from hs.core.canonical_json import encode_lenient
from hs.core.events.event import Event
from hs.core.ids import EventID, RoomID, UserID
from hs.core.versions import ROOM_VERSIONS, RoomVersion


def plain_event(
    event_type: str,
    sender: str,
    content: Mapping[str, Any],
    *,
    event_id: str = "$event",
    room_id: str = "!room:here",
    state_key: str | None = None,
    depth: int = 1,
    origin_server_ts: int = 0,
    prev_events: Iterable[str] = (),
    auth_events: Iterable[str] = (),
    rules: RoomVersion = ROOM_VERSIONS["11"],
) -> Event:
    """Return an event; its PDU contains the fields that pure functions read."""
    prevs = tuple(EventID(event_id) for event_id in prev_events)
    auths = tuple(EventID(event_id) for event_id in auth_events)
    pdu: dict[str, Any] = {
        "type": event_type,
        "room_id": room_id,
        "sender": sender,
        "content": dict(content),
        "depth": depth,
        "origin_server_ts": origin_server_ts,
        "prev_events": list(prevs),
        "auth_events": list(auths),
    }
    if state_key is not None:
        pdu["state_key"] = state_key
    if rules.room_id_is_create_hash and event_type == "m.room.create":
        del pdu["room_id"]
    return Event(
        event_id=EventID(event_id),
        room_id=RoomID(room_id),
        type=event_type,
        sender=UserID(sender),
        state_key=state_key,
        content=content,
        depth=depth,
        origin_server_ts=origin_server_ts,
        prev_events=prevs,
        auth_events=auths,
        rules=rules,
        pdu=pdu,
        canonical=encode_lenient(pdu),
    )
