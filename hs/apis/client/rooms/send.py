"""Sending messages, state and redactions."""

import attrs

from hs.apis.web.auth import USER, USER_OR_GUEST
from hs.apis.web.limits import WorkClass
from hs.apis.web.request import body, event_content, path, query
from hs.apis.web.route import route
from hs.core.canonical_json import JsonObject
from hs.core.ids import EventID, RoomID, parse_event_id
from hs.core.requester import Requester
from hs.services.rooms.sending.delayed_events import (
    DelayedEventRequest,
    DelayedEvents,
    DelayTooLong,
    UnstableDelayTooLong,
)
from hs.services.rooms.sending.event_sending import EventSender
from hs.services.rooms.sending.related_redactions import RelatedRedactions

_ROOM = "/_matrix/client/v3/rooms/{room_id}"
_DELAY = "org.matrix.msc4140.delay"
STICKY_DURATION = "org.matrix.msc4354.sticky_duration_ms"


@attrs.frozen
class SendMessageRequest:
    """PUT /rooms/{roomId}/send/{eventType}/{txnId}."""

    requester: Requester
    room_id: RoomID = path()
    event_type: str = path()
    txn_id: str | None = path(default=None)
    ts: int | None = query(default=None)
    delay: int | None = query(default=None, name=_DELAY)
    sticky_ms: int | None = query(default=None, name=STICKY_DURATION)
    content: JsonObject = event_content()


@attrs.frozen
class SetRoomStateRequest:
    """PUT /rooms/{roomId}/state/{eventType}/{stateKey}."""

    requester: Requester
    room_id: RoomID = path()
    event_type: str = path()
    state_key: str = path(default="")
    ts: int | None = query(default=None)
    delay: int | None = query(default=None, name=_DELAY)
    content: JsonObject = event_content()


@attrs.frozen
class RedactEventRequest:
    """PUT /rooms/{roomId}/redact/{eventId}/{txnId}."""

    requester: Requester
    room_id: RoomID = path()
    event_id: EventID = path(parse=parse_event_id)
    txn_id: str | None = path(default=None)
    reason: str | None = body(default=None)
    rel_types: list[str] = body(name="with_rel_types", factory=list)
    unstable_rel_types: list[str] = body(name="org.matrix.msc3912.with_relations", factory=list)


@attrs.frozen
class SendEventResponse:
    """The sent event."""

    event_id: EventID


@attrs.frozen
class SendDelayedResponse:
    """The scheduled delayed event."""

    delay_id: str


@attrs.frozen
class SendApi:
    """Endpoints that send events."""

    sending: EventSender
    delayed: DelayedEvents
    redacting: RelatedRedactions

    @route(
        "PUT",
        f"{_ROOM}/send/{{event_type}}/{{txn_id}}",
        auth=USER_OR_GUEST,
        rate="message",
        work=WorkClass.SEND,
    )
    @route(
        "POST",
        f"{_ROOM}/send/{{event_type}}",
        auth=USER_OR_GUEST,
        rate="message",
        work=WorkClass.SEND,
    )
    async def send_message(
        self, request: SendMessageRequest
    ) -> SendEventResponse | SendDelayedResponse:
        """Spec: client-server API, Sending events to a room; MSC4140, MSC4354."""
        if request.delay is not None:
            delayed_event = DelayedEventRequest(
                request.event_type,
                request.content,
                request.delay,
                txn_id=request.txn_id,
                origin_server_ts=request.ts,
                sticky_ms=request.sticky_ms,
            )
            return await self._schedule(request.requester, request.room_id, delayed_event)
        event_id = await self.sending.message(
            request.requester,
            request.room_id,
            request.event_type,
            request.content,
            txn_id=request.txn_id,
            origin_server_ts=request.ts,
            sticky_ms=request.sticky_ms,
        )
        return SendEventResponse(event_id)

    @route(
        "PUT",
        f"{_ROOM}/state/{{event_type}}/{{state_key}}",
        auth=USER_OR_GUEST,
        rate="message",
        work=WorkClass.SEND,
        extra_paths=[f"{_ROOM}/state/{{event_type}}"],
    )
    async def set_room_state(
        self, request: SetRoomStateRequest
    ) -> SendEventResponse | SendDelayedResponse:
        """Spec: client-server API, Sending events to a room; MSC4140 for delayed events."""
        if request.delay is not None:
            delayed_event = DelayedEventRequest(
                request.event_type,
                request.content,
                request.delay,
                state_key=request.state_key,
                origin_server_ts=request.ts,
            )
            return await self._schedule(request.requester, request.room_id, delayed_event)
        event_id = await self.sending.state(
            request.requester,
            request.room_id,
            request.event_type,
            request.state_key,
            request.content,
            origin_server_ts=request.ts,
        )
        return SendEventResponse(event_id)

    @route(
        "PUT",
        f"{_ROOM}/redact/{{event_id}}/{{txn_id}}",
        auth=USER,
        rate="message",
        work=WorkClass.SEND,
    )
    @route("POST", f"{_ROOM}/redact/{{event_id}}", auth=USER, rate="message", work=WorkClass.SEND)
    async def redact_event(self, request: RedactEventRequest) -> SendEventResponse:
        """Spec: client-server API, Redactions; MSC3912 for related events."""
        rel_types = request.rel_types or request.unstable_rel_types
        if rel_types:
            redaction_id = await self.redacting.redact(
                request.requester,
                request.room_id,
                request.event_id,
                rel_types,
                txn_id=request.txn_id,
                reason=request.reason,
            )
            return SendEventResponse(redaction_id)
        event_id = await self.sending.redact(
            request.requester,
            request.room_id,
            request.event_id,
            txn_id=request.txn_id,
            reason=request.reason,
        )
        return SendEventResponse(event_id)

    async def _schedule(
        self, requester: Requester, room_id: RoomID, delayed_event: DelayedEventRequest
    ) -> SendDelayedResponse:
        try:
            return SendDelayedResponse(
                await self.delayed.schedule(requester, room_id, delayed_event)
            )
        except DelayTooLong as error:
            raise UnstableDelayTooLong(error) from error
