"""Events that have their position in a hot room but are not committed yet, and their batches.

Rules:

- A batch is committed whole or not at all, and finishes exactly once.
- If the outcome of its commit is not known in time, the waiters are answered before it finishes.
  It stays pending: a repeated request finds it and gets the same answer until it is finished.
- `on_finished` runs before the waiters wake up, so a waiter finds the room, the transaction IDs
  and the stream IDs already updated.
- Waiters only wait: if one is cancelled, the commit continues.
"""

from collections.abc import Callable
from typing import NamedTuple

import attrs
import trio

from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.ids import EventID, RoomID
from hs.core.relations import Relation, relation_of
from hs.services.rooms.append.drafts import AppendedEvent, TransactionKey
from hs.services.rooms.store.state_snapshots import Snapshot
from hs.services.rooms.store.stored_event import EventStatus
from hs.storage.rooms.rooms import RoomSummaryRecord


class StateEntryChange(NamedTuple):
    """One changed entry of a room's current state; `event_id` None: the entry was removed."""

    type: str
    state_key: str
    event_id: EventID | None
    membership: str | None  # of m.room.member events
    prev_membership: str | None = None


@attrs.define(eq=False)
class PendingEvent:
    """One event to be committed.

    - `state_before`: the state it was built on; None for outliers.
    - `changes`: what it changes in the room's current state. `only_own_entry` means that this is
      just the event itself taking its (type, state key), or nothing.
    - `redacts`: the stored event that is redacted once this redaction is committed, and
      `lost_relation`, the relation which that event thereby loses.
    - `redacted_by`: a redaction of this event that arrived earlier.
    - `missing_prev_events`: prev_events that this server lacks. They become backward extremities.
    - `fills_gap`: this event was such a backward extremity.
    - `outlier_id`: the stream ID of a stored outlier that now gets the state before it.
    - `outside`: an outlier, the membership of a local user in a room that this server is not in;
      with the `stripped_state` that the user may see, a JSON array.
    - `relay`: this server sends the event of another server to all servers in the room.
    - `distributed`: another server sends the event of this one to all servers in the room.
    - `stream_id`: set by the commit.
    """

    event: Event
    state_before: Snapshot | None
    changes: tuple[StateEntryChange, ...] = ()
    only_own_entry: bool = True
    status: EventStatus = EventStatus.ACCEPTED
    redacts: EventID | None = None
    lost_relation: Relation | None = None
    redacted_by: EventID | None = None
    txn: TransactionKey | None = None
    missing_prev_events: tuple[EventID, ...] = ()
    fills_gap: bool = False
    outlier_id: int | None = None
    relay: bool = False
    distributed: bool = False
    outside: bool = False
    stripped_state: bytes | None = None
    stream_id: int = 0
    batch: "EventBatch | None" = None

    def mark_redacted(self, target: Event) -> None:
        """Record `target` as redacted by this event once it is committed."""
        self.redacts = target.event_id
        self.lost_relation = relation_to_store(target)


class HeadChange(NamedTuple):
    """The end of a room after a batch; `summary` is None if it did not change."""

    extremities: tuple[EventID, ...]
    snapshot: Snapshot
    depth: int
    summary: RoomSummaryRecord | None


class NewRoomRow(NamedTuple):
    """The row of a room that the batch creates.

    `is_outside`: this server is not in the room, and only another server says which version it has.
    """

    version: str
    creator: str
    is_outside: bool = False


def _ignore(batch: "EventBatch") -> None:
    pass


@attrs.define(eq=False)
class EventBatch:
    """The events of one call, committed together or not at all.

    `head` is None if the end of the room stays the same. `on_finished` is called once, before the
    waiters wake up; `error` is set if the commit failed, or while its outcome is unknown. `fences`
    is the number of fences of the writer when the batch was submitted.
    """

    room_id: RoomID
    events: list[PendingEvent]
    head: HeadChange | None
    new_room: NewRoomRow | None = None
    on_finished: "Callable[[EventBatch], None]" = _ignore
    error: Exception | None = None
    is_finished: bool = False
    fences: int = 0
    _answered: trio.Event = attrs.Factory(trio.Event)

    def __attrs_post_init__(self) -> None:
        for pending in self.events:
            pending.batch = self

    def finish(self, error: Exception | None = None) -> None:
        """Record the outcome and wake the waiters; called once."""
        self.error = error
        self.is_finished = True
        self.on_finished(self)
        self._answered.set()
        # Events refer to their batch: break the cycle, so that memory is freed at once.
        self.events = []
        self.on_finished = _ignore

    def answer_late(self, error: Exception) -> None:
        """Wake the waiters with an error, as the outcome is not known in time."""
        self.error = error
        self._answered.set()

    async def wait(self) -> None:
        """Wait until the batch is committed and delivered by the feed.

        Raises: the reason of a failed commit; NotCommitted, if the outcome is not known in time.
        """
        await self._answered.wait()
        if self.error is not None:
            raise self.error.with_traceback(None)


async def wait_until_appended(pending: PendingEvent, existed: bool) -> AppendedEvent:
    """Wait for the commit of an event and return the result.

    Raises: the reason of a failed commit.
    """
    assert pending.batch is not None
    await pending.batch.wait()
    return AppendedEvent(pending.event.event_id, pending.stream_id, pending.event.room_id, existed)


def relation_to_store(event: Event) -> Relation | None:
    """Return the relation of an event as it is stored; state events have none."""
    if "m.relates_to" not in event.content or event.state_key is not None:
        return None
    relation = relation_of(event.content)
    # Strings of other servers may contain NUL, which PostgreSQL cannot store.
    if relation is None or "\0" in relation.rel_type or "\0" in (relation.key or ""):
        return None
    return relation


def is_dummy(event: Event) -> bool:
    """Return whether an event is in a room only to join forward extremities."""
    return event.type == event_types.DUMMY and event.state_key is None


def membership_of(event: Event) -> str | None:
    """Return the membership in an m.room.member event; None for other events."""
    if event.type != event_types.MEMBER or event.state_key is None:
        return None
    membership = event.content.get("membership")
    return membership if isinstance(membership, str) else None
