"""The extensions of end-to-end encryption: messages to the device, and what /sync tells of keys.

Spec: MSC3884 and MSC3885 as MSC4186 uses them.
"""

from typing import Any, Final

import attrs
import orjson

from hs.core.ids import UserID
from hs.core.tokens import SyncToken
from hs.services.sync.encryption_section import Encryption, device_lists_json, read_position
from hs.services.sync.sliding.request import ExtensionsAsked, ToDeviceAsked

MAX_MESSAGES: Final = 100


@attrs.frozen(eq=False)
class EncryptionExtensions:
    """Makes the two extensions; None: the server has no encryption."""

    _encryption: Encryption | None

    async def make(
        self,
        user_id: UserID,
        device_id: str | None,
        asked: ExtensionsAsked,
        since: SyncToken | None,
        now: SyncToken,
        began: SyncToken,
    ) -> tuple[dict[str, Any], bool]:
        """Make the extensions asked for; tell whether there is news in any."""
        members: dict[str, Any] = {}
        news = False
        encryption = self._encryption
        if encryption is None:
            return members, news
        if asked.to_device.enabled and device_id is not None:
            messages = await _messages(encryption, user_id, device_id, asked.to_device, now, began)
            members["to_device"] = messages
            news = bool(messages["events"])
        if asked.e2ee.enabled:
            told: dict[str, Any] = {}
            if device_id is not None:
                counts = await encryption.counts(user_id, device_id)
                told = {name: orjson.Fragment(one) for name, one in counts.items()}
            if since is not None:
                changes = await encryption.changes(user_id, since, now)
                if changes.changed or changes.left:
                    told["device_lists"] = orjson.Fragment(device_lists_json(changes))
                    news = True
            members["e2ee"] = told
        return members, news


async def _messages(
    encryption: Encryption,
    user_id: UserID,
    device_id: str,
    asked: ToDeviceAsked,
    now: SyncToken,
    began: SyncToken,
) -> dict[str, Any]:
    after = read_position(asked.since)
    limit = max(1, min(asked.limit or MAX_MESSAGES, MAX_MESSAGES))
    page = await encryption.messages(user_id, device_id, after, now, began, limit)
    events = [orjson.Fragment(event) for event in page.events]
    return {"next_batch": str(page.reached), "events": events}
