"""Delayed events: scheduling, listing and managing them.

At the unstable paths, which clients use today, knowing the ID of a delayed event is enough to
manage it, so that a media server can end a call for a client that has lost its connection. At the
stable paths only the user who scheduled the event can manage it.

Spec: MSC4140.
"""

from typing import Any, Final, Literal

import attrs
import orjson

from hs.apis.client.rooms.send import STICKY_DURATION, SendDelayedResponse
from hs.apis.web.auth import OPTIONAL, USER_OR_GUEST
from hs.apis.web.limits import WorkClass
from hs.apis.web.render import Empty
from hs.apis.web.request import body, path, query
from hs.apis.web.route import route
from hs.core.canonical_json import JsonObject
from hs.core.errors import Unrecognized
from hs.core.ids import RoomID
from hs.core.requester import Requester
from hs.services.rooms.sending.delayed_events import (
    DelayedEventRequest,
    DelayedEvents,
    DelayedRecord,
)

Action = Literal["send", "cancel", "restart"]

_ACTIONS: Final[tuple[Action, ...]] = ("send", "cancel", "restart")
_STABLE: Final = "/_matrix/client/v1/delayed_events"
_UNSTABLE: Final = "/_matrix/client/unstable/org.matrix.msc4140"


def _parse_action(text: str) -> Action:
    for action in _ACTIONS:
        if text == action:
            return action
    raise Unrecognized(f"The action must be one of {', '.join(_ACTIONS)}")


@attrs.frozen
class ScheduleDelayedEventRequest:
    """PUT /rooms/{roomId}/delayed_event/{eventType}/{txnId}."""

    requester: Requester
    room_id: RoomID = path()
    event_type: str = path()
    txn_id: str = path()
    ts: int | None = query(default=None)
    sticky_ms: int | None = query(default=None, name=STICKY_DURATION)
    delay_ms: int = body()
    state_key: str | None = body(default=None)
    content: JsonObject = body()


@attrs.frozen
class ListDelayedEventsRequest:
    """GET /delayed_events."""

    requester: Requester


@attrs.frozen
class UnstableListDelayedEventsRequest:
    """GET /delayed_events at the unstable path."""

    requester: Requester
    status: Literal["scheduled", "finalised"] = query(default="scheduled")


@attrs.frozen
class GetDelayedEventRequest:
    """GET /delayed_events/{delayId}."""

    requester: Requester
    delay_id: str = path()


@attrs.frozen
class ManageDelayedEventRequest:
    """POST /delayed_events/{delayId}/{action}, by the user who scheduled it."""

    requester: Requester
    delay_id: str = path()
    action: Action = path(parse=_parse_action)


@attrs.frozen
class UnstableManageDelayedEventRequest:
    """POST /delayed_events/{delayId}/{action} at the unstable path, by any client."""

    requester: Requester | None
    delay_id: str = path()
    action: Action = path(parse=_parse_action)


@attrs.frozen
class LegacyManageDelayedEventRequest:
    """POST /delayed_events/{delayId} at the unstable path, with the action in the body."""

    requester: Requester | None
    delay_id: str = path()
    action: Action = body()


