"""Checks of the relations of events that clients send.

Spec: client-server API, Avoiding duplicate annotations; Validation of `m.thread` relationships.
"""

from collections.abc import Mapping
from typing import Any

import attrs

from hs.core.errors import DuplicateAnnotation, Unknown
from hs.core.ids import EventID, RoomID, UserID
from hs.core.relations import ANNOTATION, THREAD, Relation, check_may_relate, relation_of
from hs.services.rooms.append.drafts import TransactionKey
from hs.services.rooms.store.event_store import EventStore
from hs.storage.database import Database
from hs.storage.rooms import annotations, relations, transaction_ids


@attrs.frozen
class RelatingEvent:
    """An event to be sent."""

    room_id: RoomID
    type: str
    sender: UserID
    content: Mapping[str, Any]
    txn: TransactionKey | None


@attrs.frozen(eq=False)
class RelationChecks:
    """Rejects invalid relations."""

    _database: Database
    _events: EventStore

    async def check(self, event: RelatingEvent) -> None:
        """Reject an event with an invalid relation.

        Raises: Unknown; DuplicateAnnotation.
        """
        relation = relation_of(event.content)
        if relation is None:
            return
        parent = await self._events.get_one(relation.parent_id)
        if parent is None:
            await self._check_has_relations(event.room_id, relation.parent_id)
        elif parent.event.room_id != event.room_id:
            raise Unknown("The event that this event relates to is in another room")
        if relation.rel_type == THREAD and parent is not None:
            check_may_relate(relation, relation_of(parent.event.content))
        if relation.rel_type == ANNOTATION:
            await self._check_new_annotation(event, relation)

    async def _check_has_relations(self, room_id: RoomID, parent_id: EventID) -> None:
        # A client may know an event that this server has not fetched or has purged. Then it knows
        # the event from others that relate to it.
        if not await self._database.read(relations.has_children, room_id, parent_id):
            raise Unknown("The event that this event relates to is not in the room")

    async def _check_new_annotation(self, event: RelatingEvent, relation: Relation) -> None:
        if relation.key is None or "\0" in relation.key:
            return
        earlier = await self._database.read(
            annotations.find_annotation, relation.parent_id, event.type, event.sender, relation.key
        )
        if earlier is None:
            return
        if event.txn is not None:
            # It may be the same request, repeated because its response was lost.
            transactions = await self._database.read(
                transaction_ids.find_by_events, event.sender, [earlier]
            )
            if transactions.get(earlier) == (event.txn.device_id, event.txn.txn_id):
                return
        raise DuplicateAnnotation("You have already sent this annotation")
