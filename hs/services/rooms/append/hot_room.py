"""A room in the memory of its owner: its state, where it ends, and who may do what.

The end of a room is one immutable value, `RoomHead`. Appending makes new heads step by step and
puts the last one in place at once, so that a step that fails leaves nothing behind.
"""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import attrs
from immutables import Map

from hs.core.auth.power_levels import PowerLevels
from hs.core.auth.selection import auth_state_types
from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.events.event_types import StateKey
from hs.core.events.hashes import reference_hash
from hs.core.ids import EventID, RoomID
from hs.core.unpadded_base64 import encode_base64
from hs.core.versions import RoomVersion
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.append.pending_events import Change, Placed, membership_of
from hs.services.rooms.append.recent_annotations import RecentAnnotations
from hs.services.rooms.store import state_snapshots
from hs.services.rooms.store.room_summaries import SUMMARISED_TYPES, count_membership, summary_after
from hs.services.rooms.store.state_snapshots import Snapshot
from hs.storage.rooms.rooms import SummaryRecord

AUTH_TYPES: Final = frozenset(
    (
        event_types.CREATE,
        event_types.POWER_LEVELS,
        event_types.JOIN_RULES,
        event_types.MEMBER,
        event_types.THIRD_PARTY_INVITE,
    )
)
MAX_PREV_EVENTS: Final = 10
MAX_KEPT_EVENTS: Final = 4096

_ROOM_BYTES: Final = 4000
_MEMBER_BYTES: Final = 120
_EVENT_BYTES: Final = 3000


class Extremity(NamedTuple):
    """An event that no known event points back to; the hash is of room versions 1 and 2 only."""

    event_id: EventID
    depth: int
    reference_hash: str = ""


@attrs.define(eq=False)
class RoomHead:
    """The end of a room: the state after all its extremities, and what is read from that state.

    Never changed: the methods give the head that follows. `events` holds those events of the
    state that the auth rules were asked about; all others are known by ID only.
    """

    snapshot: Snapshot
    extremities: tuple[Extremity, ...]
    depth: int
    events: Map[StateKey, Event]
    members: Map[str, str]
    summary: SummaryRecord
    power: PowerLevels

    def with_events(self, events: Iterable[Event]) -> "RoomHead":
        """Give the head that knows more events of its own state."""
        kept = self.events.update({(one.type, one.state_key or ""): one for one in events})
        return attrs.evolve(self, events=kept)

    def with_state(self, changes: Mapping[StateKey, Event | None], create: Event) -> "RoomHead":
        """Give the head after entries of the state were set, or removed where None."""
        head = attrs.evolve(
            self,
            snapshot=self.snapshot.after(
                {key: None if new is None else new.event_id for key, new in changes.items()}
            ),
        )
        for key, new in changes.items():
            head._read(key, new)
        if event_types.POWER_LEVELS_KEY in changes or event_types.CREATE_KEY in changes:
            levels = changes.get(
                event_types.POWER_LEVELS_KEY, self.events.get(event_types.POWER_LEVELS_KEY)
            )
            head.power = PowerLevels.of(levels, create, create.rules)
        return head

    def with_extremities(self, extremities: tuple[Extremity, ...]) -> "RoomHead":
        """Give the head that ends in other events."""
        depth = max((one.depth for one in extremities), default=self.depth)
        return attrs.evolve(self, extremities=extremities, depth=depth)

    def prev_events(self) -> tuple[Extremity, ...]:
        """Choose what a new event follows: the deepest ends, if there are too many to cite."""
        if len(self.extremities) <= MAX_PREV_EVENTS:
            return self.extremities
        ordered = sorted(self.extremities, key=lambda one: one.depth, reverse=True)
        return tuple(ordered[:MAX_PREV_EVENTS])

    def _read(self, key: StateKey, new: Event | None) -> None:
        # Only on a head that nobody else has seen yet.
        if key[0] in AUTH_TYPES:
            if new is not None:
                self.events = self.events.set(key, new)
            elif key in self.events:
                self.events = self.events.delete(key)
        if key[0] == event_types.MEMBER:
            self._read_member(key[1], None if new is None else membership_of(new))
        elif key[0] in SUMMARISED_TYPES:
            self.summary = summary_after(self.summary, key, new)

    def _read_member(self, user_id: str, membership: str | None) -> None:
        before = self.members.get(user_id)
        self.summary = count_membership(self.summary, before, membership)
        if membership is not None:
            self.members = self.members.set(user_id, membership)
        elif before is not None:
            self.members = self.members.delete(user_id)


