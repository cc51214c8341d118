"""The unit of work that commits a group of batches of many rooms in one transaction.

Rules:

- It runs in another thread, and a second time if the database reports a conflict. So it only
  reads its CommitWork: the numbers it assigns are collected in `CommitNumbers` and returned, and
  the committer writes them into the snapshots and events once the commit has succeeded.
- Events that are history (BACKFILL), and outliers that change no membership, have negative numbers:
  to sync they are never new. Of a batch, the oldest event has the least number.
- Stream IDs are taken first. Whatever refers to events by number (snapshots, relations, the index
  of auth chains) is written with them.
- Batches are in the order of submission. Where several of them write the same row (a room's head,
  an entry of its current state, a membership), only the last value is written.
- What must read comes before the statements that only write, which may then be pipelined.
"""

from collections.abc import Mapping, Sequence

import attrs
import orjson

from hs.core.events import event_types
from hs.core.ids import EventID
from hs.core.streams import BACKFILL, EventRow
from hs.repl.writers import StreamIds
from hs.services.rooms.append.commit_rows import (
    CommitNumbers,
    CommitWork,
    concerns_local_user,
    event_record,
    event_row,
    outlier_update,
    placed_outlier,
    relation_record,
    sticky_record,
)
from hs.services.rooms.append.pending_events import (
    HeadChange,
    PendingEvent,
    membership_of,
)
from hs.services.rooms.append.server_counts import NO_COUNTS, ServerCounts, count_servers
from hs.services.rooms.store.stored_event import EventStatus
from hs.storage.database import Tx
from hs.storage.rooms import (
    events,
    relation_writes,
    room_servers,
    rooms,
    state,
    sticky_events,
    timeline_gaps,
    transaction_ids,
)
from hs.storage.rooms.state import Key, SnapshotRecord


@attrs.frozen(eq=False)
class CommitResult:
    """The numbers that a commit assigned, in the order of the events and snapshots."""

    stream_ids: Sequence[int]
    snapshot_ids: Sequence[int]
    key_ids: Mapping[Key, int]  # of the keys that were interned or looked up


async def commit_group(
    tx: Tx, ids: StreamIds, work: CommitWork
) -> tuple[CommitResult, list[tuple[int, EventRow]]]:
    """Write a group of batches; return its numbers and the rows of the events stream."""
    pending_events = [pending for batch in work.batches for pending in batch.events]
    stream_ids = await ids.next_ids(len(pending_events))
    if work.is_history:
        stream_ids.reverse()
    numbers = CommitNumbers(
        events=await _number(tx, work, pending_events, stream_ids),
        snapshots={},
        positions={
            pending.event.event_id: stream_id
            for pending, stream_id in zip(pending_events, stream_ids, strict=True)
        },
        senders={pending.event.event_id: pending.event.sender for pending in pending_events},
    )
    snapshot_ids: Sequence[int] = ()
    key_ids: Mapping[Key, int] = {}
    await _look_up_stored_events(tx, work, pending_events, numbers)
    if work.snapshots:
        snapshot_ids = await state.new_snapshot_ids(tx, len(work.snapshots))
        key_ids = await _store_snapshots(tx, work, snapshot_ids, numbers)
    elif pending_events[0].status == EventStatus.OUTLIER:
        # A state that will contain outliers is stored in a later commit, which is then shorter.
        key_ids = await state.intern_keys(tx, _keys_of_outliers(pending_events, work.key_ids))
    new = [pending for pending in pending_events if pending.outlier_id is None]
    state_events = [
        (numbers.events[pending.event.event_id], pending.event)
        for pending in new
        if pending.event.state_key is not None
    ]
    # The index reads, so it comes first: what follows only writes and may be pipelined.
    if state_events:
        await work.index_chains(tx, state_events)
    servers = await _count_servers(tx, work, pending_events, numbers)
    await events.insert(tx, [event_record(pending, work, numbers) for pending in new])
    outliers = [pending for pending in pending_events if pending.outlier_id]
    if outliers:
        await _place_outliers(tx, work, outliers, numbers)
    await _set_heads(tx, work, numbers)
    await _set_state(tx, work, pending_events, numbers)
    rows = [
        (stream_id, event_row(pending, numbers, stream_id, work.now_ms))
        for stream_id, pending in zip(stream_ids, pending_events, strict=True)
    ]
    await _write_servers(tx, servers, rows)
    sticky = [
        (sticky_record(at, row, work), row.soft_failed)
        for at, row in rows
        if row.sticky_until and not work.is_history
    ]
    if sticky:
        await sticky_events.insert(tx, sticky)
    await _set_links(tx, work, pending_events, numbers)
    return CommitResult(stream_ids, snapshot_ids, key_ids), rows


