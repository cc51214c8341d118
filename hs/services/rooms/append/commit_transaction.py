"""The unit of work that writes a group of batches of many rooms in one transaction.

It reads what it is given and changes none of it, as it runs in another thread and perhaps twice.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence

import attrs
import orjson

from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.filters import has_url
from hs.core.ids import EventID
from hs.repl.rows import EventRow
from hs.repl.writers import StreamIds
from hs.services.rooms.append.pending_events import (
    Batch,
    HeadChange,
    Placed,
    membership_of,
    stored_relation,
)
from hs.services.rooms.store.state_snapshots import Snapshot
from hs.services.rooms.store.stored_event import Status
from hs.storage.database import Tx
from hs.storage.rooms import events, relation_writes, rooms, state, transaction_ids
from hs.storage.rooms.events import EventRecord
from hs.storage.rooms.relation_writes import RelationRecord
from hs.storage.rooms.state import Key, SnapshotRecord

ChainIndexer = Callable[[Tx, Sequence[tuple[int, Event]]], Awaitable[None]]
"""Keeps the index of auth chains for new state events, given with their numbers."""


@attrs.frozen(eq=False)
class CommitWork:
    """A group of batches, in the order in which they were built."""

    batches: Sequence[Batch]
    snapshots: Sequence[tuple[str, Snapshot]]  # to be stored, with their rooms, parents first
    key_ids: Mapping[Key, int]  # interned keys that are known; all others are looked up
    writer: str
    server_name: str
    now_ms: int
    index_chains: ChainIndexer


@attrs.frozen(eq=False)
class CommitResult:
    """The numbers that a commit gave."""

    stream_ids: Sequence[int]
    snapshot_ids: Sequence[int]
    key_ids: Mapping[Key, int]  # those interned or looked up


@attrs.define(eq=False)
class _Numbers:
    """Numbers within one run of the unit, and the senders of the events that were looked up."""

    events: dict[str, int]
    snapshots: dict[int, int]
    senders: dict[str, str] = attrs.Factory(dict)

    def of_snapshot(self, snapshot: Snapshot | None) -> int | None:
        if snapshot is None:
            return None
        return self.snapshots[id(snapshot)] if snapshot.id is None else snapshot.id


async def commit_group(
    tx: Tx, ids: StreamIds, work: CommitWork
) -> tuple[CommitResult, list[tuple[int, EventRow]]]:
    """Write a group; give its numbers and the rows of the events stream."""
    placed = [one for batch in work.batches for one in batch.placed]
    stream_ids = await ids.many(len(placed))
    numbers = _Numbers(
        {one.event.event_id: _number(one, n) for one, n in zip(placed, stream_ids, strict=True)},
        {},
        {one.event.event_id: one.event.sender for one in placed},
    )
    snapshot_ids: Sequence[int] = ()
    interned: Mapping[Key, int] = {}
    await _look_up_old_events(tx, work, placed, numbers)
    if work.snapshots:
        snapshot_ids = await state.new_snapshot_ids(tx, len(work.snapshots))
        interned = await _store_snapshots(tx, work, snapshot_ids, numbers)
    new = [one for one in placed if one.outlier_id is None]
    stateful = [
        (numbers.events[one.event.event_id], one.event)
        for one in new
        if one.event.state_key is not None
    ]
    # It reads, so it comes first: what follows only writes, and may go in one statement.
    if stateful:
        await work.index_chains(tx, stateful)
    await events.insert(tx, [_record(one, work, numbers) for one in new])
    if len(new) < len(placed):
        await events.set_place(tx, [_place(one, numbers) for one in placed if one.outlier_id])
    await _set_heads(tx, work, numbers)
    await _set_state(tx, work, placed, numbers)
    await _note_links(tx, work, placed, numbers)
    result = CommitResult(stream_ids, snapshot_ids, interned)
    return result, [(n, _row(one, numbers)) for n, one in zip(stream_ids, placed, strict=True)]


async def _look_up_old_events(
    tx: Tx, work: CommitWork, placed: Sequence[Placed], numbers: _Numbers
) -> None:
    wanted: set[EventID] = set()
    for _, snapshot in work.snapshots:
        held = snapshot.map if snapshot.changes is None else snapshot.changes
        wanted.update(event_id for event_id in held.values() if event_id is not None)
    for one in placed:
        wanted.update(change.event_id for change in one.changes if change.event_id is not None)
    old = [event_id for event_id in wanted if event_id not in numbers.events]
    if old:
        for event_id, stream_id, sender in await events.numbers_of(tx, old):
            numbers.events[event_id] = stream_id
            numbers.senders[event_id] = sender


async def _store_snapshots(
    tx: Tx, work: CommitWork, snapshot_ids: Sequence[int], numbers: _Numbers
) -> Mapping[Key, int]:
    for (_, snapshot), number in zip(work.snapshots, snapshot_ids, strict=True):
        numbers.snapshots[id(snapshot)] = number
    keys = {
        key
        for _, snapshot in work.snapshots
        for key in (snapshot.map if snapshot.changes is None else snapshot.changes)
    }
    interned = await state.intern_keys(tx, [key for key in keys if key not in work.key_ids])
    records = []
    for (room_id, snapshot), number in zip(work.snapshots, snapshot_ids, strict=True):
        held = snapshot.map if snapshot.changes is None else snapshot.changes
        delta = state.pack(
            (
                interned[key] if key in interned else work.key_ids[key],
                state.REMOVED if event_id is None else numbers.events[event_id],
            )
            for key, event_id in held.items()
        )
        parent = numbers.of_snapshot(snapshot.parent)
        records.append(SnapshotRecord(number, room_id, parent, snapshot.hops, delta))
    await state.insert_snapshots(tx, records)
    return interned


async def _set_heads(tx: Tx, work: CommitWork, numbers: _Numbers) -> None:
    heads: dict[str, tuple[HeadChange, int]] = {}
    summaries: dict[str, tuple[object, ...]] = {}
    for batch in work.batches:
        head = batch.head
        if head is None:
            continue
        last = max((numbers.events[one.event.event_id] for one in batch.placed), default=0)
        heads[batch.room_id] = (
            head,
            max(last, heads[batch.room_id][1] if batch.room_id in heads else 0),
        )
        if head.summary is not None:
            summaries[batch.room_id] = (batch.room_id, *head.summary)
    await rooms.set_heads(
        tx,
        [
            (
                room_id,
                orjson.dumps(head.extremities).decode(),
                numbers.of_snapshot(head.snapshot) or 0,
                head.depth,
                last,
            )
            for room_id, (head, last) in sorted(heads.items())
        ],
    )
    if summaries:
        await rooms.set_summaries(tx, [row for _, row in sorted(summaries.items())])
    new = [batch for batch in work.batches if batch.new_room is not None]
    if new:
        await rooms.insert(
            tx,
            [
                (batch.room_id, batch.new_room.version, batch.new_room.creator, work.now_ms)
                for batch in new
                if batch.new_room is not None
            ],
        )


async def _set_state(tx: Tx, work: CommitWork, placed: Sequence[Placed], numbers: _Numbers) -> None:
    current: dict[tuple[str, str, str], tuple[str, int, str | None] | None] = {}
    ours: dict[tuple[str, str], tuple[str, str, int, str]] = {}
    suffix = f":{work.server_name}"
    for one in placed:
        room_id = one.event.room_id
        for change in one.changes:
            key = (room_id, change.type, change.state_key)
            # An entry that resolution took away leaves the member out of the room.
            cause = change.event_id or one.event.event_id
            number = numbers.events[cause]
            current[key] = None if change.event_id is None else (cause, number, change.membership)
            if change.type == event_types.MEMBER and change.state_key.endswith(suffix):
                sender = numbers.senders.get(cause, one.event.sender)
                membership = change.membership or event_types.LEAVE
                ours[(change.state_key, room_id)] = (membership, cause, number, sender)
    put = [(*key, *entry) for key, entry in sorted(current.items()) if entry is not None]
    gone = [key for key, entry in current.items() if entry is None]
    if put:
        await state.set_current(tx, put)
    if gone:
        await state.unset_current(tx, gone)
    if ours:
        await rooms.set_local_memberships(
            tx, [(*key, *entry) for key, entry in sorted(ours.items())]
        )


async def _note_links(
    tx: Tx, work: CommitWork, placed: Sequence[Placed], numbers: _Numbers
) -> None:
    relations = [row for one in placed if (row := _relation_row(one, numbers)) is not None]
    if relations:
        await relation_writes.insert(tx, relations)
    redactions = [
        (one.event.event_id, one.event.room_id, target, one.event.sender)
        for one in placed
        if (target := one.event.redacts) is not None and one.status != Status.REJECTED
    ]
    if redactions:
        await events.insert_redactions(tx, redactions)
    taken = {one.redacts: one.event.event_id for one in placed if one.redacts is not None}
    if taken:
        await events.set_redacted(tx, sorted(taken.items()))
        await relation_writes.remove(tx, sorted(taken))
    requests = [
        (txn.user_id, txn.device_id, txn.scope, txn.txn_id, one.event.event_id, work.now_ms)
        for one in placed
        if (txn := one.txn) is not None
    ]
    if requests:
        await transaction_ids.insert(tx, requests)
    missing = sorted({(one.event.room_id, cited) for one in placed for cited in one.missing})
    if missing:
        await events.add_backward(tx, missing)
    filled = [one.event.event_id for one in placed if one.fills_gap]
    if filled:
        await events.remove_backward(tx, filled)


def _number(one: Placed, stream_id: int) -> int:
    # Snapshots name events by number, so an outlier keeps the one it was stored under. What
    # followers of the stream hear of it has a new one.
    return stream_id if one.outlier_id is None else one.outlier_id


def _place(one: Placed, numbers: _Numbers) -> tuple[str, int, int]:
    snapshot_id = numbers.of_snapshot(one.before)
    assert snapshot_id is not None
    return one.event.event_id, snapshot_id, int(one.status)


def _record(one: Placed, work: CommitWork, numbers: _Numbers) -> EventRecord:
    event = one.event
    return EventRecord(
        numbers.events[event.event_id],
        work.writer,
        event.event_id,
        event.room_id,
        event.type,
        event.state_key,
        event.sender,
        event.depth,
        event.origin_server_ts,
        numbers.of_snapshot(one.before),
        int(one.status),
        int(has_url(event.content)),
        one.redacted_by,
        event.canonical,
    )


def _relation_row(one: Placed, numbers: _Numbers) -> RelationRecord | None:
    event = one.event
    relation = stored_relation(event)
    if relation is None or one.status not in _SHOWN or one.redacted_by is not None:
        return None
    return RelationRecord(
        event.event_id,
        event.room_id,
        relation.parent_id,
        relation.rel_type,
        relation.key,
        event.type,
        event.sender,
        event.depth,
        numbers.events[event.event_id],
    )


_SHOWN = frozenset((Status.ACCEPTED,))


def _row(one: Placed, numbers: _Numbers) -> EventRow:
    event = one.event
    relation, lost = stored_relation(event), one.lost_relation
    own = one.changes[0] if one.plain and one.changes else None
    return EventRow(
        event.room_id,
        event.event_id,
        event.type,
        event.sender,
        event.state_key,
        event.depth,
        event.origin_server_ts,
        membership=membership_of(event),
        prev_membership=None if own is None else own.prev_membership,
        outlier=one.status == Status.OUTLIER,
        soft_failed=one.status == Status.SOFT_FAILED,
        rejected=one.status == Status.REJECTED,
        redacts=event.redacts,
        relates_to=None if relation is None else (relation.rel_type, relation.parent_id),
        txn=None if one.txn is None else (one.txn.device_id, one.txn.txn_id),
        room_version=event.rules.identifier,
        pdu=event.canonical,
        snapshot_id=numbers.of_snapshot(one.before),
        contains_url=has_url(event.content),
        redaction_applies=one.redacts is not None,
        redacted_by=one.redacted_by,
        state_changes=None
        if one.plain
        else tuple((c.type, c.state_key, c.event_id, c.membership) for c in one.changes),
        lost_relation=None if lost is None else (lost.rel_type, lost.parent_id),
    )
