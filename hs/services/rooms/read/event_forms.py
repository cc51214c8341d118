"""Other forms of rendered events, which filters of clients select; both are slow."""

from collections.abc import Iterable

import orjson

from hs.core.events.redaction import redact
from hs.core.filters import project
from hs.core.property_paths import PropertyPath
from hs.services.rooms.store.stored_event import StoredEvent


def with_fields(rendered: bytes, fields: Iterable[PropertyPath]) -> bytes:
    """Return a rendered event with only the fields of a filter."""
    return orjson.dumps(project(orjson.loads(rendered), fields))


def federation_form(stored: StoredEvent, rendered: bytes) -> bytes:
    """Return an event in the federation format, with `unsigned` of the client format; slow.

    The event ID and room ID are added, as PDUs of newer room versions lack them and clients cannot
    compute them.
    """
    event = redact(stored.event) if stored.redacted_by is not None else stored.event
    return orjson.dumps(
        {
            **event.pdu,
            "event_id": event.event_id,
            "room_id": event.room_id,
            "unsigned": orjson.loads(rendered)["unsigned"],
        }
    )
