"""The dehydrated device of a user (MSC3814)."""

from typing import Any

import attrs
import orjson

from hs.apis.web.request import body, path, query
from hs.apis.web.route import route
from hs.core.canonical_json import JsonObject
from hs.core.requester import Requester
from hs.services.devices.dehydrated_devices import DehydratedDevices, Dehydration

_PATH = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"


@attrs.frozen
class PutRequest:
    """Body of `PUT /dehydrated_device`."""

    requester: Requester
    device_id: str = body()
    device_data: JsonObject = body()
    device_keys: JsonObject = body()
    one_time_keys: JsonObject | None = body(default=None)
    fallback_keys: JsonObject | None = body(default=None)
    initial_device_display_name: str | None = body(default=None)


@attrs.frozen
class OwnRequest:
    """Who asks."""

    requester: Requester


@attrs.frozen
class EventsQuery:
    """Path and query of `GET …/events`."""

    requester: Requester
    device_id: str = path()
    since: str | None = query(name="from", default=None)


@attrs.frozen
class EventsBody:
    """Path and body of `POST …/events`."""

    requester: Requester
    device_id: str = path()
    next_batch: str | None = body(default=None)


@attrs.frozen
class DehydratedDeviceApi:
    """`/dehydrated_device`."""

    devices: DehydratedDevices

    @route("PUT", _PATH)
    async def put(self, request: PutRequest) -> dict[str, str]:
        """Spec: MSC3814."""
        wish = Dehydration(
            device_id=request.device_id,
            device_data=request.device_data,
            device_keys=request.device_keys,
            one_time_keys=request.one_time_keys or {},
            fallback_keys=request.fallback_keys or {},
            display_name=request.initial_device_display_name,
        )
        return {"device_id": await self.devices.put(request.requester.user_id, wish)}

    @route("GET", _PATH)
    async def get(self, request: OwnRequest) -> dict[str, Any]:
        """Spec: MSC3814."""
        device_id, data = await self.devices.get(request.requester.user_id)
        return {"device_id": device_id, "device_data": orjson.Fragment(data)}

    @route("DELETE", _PATH)
    async def delete(self, request: OwnRequest) -> dict[str, str]:
        """Spec: MSC3814."""
        return {"device_id": await self.devices.delete(request.requester.user_id)}

    @route("GET", _PATH + "/{device_id}/events")
    async def events(self, request: EventsQuery) -> dict[str, Any]:
        """Spec: MSC3814; a page without `next_batch` is the last."""
        page = await self._page(request.requester, request.device_id, request.since)
        if not page["events"]:
            del page["next_batch"]
        return page

    @route("POST", _PATH + "/{device_id}/events")
    async def events_posted(self, request: EventsBody) -> dict[str, Any]:
        """Spec: MSC3814, its earlier form; an empty page is the last."""
        return await self._page(request.requester, request.device_id, request.next_batch)

    async def _page(
        self, requester: Requester, device_id: str, next_batch: str | None
    ) -> dict[str, Any]:
        events, reached = await self.devices.events(requester.user_id, device_id, next_batch)
        return {"events": [orjson.Fragment(one) for one in events], "next_batch": reached}
