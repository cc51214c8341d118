"""The rows that a commit writes for its events, and the numbers that it assigns to them."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

import attrs

from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.events.sticky import sticky_until
from hs.core.filters import has_url
from hs.core.ids import EventID
from hs.core.streams import EventRow
from hs.services.rooms.append.pending_events import (
    EventBatch,
    PendingEvent,
    membership_of,
    relation_to_store,
)
from hs.services.rooms.store.state_snapshots import Snapshot
from hs.services.rooms.store.stored_event import EventStatus
from hs.storage.database import Tx
from hs.storage.rooms.events import EventRecord
from hs.storage.rooms.relation_writes import RelationRecord
from hs.storage.rooms.state import Key
from hs.storage.rooms.sticky_events import StickyRecord

ChainIndexer = Callable[[Tx, Sequence[tuple[int, Event]]], Awaitable[None]]
"""Adds new state events to the index of auth chains; takes pairs of stream ID and event."""


@attrs.frozen(eq=False)
class CommitWork:
    """A group of batches, in the order in which they were built."""

    batches: Sequence[EventBatch]
    snapshots: Sequence[tuple[str, Snapshot]]  # to be stored, with their room IDs, parents first
    key_ids: Mapping[Key, int]  # known IDs of interned keys; the others are looked up
    writer: str
    server_name: str
    now_ms: int
    index_chains: ChainIndexer
    is_history: bool = False


@attrs.define(eq=False)
class CommitNumbers:
    """Stream IDs and snapshot IDs in this run, and what was looked up.

    `positions` are those of the rows; an outlier that now gets its place keeps its older stream ID.
    `senders` are those of events, `left_servers` servers whose users are removed by an event.
    """

    events: dict[str, int]
    snapshots: dict[int, int]
    positions: Mapping[str, int]
    senders: dict[str, str] = attrs.Factory(dict)
    left_servers: Mapping[EventID, tuple[str, ...]] = attrs.Factory(dict)

    def snapshot_id(self, snapshot: Snapshot | None) -> int | None:
        if snapshot is None:
            return None
        return self.snapshots[id(snapshot)] if snapshot.id is None else snapshot.id


def concerns_local_user(pending: PendingEvent, work: CommitWork) -> bool:
    # For example an invite: it is new to its user, although the room is not known here.
    is_member = pending.event.type == event_types.MEMBER
    return is_member and (pending.event.state_key or "").endswith(f":{work.server_name}")


def outlier_update(pending: PendingEvent, numbers: CommitNumbers) -> tuple[str, int, int]:
    snapshot_id = numbers.snapshot_id(pending.state_before)
    assert snapshot_id is not None
    return pending.event.event_id, snapshot_id, int(pending.status)


def placed_outlier(
    pending: PendingEvent, work: CommitWork, numbers: CommitNumbers
) -> tuple[int, str, int, str]:
    event = pending.event
    position = numbers.positions[event.event_id]
    number = numbers.events[event.event_id]
    return (-position if work.is_history else position), work.writer, number, event.room_id


def event_record(pending: PendingEvent, work: CommitWork, numbers: CommitNumbers) -> EventRecord:
    event = pending.event
    return EventRecord(
        stream_id=numbers.events[event.event_id],
        writer=work.writer,
        event_id=event.event_id,
        room_id=event.room_id,
        type=event.type,
        state_key=event.state_key,
        sender=event.sender,
        depth=event.depth,
        origin_server_ts=event.origin_server_ts,
        snapshot_id=numbers.snapshot_id(pending.state_before),
        status=int(pending.status),
        contains_url=int(has_url(event.content)),
        redacted_by=pending.redacted_by,
        pdu=event.canonical,
    )


def relation_record(pending: PendingEvent, numbers: CommitNumbers) -> RelationRecord | None:
    event = pending.event
    relation = relation_to_store(event)
    if relation is None or pending.status not in _RELATING or pending.redacted_by is not None:
        return None
    return RelationRecord(
        event_id=event.event_id,
        room_id=event.room_id,
        parent_id=relation.parent_id,
        rel_type=relation.rel_type,
        aggregation_key=relation.key,
        type=event.type,
        sender=event.sender,
        depth=event.depth,
        stream_id=numbers.events[event.event_id],
    )


_RELATING = frozenset((EventStatus.ACCEPTED,))


def _sticky_until(pending: PendingEvent, now_ms: int) -> int:
    if pending.redacted_by is not None or pending.status not in _STICKY:
        return 0
    until_ms = sticky_until(pending.event, now_ms)
    return until_ms if until_ms > now_ms else 0


_STICKY = frozenset((EventStatus.ACCEPTED, EventStatus.SOFT_FAILED))


def sticky_record(stream_id: int, row: EventRow, work: CommitWork) -> StickyRecord:
    return StickyRecord(row.event_id, row.room_id, stream_id, work.writer, row.sticky_until)


def event_row(
    pending: PendingEvent, numbers: CommitNumbers, stream_id: int, now_ms: int
) -> EventRow:
    event = pending.event
    number = numbers.events[event.event_id]
    relation, lost_relation = relation_to_store(event), pending.lost_relation
    own_change = pending.changes[0] if pending.only_own_entry and pending.changes else None
    return EventRow(
        room_id=event.room_id,
        event_id=event.event_id,
        type=event.type,
        sender=event.sender,
        state_key=event.state_key,
        depth=event.depth,
        origin_server_ts=event.origin_server_ts,
        membership=membership_of(event),
        prev_membership=None if own_change is None else own_change.prev_membership,
        outlier=pending.status == EventStatus.OUTLIER,
        soft_failed=pending.status == EventStatus.SOFT_FAILED,
        rejected=pending.status == EventStatus.REJECTED,
        hidden=pending.status == EventStatus.HIDDEN,
        redacts=event.redacts,
        relates_to=None if relation is None else (relation.rel_type, relation.parent_id),
        txn=None if pending.txn is None else (pending.txn.device_id, pending.txn.txn_id),
        room_version=event.rules.identifier,
        pdu=event.canonical,
        snapshot_id=numbers.snapshot_id(pending.state_before),
        contains_url=has_url(event.content),
        redaction_applies=pending.redacts is not None,
        redacted_by=pending.redacted_by,
        state_changes=None
        if pending.only_own_entry
        else tuple((c.type, c.state_key, c.event_id, c.membership) for c in pending.changes),
        lost_relation=None
        if lost_relation is None
        else (lost_relation.rel_type, lost_relation.parent_id),
        sticky_until=_sticky_until(pending, now_ms),
        relay=pending.relay,
        distributed=pending.distributed,
        left_servers=numbers.left_servers.get(event.event_id, ()),
        outside=pending.outside,
        number=0 if number == stream_id else number,
        after_gap=bool(pending.missing_prev_events),
    )