@attrs.frozen
class DelayedEventsApi:
    """Endpoints of delayed events."""

    delayed: DelayedEvents

    @route(
        "PUT",
        "/_matrix/client/v3/rooms/{room_id}/delayed_event/{event_type}/{txn_id}",
        auth=USER_OR_GUEST,
        rate="message",
        work=WorkClass.SEND,
        extra_paths=[f"{_UNSTABLE}/rooms/{{room_id}}/delayed_event/{{event_type}}/{{txn_id}}"],
    )
    async def schedule_delayed_event(
        self, request: ScheduleDelayedEventRequest
    ) -> SendDelayedResponse:
        """Spec: MSC4140, Scheduling a delayed event."""
        delayed_event = DelayedEventRequest(
            request.event_type,
            request.content,
            request.delay_ms,
            state_key=request.state_key,
            txn_id=request.txn_id,
            origin_server_ts=request.ts,
            sticky_ms=request.sticky_ms,
        )
        return SendDelayedResponse(
            await self.delayed.schedule(request.requester, request.room_id, delayed_event)
        )

    @route("GET", _STABLE, auth=USER_OR_GUEST, rate="delayed_event_mgmt")
    async def list_delayed_events(self, request: ListDelayedEventsRequest) -> dict[str, Any]:
        """Spec: MSC4140, Getting a list of delayed events."""
        records = await self.delayed.scheduled(request.requester)
        return {"delayed_events": [_stable_form(record) for record in records]}

    @route("GET", f"{_UNSTABLE}/delayed_events", auth=USER_OR_GUEST, rate="delayed_event_mgmt")
    async def unstable_list_delayed_events(
        self, request: UnstableListDelayedEventsRequest
    ) -> dict[str, Any]:
        """Spec: MSC4140, an earlier version; the response has the fields under both names."""
        if request.status == "finalised":
            records = await self.delayed.finished(request.requester)
        else:
            records = await self.delayed.scheduled(request.requester)
        return {"delayed_events": [_unstable_form(record) for record in records]}

    @route("GET", f"{_STABLE}/{{delay_id}}", auth=USER_OR_GUEST, rate="delayed_event_mgmt")
    async def get_delayed_event(self, request: GetDelayedEventRequest) -> dict[str, Any]:
        """Spec: MSC4140, Getting a single delayed event."""
        return _stable_form(await self.delayed.get(request.requester, request.delay_id))

    @route(
        "GET",
        f"{_UNSTABLE}/delayed_events/{{delay_id}}",
        auth=USER_OR_GUEST,
        rate="delayed_event_mgmt",
    )
    async def unstable_get_delayed_event(self, request: GetDelayedEventRequest) -> dict[str, Any]:
        """Spec: MSC4140, an earlier version."""
        return _unstable_form(await self.delayed.get(request.requester, request.delay_id))

    @route(
        "POST",
        f"{_STABLE}/{{delay_id}}/{{action}}",
        auth=USER_OR_GUEST,
        rate="delayed_event_mgmt",
    )
    async def manage_delayed_event(self, request: ManageDelayedEventRequest) -> Empty:
        """Spec: MSC4140, Managing scheduled delayed events."""
        return await self._manage(request.requester, request.delay_id, request.action)

    @route(
        "POST",
        f"{_UNSTABLE}/delayed_events/{{delay_id}}/{{action}}",
        auth=OPTIONAL,
        rate="delayed_event_mgmt",
    )
    async def unstable_manage_delayed_event(
        self, request: UnstableManageDelayedEventRequest
    ) -> Empty:
        """Spec: MSC4140, an earlier version."""
        return await self._manage(None, request.delay_id, request.action)

    @route(
        "POST",
        f"{_UNSTABLE}/delayed_events/{{delay_id}}",
        auth=OPTIONAL,
        rate="delayed_event_mgmt",
    )
    async def legacy_manage_delayed_event(self, request: LegacyManageDelayedEventRequest) -> Empty:
        """Spec: MSC4140, its first version."""
        return await self._manage(None, request.delay_id, request.action)

    async def _manage(self, requester: Requester | None, delay_id: str, action: Action) -> Empty:
        if action == "send":
            await self.delayed.send(requester, delay_id)
        elif action == "cancel":
            await self.delayed.cancel(requester, delay_id)
        else:
            await self.delayed.restart(requester, delay_id)
        return Empty()


def _stable_form(record: DelayedRecord) -> dict[str, Any]:
    rendered = _common_form(record)
    rendered["delay_ms"] = record.delay_ms
    rendered["scheduled_at"] = record.started_ms
    if record.finished_ms is not None:
        rendered["finalised_ts"] = record.finished_ms
    return rendered


def _unstable_form(record: DelayedRecord) -> dict[str, Any]:
    """Render a delayed event with the names of fields of the stable and of earlier versions."""
    rendered = _stable_form(record)
    rendered["delay"] = record.delay_ms
    rendered["running_since"] = record.started_ms
    if record.finished_ms is not None:
        rendered["origin_server_ts"] = record.finished_ms
        rendered["outcome"] = "send" if record.event_id is not None else "cancel"
        if record.error is not None:
            rendered["outcome"] = "error"
        was_early = record.finished_ms < record.send_ms
        rendered["reason"] = "action" if was_early else "delay"
    return rendered


def _common_form(record: DelayedRecord) -> dict[str, Any]:
    rendered: dict[str, Any] = {
        "delay_id": record.delay_id,
        "room_id": record.room_id,
        "type": record.type,
        "content": orjson.Fragment(record.content),
    }
    if record.state_key is not None:
        rendered["state_key"] = record.state_key
    if record.event_id is not None:
        rendered["event_id"] = record.event_id
    if record.error is not None:
        rendered["error"] = orjson.Fragment(record.error)
    return rendered
