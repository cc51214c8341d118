"""Receipts and read markers."""

from typing import Any

import attrs

from hs.apis.web.auth import USER_OR_GUEST
from hs.apis.web.render import Empty
from hs.apis.web.request import path, whole_body
from hs.apis.web.route import route
from hs.core.canonical_json import JsonObject
from hs.core.errors import InvalidParam
from hs.core.ids import EventID, RoomID, parse_event_id
from hs.core.requester import Requester
from hs.services.ephemeral.read_markers import ReadingService


@attrs.frozen
class SetReceiptRequest:
    """POST /rooms/{roomId}/receipt/{receiptType}/{eventId}."""

    requester: Requester
    room_id: RoomID = path()
    receipt_type: str = path()
    event_id: EventID = path(parse=parse_event_id)
    content: JsonObject = whole_body(factory=dict)


@attrs.frozen
class SetReadMarkersRequest:
    """POST /rooms/{roomId}/read_markers."""

    requester: Requester
    room_id: RoomID = path()
    markers: JsonObject = whole_body(factory=dict)


@attrs.frozen
class ReceiptsApi:
    """Endpoints of receipts and read markers."""

    reading: ReadingService

    @route(
        "POST",
        "/_matrix/client/v3/rooms/{room_id}/receipt/{receipt_type}/{event_id}",
        auth=USER_OR_GUEST,
    )
    async def set_receipt(self, request: SetReceiptRequest) -> Empty:
        """Spec: client-server API, Receipts."""
        await self.reading.set_receipt(
            request.requester,
            request.room_id,
            request.receipt_type,
            request.event_id,
            _thread_id(request.content),
        )
        return Empty()

    @route("POST", "/_matrix/client/v3/rooms/{room_id}/read_markers", auth=USER_OR_GUEST)
    async def set_read_markers(self, request: SetReadMarkersRequest) -> Empty:
        """Spec: client-server API, Fully read markers."""
        await self.reading.set_markers(request.requester, request.room_id, request.markers)
        return Empty()


def _thread_id(content: JsonObject) -> Any:
    thread_id = content.get("thread_id")
    if "thread_id" in content and thread_id is None:
        raise InvalidParam("thread_id must be a non-empty string")
    return thread_id
