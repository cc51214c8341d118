"""Member events rendered where they are read: a unit of work for rooms with many members."""

from collections.abc import Sequence

import orjson

from hs.core.events.event import RAW_EVENT
from hs.core.ids import EventID, RoomID
from hs.storage.database import Tx
from hs.storage.rooms import events
from hs.storage.rooms.stored_pdus import expand_pdu


async def render_members(
    tx: Tx, room_id: RoomID, stream_ids: Sequence[int], now_ms: int
) -> tuple[list[bytes], list[EventID]]:
    """Return the JSON of member events of a room, and the IDs of redacted and sticky ones."""
    rendered: list[bytes] = []
    others: list[EventID] = []
    room = orjson.dumps(room_id)
    decode = RAW_EVENT.decode
    for event_id, redacted_by, stored_pdu in await events.find_stored_pdus(tx, stream_ids):
        if redacted_by is not None:
            others.append(EventID(event_id))
            continue
        raw = decode(expand_pdu(stored_pdu))
        if bytes(raw.sticky):
            others.append(EventID(event_id))
            continue
        sent_ms = raw.origin_server_ts
        rendered.append(
            b'{"type":"m.room.member","sender":%b,"content":%b,"event_id":%b,'
            b'"origin_server_ts":%d,"state_key":%b,"room_id":%b,"unsigned":{"age":%d}}'
            % (
                raw.sender,
                raw.content,
                orjson.dumps(event_id),
                sent_ms,
                raw.state_key,
                room,
                now_ms - sent_ms,
            )
        )
    return rendered, others
