"""How the events of a commit change the numbers of joined members of each server in a room.

A server that is not in the room gets an event that removes one of its users: that withdraws an
invite, refuses a knock, or bans. If it cannot be reached, a row says later that it lacks the event.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import attrs

from hs.core.events import event_types
from hs.core.ids import EventID
from hs.services.rooms.append.pending_events import PendingEvent, StateEntryChange
from hs.storage.database import Tx
from hs.storage.rooms import room_servers
from hs.storage.rooms.room_servers import CountChange, RemovalRecord

_REMOVING: Final = frozenset((event_types.LEAVE, event_types.BAN))
_OUTSIDE: Final = frozenset((event_types.INVITE, event_types.KNOCK, event_types.LEAVE))


class _MemberChange(NamedTuple):
    key: tuple[str, str]  # room ID, server
    event_id: EventID
    user_id: str
    difference: int  # 0: a user who was not joined was removed


@attrs.frozen(eq=False)
class ServerCounts:
    """What the events of a commit change.

    - `rows`: to be added to `room_servers`.
    - `removals`: to be added to `outside_removals`.
    - `left`: by event the other servers that left with it, or that lack nothing but such a removal.
    """

    rows: Sequence[CountChange]
    removals: Sequence[RemovalRecord]
    left: Mapping[EventID, tuple[str, ...]]


NO_COUNTS: Final = ServerCounts((), (), {})


async def count_servers(
    tx: Tx,
    pending_events: Iterable[PendingEvent],
    positions: Mapping[str, int],
    server_name: str,
) -> ServerCounts:
    """Return the changes that events make; `positions` are those of their rows.

    The stored counts are read only if users of other servers leave or are removed.
    """
    changes = list(_changes(pending_events, server_name))
    leaving = {
        change.key for change in changes if change.difference <= 0 and change.key[1] != server_name
    }
    counts = await room_servers.counts(tx, sorted(leaving)) if leaving else {}
    differences: dict[tuple[str, str], int] = {}
    joined: dict[tuple[str, str], int] = {}
    left: dict[tuple[str, str], EventID] = {}
    removed: dict[tuple[str, str], _MemberChange] = {}
    by_event: dict[EventID, tuple[str, ...]] = {}
    for change in changes:
        key, event_id, user_id, difference = change
        if not difference:
            if counts.get(key, 0) <= 0:
                removed[key[0], user_id] = change
                by_event[event_id] = (key[1],)
            continue
        differences[key] = differences.get(key, 0) + difference
        if difference > 0:
            joined.setdefault(key, positions[event_id])
        if key in leaving:
            counts[key] = counts.get(key, 0) + difference
            if counts[key] <= 0 and difference < 0:
                left[key] = event_id
            else:
                left.pop(key, None)
    for (_, server), event_id in left.items():
        by_event[event_id] = (*by_event.get(event_id, ()), server)
    rows = [
        CountChange(
            *key, difference, joined.get(key, 0), positions[left[key]] if key in left else None
        )
        for key, difference in sorted(differences.items())
    ]
    removals = [
        RemovalRecord(change.key[1], *key, positions[change.event_id])
        for key, change in sorted(removed.items())
    ]
    return ServerCounts(rows, removals, by_event)


def _changes(pending_events: Iterable[PendingEvent], server_name: str) -> Iterator[_MemberChange]:
    for pending in pending_events:
        event = pending.event
        for change in pending.changes:
            if change.type != event_types.MEMBER:
                continue
            key = (event.room_id, change.state_key.partition(":")[2])
            is_joined = change.membership == event_types.JOIN
            if is_joined != (change.prev_membership == event_types.JOIN):
                yield _MemberChange(key, event.event_id, change.state_key, 1 if is_joined else -1)
            elif key[1] != server_name and _is_removal(change, pending, server_name):
                yield _MemberChange(key, event.event_id, change.state_key, 0)


def _is_removal(change: StateEntryChange, pending: PendingEvent, server_name: str) -> bool:
    """Return whether this server sends the event by which a user who was not joined was removed."""
    return (
        change.event_id == pending.event.event_id
        and change.membership in _REMOVING
        and change.prev_membership in _OUTSIDE
        and pending.event.sender.endswith(f":{server_name}")
        and not pending.distributed
    )