@attrs.define(eq=False)
class HotRoom:
    """One room; belongs to whoever holds the room's lock, between awaits.

    `pending` are its events that are not committed yet, whole batches that the head counts in.
    When a commit fails the room is `dropped`: what is in memory never came to be.
    """

    room_id: RoomID
    create: Event
    head: RoomHead
    pending: dict[EventID, Placed] = attrs.Factory(dict)
    annotations: RecentAnnotations = attrs.Factory(RecentAnnotations)
    pins: int = 0
    dropped: bool = False

    @property
    def rules(self) -> RoomVersion:
        """Give the rules of the room's version."""
        return self.create.rules

    def weight(self) -> int:
        """Estimate the memory taken, in bytes."""
        head = self.head
        return (
            _ROOM_BYTES
            + len(head.snapshot.map) * state_snapshots.ENTRY_BYTES
            + len(head.members) * _MEMBER_BYTES
            + len(head.events) * _EVENT_BYTES
        )

    def unknown_auth_events(self, drafts: Iterable[Draft]) -> list[EventID]:
        """List the events of the state that the auth rules need and that are not in memory."""
        head = self.head
        missing: list[EventID] = []
        for draft in drafts:
            for key in auth_state_types(
                self.rules, draft.type, draft.sender, draft.state_key, draft.content
            ):
                if key not in head.events:
                    event_id = head.snapshot.map.get(key)
                    if event_id is not None:
                        missing.append(event_id)
        return missing

    def keep(self, events: Iterable[Event]) -> None:
        """Remember events of the current state that had to be fetched."""
        self.head = self.head.with_events(events)

    def trim(self) -> None:
        """Forget member events when there are many; what is not committed stays."""
        head = self.head
        if len(head.events) <= MAX_KEPT_EVENTS:
            return
        kept = {
            key: event
            for key, event in head.events.items()
            if key[0] != event_types.MEMBER or event.event_id in self.pending
        }
        self.head = attrs.evolve(head, events=Map(kept))


def extremity(event: Event) -> Extremity:
    """Make an extremity of an event."""
    if event.rules.event_id_is_hash:
        return Extremity(event.event_id, event.depth)
    return Extremity(event.event_id, event.depth, reference_hash_text(event))


def reference_hash_text(event: Event) -> str:
    """Give the hash by which events of room versions 1 and 2 refer to another."""
    return encode_base64(reference_hash(event.pdu, event.rules))


def first_head(create: Event) -> RoomHead:
    """Give the head of a room that is about to get its create event."""
    power = PowerLevels.of(None, create, create.rules)
    return RoomHead(state_snapshots.empty(), (), 0, Map(), Map(), SummaryRecord(), power)


def follow(head: RoomHead, event: Event, create: Event) -> RoomHead:
    """Give the head after an event that cites the head's `prev_events`, and was allowed."""
    cited = head.prev_events()
    if len(cited) == len(head.extremities):
        rest: tuple[Extremity, ...] = ()
    else:
        rest = tuple(one for one in head.extremities if one not in cited)
    if event.state_key is not None:
        head = head.with_state({(event.type, event.state_key): event}, create)
    return attrs.evolve(
        head, extremities=(*rest, extremity(event)), depth=max(head.depth, event.depth)
    )


def own_change(head: RoomHead, event: Event) -> tuple[Change, ...]:
    """Give what an event changes in the state of the head before it."""
    if event.state_key is None:
        return ()
    before = head.members.get(event.state_key) if event.type == event_types.MEMBER else None
    return (Change(event.type, event.state_key, event.event_id, membership_of(event), before),)
