"""Devices of the requester."""

from typing import Any

import attrs

from hs.apis.web.auth import USER_OR_GUEST
from hs.apis.web.render import Empty, Response, json_response
from hs.apis.web.request import body, path
from hs.apis.web.route import route
from hs.core.canonical_json import JsonObject
from hs.core.requester import Requester
from hs.services.accounts.lifecycle.account_lifecycle import AccountLifecycle
from hs.services.accounts.sessions.device_management import DeviceManagement, UserDevice
from hs.services.accounts.sessions.interactive_auth import InteractiveAuth


@attrs.frozen
class ListDevicesRequest:
    """GET /devices."""

    requester: Requester


@attrs.frozen
class GetDeviceRequest:
    """GET /devices/{deviceId}."""

    requester: Requester
    device_id: str = path()


@attrs.frozen
class UpdateDeviceRequest:
    """PUT /devices/{deviceId}."""

    requester: Requester
    device_id: str = path()
    display_name: str | None = body(default=None)


@attrs.frozen
class DeleteDeviceRequest:
    """DELETE /devices/{deviceId}."""

    requester: Requester
    device_id: str = path()
    auth: JsonObject | None = body(default=None)


@attrs.frozen
class DeleteDevicesRequest:
    """POST /delete_devices."""

    requester: Requester
    devices: list[str] = body()
    auth: JsonObject | None = body(default=None)


@attrs.frozen
class DevicesApi:
    """Endpoints of devices."""

    devices: DeviceManagement
    lifecycle: AccountLifecycle
    interactive: InteractiveAuth

    @route("GET", "/_matrix/client/v3/devices", auth=USER_OR_GUEST)
    async def list_devices(self, request: ListDevicesRequest) -> dict[str, Any]:
        """Spec: client-server API, Device Management."""
        devices = await self.devices.all_of(request.requester.user_id)
        return {"devices": [_with_nulls(device) for device in devices]}

    @route("GET", "/_matrix/client/v3/devices/{device_id}", auth=USER_OR_GUEST)
    async def get_device(self, request: GetDeviceRequest) -> dict[str, Any]:
        """Spec: client-server API, Device Management."""
        return _with_nulls(await self.devices.find(request.requester.user_id, request.device_id))

    @route("PUT", "/_matrix/client/v3/devices/{device_id}", auth=USER_OR_GUEST)
    async def update_device(self, request: UpdateDeviceRequest) -> Empty | Response:
        """Spec: client-server API, Device Management."""
        requester = request.requester
        if requester.appservice_id is not None:
            is_new = await self.devices.put_for_appservice(
                requester, request.device_id, request.display_name
            )
            return json_response({}, 201 if is_new else 200)
        await self.devices.rename(requester.user_id, request.device_id, request.display_name)
        return Empty()

    @route("DELETE", "/_matrix/client/v3/devices/{device_id}")
    async def delete_device(self, request: DeleteDeviceRequest) -> Empty:
        """Spec: client-server API, Device Management."""
        await self._delete(request.requester, [request.device_id], request.auth)
        return Empty()

    @route("POST", "/_matrix/client/v3/delete_devices")
    async def delete_devices(self, request: DeleteDevicesRequest) -> Empty:
        """Spec: client-server API, Device Management."""
        await self._delete(request.requester, request.devices, request.auth)
        return Empty()

    async def _delete(
        self, requester: Requester, device_ids: list[str], auth: JsonObject | None
    ) -> None:
        if requester.appservice_id is not None:
            await self.devices.remove(requester.user_id, device_ids)
            return
        # The proof holds for exactly these devices.
        operation = " ".join(["delete devices", *sorted(device_ids)])
        proof = await self.interactive.prove(operation, auth, self.lifecycle.flows(), requester)
        await self.devices.remove(requester.user_id, device_ids)
        await self.interactive.finish(proof)


def _with_nulls(device: UserDevice) -> dict[str, Any]:
    # Synapse sends null for what is not known, and matrix-nio refuses a list without these keys.
    return attrs.asdict(device)