async def _write_servers(
    tx: Tx, servers: ServerCounts, rows: Sequence[tuple[int, EventRow]]
) -> None:
    if servers.rows:
        await room_servers.add(tx, servers.rows)
    if servers.removals:
        await room_servers.add_removals(tx, servers.removals)
    relayed = [(stream_id, row.event_id) for stream_id, row in rows if row.relay]
    if relayed:
        await room_servers.add_relayed(tx, relayed)


async def _place_outliers(
    tx: Tx, work: CommitWork, outliers: Sequence[PendingEvent], numbers: CommitNumbers
) -> None:
    await events.place_outliers(tx, [outlier_update(pending, numbers) for pending in outliers])
    placed = [placed_outlier(pending, work, numbers) for pending in outliers]
    await events.add_placed_outliers(tx, placed)


def _keys_of_outliers(
    pending_events: Sequence[PendingEvent], known: Mapping[Key, int]
) -> list[Key]:
    keys = [
        (pending.event.type, pending.event.state_key)
        for pending in pending_events
        if pending.status == EventStatus.OUTLIER and pending.event.state_key is not None
    ]
    return [key for key in keys if key not in known]


async def _look_up_stored_events(
    tx: Tx, work: CommitWork, pending_events: Sequence[PendingEvent], numbers: CommitNumbers
) -> None:
    event_ids: set[EventID] = set()
    for _, snapshot in work.snapshots:
        entries = snapshot.map if snapshot.changes is None else snapshot.changes
        event_ids.update(event_id for event_id in entries.values() if event_id is not None)
    for pending in pending_events:
        event_ids.update(
            change.event_id for change in pending.changes if change.event_id is not None
        )
    stored = [event_id for event_id in event_ids if event_id not in numbers.events]
    if stored:
        for event_id, stream_id, sender in await events.stream_ids_and_senders(tx, stored):
            numbers.events[event_id] = stream_id
            numbers.senders[event_id] = sender


async def _count_servers(
    tx: Tx, work: CommitWork, pending_events: Sequence[PendingEvent], numbers: CommitNumbers
) -> ServerCounts:
    changing = [pending for pending in pending_events if pending.changes]
    if not changing:
        return NO_COUNTS
    counts = await count_servers(tx, changing, numbers.positions, work.server_name)
    numbers.left_servers = counts.left
    return counts


async def _store_snapshots(
    tx: Tx, work: CommitWork, snapshot_ids: Sequence[int], numbers: CommitNumbers
) -> Mapping[Key, int]:
    for (_, snapshot), snapshot_id in zip(work.snapshots, snapshot_ids, strict=True):
        numbers.snapshots[id(snapshot)] = snapshot_id
    keys = {
        key
        for _, snapshot in work.snapshots
        for key in (snapshot.map if snapshot.changes is None else snapshot.changes)
    }
    key_ids = await state.intern_keys(tx, [key for key in keys if key not in work.key_ids])
    records: dict[int, SnapshotRecord] = {}
    for (room_id, snapshot), snapshot_id in zip(work.snapshots, snapshot_ids, strict=True):
        entries = snapshot.map if snapshot.changes is None else snapshot.changes
        delta = state.pack(
            (
                key_ids[key] if key in key_ids else work.key_ids[key],
                state.REMOVED if event_id is None else numbers.events[event_id],
            )
            for key, event_id in entries.items()
        )
        parent = numbers.snapshot_id(snapshot.parent)
        if snapshot.is_packed:
            assert parent is not None
            whole = await _entries_with(tx, records, parent, delta)
            parent, delta = None, state.pack(whole.items())
        records[snapshot_id] = SnapshotRecord(snapshot_id, room_id, parent, snapshot.hops, delta)
    await state.insert_snapshots(tx, list(records.values()))
    return key_ids


