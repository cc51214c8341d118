"""Events that have their place in a room but are not on disk yet, and the batches they wait in."""

from collections.abc import Callable
from typing import NamedTuple

import attrs
import trio

from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.ids import EventID, RoomID
from hs.core.relations import Relation, relation_of
from hs.services.rooms.append.drafts import Appended, TxnKey
from hs.services.rooms.store.state_snapshots import Snapshot
from hs.services.rooms.store.stored_event import Status
from hs.storage.rooms.rooms import SummaryRecord


class Change(NamedTuple):
    """One entry of a room's current state that became another; `event_id` None: it is gone."""

    type: str
    state_key: str
    event_id: EventID | None
    membership: str | None  # of an m.room.member
    prev_membership: str | None = None


@attrs.define(eq=False)
class Placed:
    """One event to be committed; `before` is the state it was built on, None for outliers.

    `changes` are those of the room's current state; `plain`, that they are just the event
    itself taking its key. `redacts` names an event that is here and gone once this is
    committed, and `lost_relation` what that was to its parent; `redacted_by` names a redaction
    of this event that came first. `missing` are events it cites in prev_events that we lack, and
    `fills_gap` says that it was itself such an event.
    `outlier_id` is the number of an event that is here already, and gets its place now.
    """

    event: Event
    before: Snapshot | None
    changes: tuple[Change, ...] = ()
    plain: bool = True
    status: Status = Status.ACCEPTED
    redacts: EventID | None = None
    lost_relation: Relation | None = None
    redacted_by: EventID | None = None
    txn: TxnKey | None = None
    missing: tuple[EventID, ...] = ()
    fills_gap: bool = False
    outlier_id: int | None = None
    stream_id: int = 0  # set by the commit
    batch: "Batch | None" = None

    def take_away(self, target: Event) -> None:
        """Note the event that is gone once this is committed."""
        self.redacts = target.event_id
        self.lost_relation = stored_relation(target)


class HeadChange(NamedTuple):
    """Where a room ends after a batch; `summary` only when it is another than before."""

    extremities: tuple[EventID, ...]
    snapshot: Snapshot
    depth: int
    summary: SummaryRecord | None


class NewRoom(NamedTuple):
    """The row of a room that the batch makes known."""

    version: str
    creator: str


def _ignore(batch: "Batch") -> None:
    """Do nothing: nobody asked to be told."""


@attrs.define(eq=False)
class Batch:
    """What one call appends: committed whole or not at all. `head` None: the end stays.

    `finished` is called once, before the waiters wake, with `error` set if it failed.
    """

    room_id: RoomID
    placed: list[Placed]
    head: HeadChange | None
    new_room: NewRoom | None = None
    finished: "Callable[[Batch], None]" = _ignore
    error: Exception | None = None
    done: trio.Event = attrs.Factory(trio.Event)

    def __attrs_post_init__(self) -> None:
        for one in self.placed:
            one.batch = self

    def finish(self, error: Exception | None = None) -> None:
        """Say what became of it, once."""
        self.error = error
        self.finished(self)
        self.done.set()
        # An event knows its batch: without this the pair would wait for the garbage collector.
        self.placed = []
        self.finished = _ignore

    async def wait(self) -> None:
        """Wait until it is on disk and delivered; giving up waiting does not stop the commit.

        Raises: why it is not.
        """
        await self.done.wait()
        if self.error is not None:
            raise self.error.with_traceback(None)


async def appended(placed: Placed, existed: bool) -> Appended:
    """Give what became of an event, once that is known.

    Raises: why it was not committed.
    """
    assert placed.batch is not None
    await placed.batch.wait()
    return Appended(placed.event.event_id, placed.stream_id, placed.event.room_id, existed)


def stored_relation(event: Event) -> Relation | None:
    """Read the relation that is kept of an event: state events relate to nothing."""
    if "m.relates_to" not in event.content or event.state_key is not None:
        return None
    relation = relation_of(event.content)
    # Texts of other servers may hold NUL, which databases do not store.
    if relation is None or "\0" in relation.rel_type or "\0" in (relation.key or ""):
        return None
    return relation


def membership_of(event: Event) -> str | None:
    """Read the membership that an event sets; None if it is not an m.room.member."""
    if event.type != event_types.MEMBER or event.state_key is None:
        return None
    membership = event.content.get("membership")
    return membership if isinstance(membership, str) else None
