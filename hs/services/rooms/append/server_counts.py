"""How the events of a commit change the numbers of joined members of each server in a room."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import attrs

from hs.core.events import event_types
from hs.core.ids import EventID
from hs.services.rooms.append.pending_events import PendingEvent
from hs.storage.database import Tx
from hs.storage.rooms import room_servers
from hs.storage.rooms.room_servers import CountChange


class _MemberChange(NamedTuple):
    key: tuple[str, str]  # room ID, server
    event_id: EventID
    difference: int


@attrs.frozen(eq=False)
class ServerCounts:
    """The rows to add to `room_servers`, and by event the other servers that left with it."""

    rows: Sequence[CountChange]
    left: Mapping[EventID, tuple[str, ...]]


async def count_servers(
    tx: Tx,
    pending_events: Iterable[PendingEvent],
    positions: Mapping[str, int],
    server_name: str,
) -> ServerCounts:
    """Return the changes that events make; `positions` are those of their rows.

    The stored counts are read only if users of other servers leave.
    """
    changes = _changes(pending_events)
    leaving = {
        change.key for change in changes if change.difference < 0 and change.key[1] != server_name
    }
    counts = await room_servers.counts(tx, sorted(leaving)) if leaving else {}
    differences: dict[tuple[str, str], int] = {}
    joined: dict[tuple[str, str], int] = {}
    left: dict[tuple[str, str], EventID] = {}
    for key, event_id, difference in changes:
        differences[key] = differences.get(key, 0) + difference
        if difference > 0:
            joined.setdefault(key, positions[event_id])
        if key in leaving:
            counts[key] = counts.get(key, 0) + difference
            if counts[key] <= 0 and difference < 0:
                left[key] = event_id
            else:
                left.pop(key, None)
    by_event: dict[EventID, tuple[str, ...]] = {}
    for (_, server), event_id in left.items():
        by_event[event_id] = (*by_event.get(event_id, ()), server)
    rows = [
        CountChange(
            *key, difference, joined.get(key, 0), positions[left[key]] if key in left else None
        )
        for key, difference in sorted(differences.items())
    ]
    return ServerCounts(rows, by_event)


def _changes(pending_events: Iterable[PendingEvent]) -> list[_MemberChange]:
    return [
        _MemberChange(
            (pending.event.room_id, change.state_key.partition(":")[2]),
            pending.event.event_id,
            1 if change.membership == event_types.JOIN else -1,
        )
        for pending in pending_events
        for change in pending.changes
        if change.type == event_types.MEMBER
        and (change.membership == event_types.JOIN) != (change.prev_membership == event_types.JOIN)
    ]
