"""The extensions of end-to-end encryption, `to_device` and `e2ee`.

Spec: MSC3884 and MSC3885 as MSC4186 uses them.
"""

from typing import Any, Final

import attrs
import orjson

from hs.core.ids import UserID
from hs.core.tokens import SyncToken
from hs.services.sync.encryption_section import (
    EncryptionSection,
    device_lists_json,
    parse_to_device_token,
)
from hs.services.sync.sliding.request import SlidingExtensionsRequest, ToDeviceExtensionRequest

MAX_MESSAGES: Final = 100


@attrs.frozen(eq=False)
class EncryptionExtensions:
    """The renderer of the two extensions."""

    _encryption: EncryptionSection

    async def make(
        self,
        user_id: UserID,
        device_id: str | None,
        request: SlidingExtensionsRequest,
        since: SyncToken | None,
        now: SyncToken,
        began: SyncToken,
    ) -> tuple[dict[str, Any], bool]:
        """Return the enabled extensions, and whether any of them has changes.

        Key counts are always sent, and do not count as changes.
        """
        members: dict[str, Any] = {}
        has_changes = False
        encryption = self._encryption
        if request.to_device.enabled and device_id is not None:
            messages = await _to_device(
                encryption, user_id, device_id, request.to_device, now, began
            )
            members["to_device"] = messages
            has_changes = bool(messages["events"])
        if request.e2ee.enabled:
            e2ee: dict[str, Any] = {}
            if device_id is not None:
                counts = await encryption.key_counts(user_id, device_id)
                e2ee = {name: orjson.Fragment(encoded) for name, encoded in counts.items()}
            if since is not None:
                changes = await encryption.device_list_changes(user_id, since, now)
                if changes.changed or changes.left:
                    e2ee["device_lists"] = orjson.Fragment(device_lists_json(changes))
                    has_changes = True
            members["e2ee"] = e2ee
        return members, has_changes


async def _to_device(
    encryption: EncryptionSection,
    user_id: UserID,
    device_id: str,
    request: ToDeviceExtensionRequest,
    now: SyncToken,
    began: SyncToken,
) -> dict[str, Any]:
    after = parse_to_device_token(request.since)
    limit = max(1, min(request.limit or MAX_MESSAGES, MAX_MESSAGES))
    page = await encryption.to_device_page(user_id, device_id, after, now, began, limit)
    events = [orjson.Fragment(event) for event in page.events]
    return {"next_batch": str(page.reached), "events": events}
