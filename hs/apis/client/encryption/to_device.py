"""To-device messages."""

import attrs

from hs.apis.web.auth import USER_OR_GUEST
from hs.apis.web.render import Empty
from hs.apis.web.request import body, path
from hs.apis.web.route import route
from hs.core.canonical_json import JsonObject
from hs.core.requester import Requester
from hs.services.devices.to_device import ToDeviceMessages


@attrs.frozen
class SendToDeviceRequest:
    """PUT /sendToDevice/{eventType}/{txnId}."""

    requester: Requester
    event_type: str = path()
    txn_id: str = path()
    messages: JsonObject = body()  # contents by device ID, by user ID


@attrs.frozen
class ToDeviceApi:
    """The endpoint that sends to-device messages."""

    to_device: ToDeviceMessages

    @route("PUT", "/_matrix/client/v3/sendToDevice/{event_type}/{txn_id}", auth=USER_OR_GUEST)
    async def send_to_device(self, request: SendToDeviceRequest) -> Empty:
        """Spec: client-server API, Send-to-Device messaging."""
        await self.to_device.send(
            request.requester, request.event_type, request.txn_id, request.messages
        )
        return Empty()
