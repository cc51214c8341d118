"""Delayed events: scheduling, listing and managing them.

The unstable paths are as clients call them today: whoever knows an ID may manage the event, so
that a media server can hang up for a client that is gone. The stable ones are as accepted, for
the user alone.

Spec: MSC4140.
"""

from typing import Any, Final, Literal

import attrs
import orjson

from hs.apis.client.rooms.send import Delayed
from hs.apis.web.auth import OPTIONAL, USER_OR_GUEST
from hs.apis.web.limits import Work
from hs.apis.web.render import Empty
from hs.apis.web.request import body, path, query
from hs.apis.web.route import route
from hs.core.canonical_json import JsonObject
from hs.core.ids import RoomID
from hs.core.requester import Requester
from hs.services.rooms.sending.delayed_events import DelayedEvents, DelayedRecord, Wanted

Action = Literal["send", "cancel", "restart"]

_STABLE: Final = "/_matrix/client/v1/delayed_events"
_UNSTABLE: Final = "/_matrix/client/unstable/org.matrix.msc4140"


@attrs.frozen
class Schedule:
    """An event, and after how long it is to be sent."""

    requester: Requester
    room_id: RoomID = path()
    event_type: str = path()
    txn_id: str = path()
    ts: int | None = query(default=None)
    delay_ms: int = body()
    state_key: str | None = body(default=None)
    content: JsonObject = body()


@attrs.frozen
class Listing:
    """Whose events are listed."""

    requester: Requester


@attrs.frozen
class UnstableListing:
    """Whose events are listed, and which of them."""

    requester: Requester
    status: Literal["scheduled", "finalised"] = query(default="scheduled")


@attrs.frozen
class One:
    """Which delayed event."""

    requester: Requester
    delay_id: str = path()


@attrs.frozen
class Manage:
    """What is to be done with a delayed event of one's own."""

    requester: Requester
    delay_id: str = path()
    action: Action = path()


@attrs.frozen
class UnstableManage:
    """What is to be done with a delayed event; knowing its ID is proof enough."""

    requester: Requester | None
    delay_id: str = path()
    action: Action = path()


@attrs.frozen
class OldManage:
    """The same with the action in the body."""

    requester: Requester | None
    delay_id: str = path()
    action: Action = body()


@attrs.frozen
class DelayedEventsApi:
    """`…/delayed_events`."""

    delayed: DelayedEvents

    @route(
        "PUT",
        "/_matrix/client/v3/rooms/{room_id}/delayed_event/{event_type}/{txn_id}",
        auth=USER_OR_GUEST,
        rate="message",
        work=Work.SEND,
        also=[f"{_UNSTABLE}/rooms/{{room_id}}/delayed_event/{{event_type}}/{{txn_id}}"],
    )
    async def schedule(self, request: Schedule) -> Delayed:
        """MSC4140, Scheduling a delayed event."""
        wanted = Wanted(
            request.event_type,
            request.content,
            request.delay_ms,
            state_key=request.state_key,
            txn_id=request.txn_id,
            origin_server_ts=request.ts,
        )
        return Delayed(await self.delayed.schedule(request.requester, request.room_id, wanted))

    @route("GET", _STABLE, auth=USER_OR_GUEST, rate="delayed_event_mgmt")
    async def scheduled(self, request: Listing) -> dict[str, Any]:
        """MSC4140, Getting a list of delayed events."""
        found = await self.delayed.scheduled(request.requester)
        return {"delayed_events": [_accepted(one) for one in found]}

    @route("GET", f"{_UNSTABLE}/delayed_events", auth=USER_OR_GUEST, rate="delayed_event_mgmt")
    async def listed(self, request: UnstableListing) -> dict[str, Any]:
        """MSC4140 as of before, with both names of the fields."""
        if request.status == "finalised":
            found = await self.delayed.finished(request.requester)
        else:
            found = await self.delayed.scheduled(request.requester)
        return {"delayed_events": [_both(one) for one in found]}

    @route("GET", f"{_STABLE}/{{delay_id}}", auth=USER_OR_GUEST, rate="delayed_event_mgmt")
    async def one(self, request: One) -> dict[str, Any]:
        """MSC4140, Getting a single delayed event."""
        return _accepted(await self.delayed.get(request.requester, request.delay_id))

    @route(
        "GET",
        f"{_UNSTABLE}/delayed_events/{{delay_id}}",
        auth=USER_OR_GUEST,
        rate="delayed_event_mgmt",
    )
    async def unstable_one(self, request: One) -> dict[str, Any]:
        """MSC4140 as of before."""
        return _both(await self.delayed.get(request.requester, request.delay_id))

    @route(
        "POST",
        f"{_STABLE}/{{delay_id}}/{{action}}",
        auth=USER_OR_GUEST,
        rate="delayed_event_mgmt",
    )
    async def manage(self, request: Manage) -> Empty:
        """MSC4140, Managing scheduled delayed events."""
        return await self._manage(request.requester, request.delay_id, request.action)

    @route(
        "POST",
        f"{_UNSTABLE}/delayed_events/{{delay_id}}/{{action}}",
        auth=OPTIONAL,
        rate="delayed_event_mgmt",
    )
    async def unstable_manage(self, request: UnstableManage) -> Empty:
        """MSC4140 as of before."""
        return await self._manage(None, request.delay_id, request.action)

    @route(
        "POST",
        f"{_UNSTABLE}/delayed_events/{{delay_id}}",
        auth=OPTIONAL,
        rate="delayed_event_mgmt",
    )
    async def old_manage(self, request: OldManage) -> Empty:
        """MSC4140 as of its beginnings."""
        return await self._manage(None, request.delay_id, request.action)

    async def _manage(self, requester: Requester | None, delay_id: str, action: Action) -> Empty:
        if action == "send":
            await self.delayed.send(requester, delay_id)
        elif action == "cancel":
            await self.delayed.cancel(requester, delay_id)
        else:
            await self.delayed.restart(requester, delay_id)
        return Empty()


def _accepted(record: DelayedRecord) -> dict[str, Any]:
    shown = _common(record)
    shown["delay_ms"] = record.delay_ms
    shown["scheduled_at"] = record.started_ms
    if record.finished_ms is not None:
        shown["finalised_ts"] = record.finished_ms
    return shown


def _both(record: DelayedRecord) -> dict[str, Any]:
    shown = _accepted(record)
    shown["delay"] = record.delay_ms
    shown["running_since"] = record.started_ms
    if record.finished_ms is not None:
        shown["origin_server_ts"] = record.finished_ms
        shown["outcome"] = "send" if record.event_id is not None else "cancel"
        if record.error is not None:
            shown["outcome"] = "error"
        early = record.finished_ms < record.send_ms
        shown["reason"] = "action" if early else "delay"
    return shown


def _common(record: DelayedRecord) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "delay_id": record.delay_id,
        "room_id": record.room_id,
        "type": record.type,
        "content": orjson.Fragment(record.content),
    }
    if record.state_key is not None:
        shown["state_key"] = record.state_key
    if record.event_id is not None:
        shown["event_id"] = record.event_id
    if record.error is not None:
        shown["error"] = orjson.Fragment(record.error)
    return shown
