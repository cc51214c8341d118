"""To-device messages to users of other servers, and the rows that wake their senders.

Spec: server-server API, Send-to-device messaging.
"""

import secrets
from collections.abc import Sequence
from typing import Any, Final

import attrs

from hs.core.edus import DIRECT_TO_DEVICE
from hs.core.ids import ServerName, UserID, server_of
from hs.core.streams import FederationRow
from hs.lib.clock import Clock
from hs.repl.memory_writer import MemoryWriter
from hs.services.devices.remote_devices import OutgoingEdu, OutgoingMessage
from hs.services.federation.outbound.edus import encode_edu
from hs.storage.database import Database
from hs.storage.federation import outgoing_to_device

MESSAGES: Final = "messages"
"""Kind of FederationRow: to-device messages were stored for the destinations."""

MAX_WAITING: Final = 10_000
"""Messages that wait for one destination; of more, the oldest are deleted."""

MAX_WAITING_MS: Final = 30 * 24 * 3600 * 1000
"""How long messages wait for a destination that is away."""

CLEANUP_PERIOD_S: Final = 3600.0
_DELETED_AT_ONCE: Final = 500


@attrs.frozen(eq=False)
class OutgoingMessages:
    """Messages for users of other servers, which the federation senders deliver.

    The writer of inboxes stores them, with the request that they are part of.
    """

    _database: Database
    _rows: MemoryWriter[FederationRow]
    _clock: Clock

    def encode_messages(
        self, sender: UserID, event_type: str, messages: Sequence[OutgoingMessage]
    ) -> tuple[OutgoingEdu, ...]:
        """Return the EDUs to be stored, one for each server.

        Raises: BadJson, if a content is not canonical JSON.
        """
        by_server: dict[ServerName, dict[str, dict[str, Any]]] = {}
        for message in messages:
            users = by_server.setdefault(server_of(message.user_id), {})
            users.setdefault(message.user_id, {})[message.device_id] = message.content
        return tuple(
            OutgoingEdu(server, _edu(sender, event_type, users))
            for server, users in sorted(by_server.items())
        )

    def announce_messages(self, outgoing: Sequence[OutgoingEdu]) -> None:
        """Wake the senders of messages that were stored."""
        servers = tuple(edu.destination for edu in outgoing)
        self._rows.append_nowait([FederationRow(servers, MESSAGES)])

    async def clean_up(self) -> None:
        """Delete messages that have waited for too long, and those of which there are too many."""
        before_ms = self._clock.now_ms() - MAX_WAITING_MS
        while old := await self._database.read(
            outgoing_to_device.list_old, before_ms, _DELETED_AT_ONCE
        ):
            await self._database.write(outgoing_to_device.delete, old)
        while excess := await self._database.read_long(
            outgoing_to_device.list_excess, MAX_WAITING, _DELETED_AT_ONCE
        ):
            await self._database.write(outgoing_to_device.delete, excess)


def _edu(sender: UserID, event_type: str, users: dict[str, dict[str, Any]]) -> bytes:
    content = {
        "sender": sender,
        "type": event_type,
        "message_id": secrets.token_urlsafe(16),
        "messages": users,
    }
    return encode_edu(DIRECT_TO_DEVICE, content)
