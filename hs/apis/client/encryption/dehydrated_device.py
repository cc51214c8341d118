"""The dehydrated device of the requester (MSC3814)."""

from typing import Any

import attrs
import orjson

from hs.apis.web.request import body, path, query
from hs.apis.web.route import route
from hs.core.canonical_json import JsonObject
from hs.core.requester import Requester
from hs.services.devices.dehydrated_devices import DehydratedDevice, DehydratedDevices

_PATH = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"


@attrs.frozen
class PutDehydratedDeviceRequest:
    """PUT /dehydrated_device."""

    requester: Requester
    device_id: str = body()
    device_data: JsonObject = body()
    device_keys: JsonObject = body()
    one_time_keys: JsonObject | None = body(default=None)
    fallback_keys: JsonObject | None = body(default=None)
    initial_device_display_name: str | None = body(default=None)


@attrs.frozen
class DehydratedDeviceRequest:
    """GET and DELETE /dehydrated_device."""

    requester: Requester


@attrs.frozen
class GetDehydratedEventsRequest:
    """GET /dehydrated_device/{deviceId}/events."""

    requester: Requester
    device_id: str = path()
    since: str | None = query(name="from", default=None)


@attrs.frozen
class PostDehydratedEventsRequest:
    """POST /dehydrated_device/{deviceId}/events."""

    requester: Requester
    device_id: str = path()
    next_batch: str | None = body(default=None)


@attrs.frozen
class DehydratedDeviceApi:
    """Endpoints of the dehydrated device."""

    devices: DehydratedDevices

    @route("PUT", _PATH)
    async def put_dehydrated_device(self, request: PutDehydratedDeviceRequest) -> dict[str, str]:
        """Spec: MSC3814."""
        device = DehydratedDevice(
            device_id=request.device_id,
            device_data=request.device_data,
            device_keys=request.device_keys,
            one_time_keys=request.one_time_keys or {},
            fallback_keys=request.fallback_keys or {},
            display_name=request.initial_device_display_name,
        )
        return {"device_id": await self.devices.put(request.requester.user_id, device)}

    @route("GET", _PATH)
    async def get_dehydrated_device(self, request: DehydratedDeviceRequest) -> dict[str, Any]:
        """Spec: MSC3814."""
        device_id, data = await self.devices.get(request.requester.user_id)
        return {"device_id": device_id, "device_data": orjson.Fragment(data)}

    @route("DELETE", _PATH)
    async def delete_dehydrated_device(self, request: DehydratedDeviceRequest) -> dict[str, str]:
        """Spec: MSC3814."""
        return {"device_id": await self.devices.delete(request.requester.user_id)}

    @route("GET", _PATH + "/{device_id}/events")
    async def get_events(self, request: GetDehydratedEventsRequest) -> dict[str, Any]:
        """Spec: MSC3814; the last page has no `next_batch`."""
        page = await self._page(request.requester, request.device_id, request.since)
        if not page["events"]:
            del page["next_batch"]
        return page

    @route("POST", _PATH + "/{device_id}/events")
    async def post_events(self, request: PostDehydratedEventsRequest) -> dict[str, Any]:
        """Spec: MSC3814, an earlier version; the last page is empty."""
        return await self._page(request.requester, request.device_id, request.next_batch)

    async def _page(
        self, requester: Requester, device_id: str, next_batch: str | None
    ) -> dict[str, Any]:
        events, end = await self.devices.events(requester.user_id, device_id, next_batch)
        return {"events": [orjson.Fragment(event) for event in events], "next_batch": end}
