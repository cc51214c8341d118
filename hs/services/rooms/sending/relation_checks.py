"""What a client may not send because of what it relates to.

Spec: client-server API, Avoiding duplicate annotations; Validation of `m.thread` relationships.
"""

from collections.abc import Mapping
from typing import Any

import attrs

from hs.core.errors import DuplicateAnnotation, Unknown
from hs.core.ids import RoomID, UserID
from hs.core.relations import ANNOTATION, THREAD, Relation, check_may_relate, relation_of
from hs.services.rooms.append.drafts import TxnKey
from hs.services.rooms.store.event_store import EventStore
from hs.storage.database import Database
from hs.storage.rooms import annotations, transaction_ids


@attrs.frozen
class Relating:
    """An event about to be sent."""

    room_id: RoomID
    type: str
    sender: UserID
    content: Mapping[str, Any]
    txn: TxnKey | None


@attrs.frozen(eq=False)
class RelationChecks:
    """Refuses relations that make no sense."""

    _database: Database
    _events: EventStore

    async def check(self, sent: Relating) -> None:
        """Refuse an event whose relation is not possible.

        Raises: Unknown; DuplicateAnnotation.
        """
        relation = relation_of(sent.content)
        if relation is None:
            return
        parent = await self._events.get_one(relation.parent_id)
        if parent is not None and parent.event.room_id != sent.room_id:
            raise Unknown("The event that this one relates to is in another room")
        if relation.rel_type == THREAD and parent is not None:
            check_may_relate(relation, relation_of(parent.event.content))
        if relation.rel_type == ANNOTATION:
            await self._check_new_annotation(sent, relation)

    async def _check_new_annotation(self, sent: Relating, relation: Relation) -> None:
        if relation.key is None or "\0" in relation.key:
            return
        earlier = await self._database.read(
            annotations.find, relation.parent_id, sent.type, sent.sender, relation.key
        )
        if earlier is None:
            return
        if sent.txn is not None:
            # It may be the same request, repeated because its answer was lost.
            keys = await self._database.read(transaction_ids.of_events, sent.sender, [earlier])
            if keys.get(earlier) == (sent.txn.device_id, sent.txn.txn_id):
                return
        raise DuplicateAnnotation("You have reacted so already")
