"""To-device messages of users of other servers.

Spec: server-server API, Send-to-device messaging.
"""

from collections.abc import Mapping
from typing import Any, Final

import attrs

from hs.core.canonical_json import JsonObject
from hs.core.errors import InvalidParam
from hs.core.ids import ServerName, UserID, parse_user_id, server_of
from hs.services.devices.to_device import ToDeviceMessages
from hs.services.federation.access.own_users import own_user

MAX_MESSAGES: Final = 10_000
MAX_TEXT_CHARS: Final = 255


@attrs.frozen(eq=False)
class InboundDeviceMessages:
    """Stores m.direct_to_device EDUs, once per origin and message ID."""

    _messages: ToDeviceMessages
    _server_name: ServerName

    async def receive(self, origin: ServerName, content: Mapping[str, Any]) -> None:
        """Store the messages to devices of this server. Raises: InvalidParam, Forbidden."""
        sender = own_user(origin, content.get("sender"))
        message_id = _text("message_id", content.get("message_id"))
        event_type = _text("type", content.get("type"))
        messages = content.get("messages")
        if not isinstance(messages, dict):
            raise InvalidParam("messages must be an object by user ID")
        local: dict[UserID, Mapping[str, JsonObject]] = {}
        count = 0
        for user_id, contents in messages.items():
            if server_of(parse_user_id(user_id)) != self._server_name:
                continue
            local[UserID(user_id)] = _contents(contents)
            count += len(contents)
        if count > MAX_MESSAGES:
            raise InvalidParam(f"messages must not be more than {MAX_MESSAGES}")
        if count:
            await self._messages.receive(origin, message_id, sender, event_type, local)


def _contents(contents: object) -> Mapping[str, JsonObject]:
    if not isinstance(contents, dict):
        raise InvalidParam("The messages to a user must be an object by device ID")
    for device_id, content in contents.items():
        _text("device ID", device_id)
        if not isinstance(content, dict):
            raise InvalidParam("The content of a message must be an object")
    return contents


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT_CHARS or "\0" in value:
        raise InvalidParam(f"{name} must be a string of 1 to {MAX_TEXT_CHARS} characters")
    return value
