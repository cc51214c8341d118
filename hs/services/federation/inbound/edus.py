"""EDUs of other servers.

Rules:

- Each EDU is processed by itself; one that is malformed or not allowed is skipped.
- A server may send EDUs about its own users only, and about rooms that they and this server are in
  and whose ACL permits it.
- EDUs that must not be lost are stored when `receive` returns; if that fails, `receive` raises, and
  the other server sends its transaction again.

Spec: server-server API, EDUs.
"""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

import attrs

from hs.core import edus
from hs.core.edus import Edu
from hs.core.errors import MatrixError
from hs.core.ids import ServerName
from hs.services.federation.inbound.device_messages import InboundDeviceMessages
from hs.services.federation.inbound.ephemeral_edus import (
    InboundPresence,
    InboundReceipts,
    InboundTyping,
)

log = logging.getLogger(__name__)

UNKNOWN: Final = "unknown"
SKIPPED: Final = "skipped"


class RemoteDeviceLists(Protocol):
    """Keeps the device lists and cross-signing keys of users of other servers.

    Both methods check that the user belongs to `origin`, and return once the update is stored.
    Raises: MatrixError 4xx, if the content is malformed.
    """

    async def update_device(self, origin: ServerName, content: Mapping[str, Any]) -> None:
        """Apply an m.device_list_update."""
        ...

    async def update_signing_keys(self, origin: ServerName, content: Mapping[str, Any]) -> None:
        """Apply an m.signing_key_update."""
        ...


_Receive = Callable[[ServerName, Mapping[str, Any]], Awaitable[None]]


@attrs.define(eq=False)
class InboundEdus:
    """Applies EDUs, in any process. `counts` has the number of EDUs by type, for metrics."""

    _typing: InboundTyping
    _receipts: InboundReceipts
    _presence: InboundPresence
    _messages: InboundDeviceMessages
    _device_lists: RemoteDeviceLists | None
    counts: Counter[str] = attrs.Factory(Counter)
    _receivers: Mapping[str, _Receive] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._receivers = {
            edus.TYPING: self._typing.receive,
            edus.RECEIPT: self._receipts.receive,
            edus.PRESENCE: self._presence.receive,
            edus.DIRECT_TO_DEVICE: self._messages.receive,
        }
        if self._device_lists is not None:
            self._receivers = {
                **self._receivers,
                edus.DEVICE_LIST_UPDATE: self._device_lists.update_device,
                edus.SIGNING_KEY_UPDATE: self._device_lists.update_signing_keys,
            }

    async def receive(self, origin: ServerName, edu: Edu) -> None:
        """Apply an EDU. Raises: MatrixError 503, Unavailable."""
        receive = self._receivers.get(edu.edu_type)
        if receive is None:
            self.counts[UNKNOWN] += 1
            return
        try:
            await receive(origin, edu.content)
        except MatrixError as fault:
            if fault.status >= 500:
                raise
            self.counts[SKIPPED] += 1
            log.debug("skipping %s of %s: %s", edu.edu_type, origin, fault.message)
        else:
            self.counts[edu.edu_type] += 1
