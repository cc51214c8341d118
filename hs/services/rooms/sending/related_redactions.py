"""Redactions of an event together with the events that relate to it.

Rules:

- The related events are read before the event is redacted, and redacted after it. A repeated
  request redacts what is left, because a redacted event has no relation any more.
- Only direct relations count. Events that the requester may not redact stay.

Spec: MSC3912.
"""

from collections.abc import Sequence
from typing import Final

import attrs

from hs.core.ids import EventID, RoomID
from hs.core.requester import Requester
from hs.services.accounts.limits.account_restrictions import may_act
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.redaction_batches import MAX_REDACTED, append_redactions
from hs.services.rooms.sending.event_sending import EventSender
from hs.storage.database import Database
from hs.storage.rooms import relations

ANY: Final = "*"


@attrs.frozen(eq=False)
class RelatedRedactions:
    """Redacts events together with those that relate to them."""

    _database: Database
    _appender: RoomAppender
    _sending: EventSender

    async def redact(
        self,
        requester: Requester,
        room_id: RoomID,
        event_id: EventID,
        rel_types: Sequence[str],
        *,
        txn_id: str | None,
        reason: str | None,
    ) -> EventID:
        """Redact an event and, of those that relate to it by one of the types, MAX_REDACTED.

        Return the redaction of the event itself. Raises: as EventSender.redact.
        """
        children = await self._database.read(
            relations.list_related, room_id, event_id, MAX_REDACTED
        )
        redaction_id = await self._sending.redact(
            requester, room_id, event_id, txn_id=txn_id, reason=reason
        )
        wanted = [child for child in children if {child.rel_type, ANY} & {*rel_types}]
        user_id = requester.user_id
        own = [child.event_id for child in wanted if child.sender == user_id]
        others = [child.event_id for child in wanted if child.sender != user_id]
        await append_redactions(self._appender, room_id, user_id, own, reason)
        if may_act(requester):
            await append_redactions(self._appender, room_id, user_id, others, reason)
        return redaction_id