async def _entries_with(
    tx: Tx, records: Mapping[int, SnapshotRecord], snapshot_id: int | None, delta: bytes
) -> dict[int, int]:
    """Return the numbers in a snapshot, stored or among the records, after a change."""
    deltas = [delta]
    while snapshot_id is not None and snapshot_id in records:
        deltas.append(records[snapshot_id].delta)
        snapshot_id = records[snapshot_id].parent_id
    base = {} if snapshot_id is None else await state.snapshot_numbers(tx, snapshot_id)
    return state.apply_deltas(base, reversed(deltas))


async def _set_heads(tx: Tx, work: CommitWork, numbers: CommitNumbers) -> None:
    heads: dict[str, tuple[HeadChange, int]] = {}
    sent: dict[str, int] = {}
    summaries: dict[str, tuple[object, ...]] = {}
    suffix = f":{work.server_name}"
    for batch in work.batches:
        head = batch.head
        if head is None:
            continue
        last = max((numbers.events[pending.event.event_id] for pending in batch.events), default=0)
        for pending in batch.events:
            is_own = pending.event.sender.endswith(suffix) and not pending.distributed
            if (pending.relay or is_own) and not pending.fills_gap:
                sent[batch.room_id] = numbers.positions[pending.event.event_id]
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
                numbers.snapshot_id(head.snapshot) or 0,
                head.depth,
                last,
                sent.get(room_id),
            )
            for room_id, (head, last) in sorted(heads.items())
        ],
    )
    if summaries:
        await rooms.set_summaries(tx, [row for _, row in sorted(summaries.items())])
    for batch in work.batches:
        if batch.new_room is not None:
            version, creator, is_outside = batch.new_room
            insert = rooms.insert_outside if is_outside else rooms.insert
            await insert(tx, [(batch.room_id, version, creator, work.now_ms)])


async def _set_state(
    tx: Tx, work: CommitWork, pending_events: Sequence[PendingEvent], numbers: CommitNumbers
) -> None:
    current: dict[tuple[str, str, str], tuple[str, int, str | None] | None] = {}
    outside: list[PendingEvent] = []
    local: dict[tuple[str, str], tuple[str, str, int, str]] = {}
    suffix = f":{work.server_name}"
    for pending in pending_events:
        room_id = pending.event.room_id
        if pending.outside:
            outside.append(pending)
            local[(pending.event.state_key or "", room_id)] = _outside_membership(pending, numbers)
        for change in pending.changes:
            key = (room_id, change.type, change.state_key)
            # Where state resolution removed a membership, the user counts as having left.
            event_id = change.event_id or pending.event.event_id
            stream_id = numbers.events[event_id]
            current[key] = (
                None if change.event_id is None else (event_id, stream_id, change.membership)
            )
            if change.type == event_types.MEMBER and change.state_key.endswith(suffix):
                sender = numbers.senders.get(event_id, pending.event.sender)
                membership = change.membership or event_types.LEAVE
                local[(change.state_key, room_id)] = (membership, event_id, stream_id, sender)
    changed = [(*key, *entry) for key, entry in sorted(current.items()) if entry is not None]
    removed = [key for key, entry in current.items() if entry is None]
    if changed:
        await state.set_current(tx, changed)
    if removed:
        await state.unset_current(tx, removed)
    if local:
        await rooms.set_local_memberships(
            tx, [(*key, *entry) for key, entry in sorted(local.items())]
        )
    for pending in outside:
        if pending.stripped_state is not None:
            user_id, room_id = pending.event.state_key or "", pending.event.room_id
            await rooms.set_stripped_state(tx, user_id, room_id, pending.stripped_state)


def _outside_membership(pending: PendingEvent, numbers: CommitNumbers) -> tuple[str, str, int, str]:
    event = pending.event
    membership = membership_of(event) or event_types.LEAVE
    return membership, event.event_id, numbers.events[event.event_id], event.sender


async def _set_links(
    tx: Tx, work: CommitWork, pending_events: Sequence[PendingEvent], numbers: CommitNumbers
) -> None:
    relations = [row for e in pending_events if (row := relation_record(e, numbers)) is not None]
    if relations:
        await relation_writes.insert(tx, relations)
    redactions = [
        (pending.event.event_id, pending.event.room_id, target, pending.event.sender)
        for pending in pending_events
        if (target := pending.event.redacts) is not None and pending.status != EventStatus.REJECTED
    ]
    if redactions:
        await events.add_redactions(tx, redactions)
    applied = {pending.redacted_by for pending in pending_events if pending.redacted_by is not None}
    if applied:
        # Redactions whose target was unknown until now were hidden.
        await events.set_status(tx, [(each, int(EventStatus.ACCEPTED)) for each in sorted(applied)])
    redacted = {
        pending.redacts: pending.event.event_id
        for pending in pending_events
        if pending.redacts is not None
    }
    if redacted:
        await events.set_redacted(tx, sorted(redacted.items()))
        await relation_writes.remove(tx, sorted(redacted))
        await sticky_events.remove(tx, sorted(redacted))
    transactions = [
        (
            *(txn.user_id, txn.device_id, txn.scope, txn.txn_id),
            numbers.events[pending.event.event_id],
            work.now_ms,
        )
        for pending in pending_events
        if (txn := pending.txn) is not None
    ]
    if transactions:
        await transaction_ids.insert(tx, transactions)
    missing: dict[tuple[str, str], int] = {}
    for pending in pending_events:
        for event_id in pending.missing_prev_events:
            key = (pending.event.room_id, event_id)
            missing[key] = max(pending.event.depth, missing.get(key, 0))
    if missing:
        rows = [(*key, depth) for key, depth in sorted(missing.items())]
        await events.add_backward_extremities(tx, rows)
        await timeline_gaps.add(
            tx,
            [
                (pending.event.room_id, numbers.events[pending.event.event_id])
                for pending in pending_events
                if pending.missing_prev_events and not work.is_history
            ],
        )
    gaps = [pending.event.event_id for pending in pending_events if pending.fills_gap]
    if gaps:
        await events.remove_backward_extremities(tx, gaps)


async def _number(
    tx: Tx, work: CommitWork, pending_events: Sequence[PendingEvent], stream_ids: Sequence[int]
) -> dict[str, int]:
    """Return the number of each event: its stream ID, by which snapshots refer to it."""
    numbers: dict[str, int] = {}
    outliers: list[str] = []
    for pending, stream_id in zip(pending_events, stream_ids, strict=True):
        event_id = pending.event.event_id
        if pending.outlier_id is not None:
            # An outlier keeps the number under which it was stored; its row has a new one.
            numbers[event_id] = pending.outlier_id
        elif work.is_history:
            numbers[event_id] = -stream_id
        else:
            numbers[event_id] = stream_id
            if pending.state_before is None and not concerns_local_user(pending, work):
                outliers.append(event_id)
    if outliers:
        history_ids = await tx.next_ids(BACKFILL.name, len(outliers))
        numbers.update(
            (event_id, -history_id)
            for event_id, history_id in zip(outliers, reversed(history_ids), strict=True)
        )
    return numbers
