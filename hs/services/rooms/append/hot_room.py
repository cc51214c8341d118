"""A room in the memory of its owner: forward extremities, current state, power levels.

Rules:

- `RoomHead` is immutable to everybody but the method that builds it. Appending derives new heads
  step by step and assigns the last one to `HotRoom.head` in one step, so a draft that fails
  leaves no trace.
- The head includes the events in `pending`, which are not committed yet. It may therefore be
  ahead of the database, never behind it.
- If a commit fails, the head describes events that do not exist. The room is marked `dropped`,
  and whoever still refers to it must not use it (see `hot_rooms`).
"""

from collections import Counter
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
from hs.core.ids import EventID, RoomID, ServerName, server_of
from hs.core.unpadded_base64 import encode_base64
from hs.core.versions import RoomVersion
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.append.pending_events import PendingEvent, StateEntryChange, membership_of
from hs.services.rooms.append.recent_annotations import RecentAnnotations
from hs.services.rooms.store import state_snapshots
from hs.services.rooms.store.room_summaries import SUMMARISED_TYPES, count_membership, summary_after
from hs.services.rooms.store.state_snapshots import Snapshot
from hs.storage.rooms.rooms import RoomSummaryRecord

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
MAX_EXTREMITIES_OF_SERVER: Final = 20
MAX_EXTREMITIES: Final = 100
MAX_STATE_EVENTS: Final = 4096

_ROOM_BYTES: Final = 4000
_MEMBER_BYTES: Final = 120
_EVENT_BYTES: Final = 3000


class Extremity(NamedTuple):
    """A forward extremity: an event that no known event lists in its prev_events.

    `server` is that of its sender. `reference_hash` is set in room versions 1 and 2 only.
    """

    event_id: EventID
    depth: int
    server: ServerName
    reference_hash: str = ""


@attrs.define(eq=False)
class RoomHead:
    """The end of a room: its forward extremities, and the state after all of them.

    Immutable: the methods return a new head. `events` caches those events of the state that the
    auth rules have needed so far; of all others only the ID is known.
    """

    snapshot: Snapshot
    extremities: tuple[Extremity, ...]
    depth: int
    events: Map[StateKey, Event]
    members: Map[str, str]
    summary: RoomSummaryRecord
    power: PowerLevels

    def with_events(self, events: Iterable[Event]) -> "RoomHead":
        """Return a head with more events of its own state loaded."""
        loaded = {(event.type, event.state_key or ""): event for event in events}
        return attrs.evolve(self, events=self.events.update(loaded))

    def with_state(self, changes: Mapping[StateKey, Event | None], create: Event) -> "RoomHead":
        """Return the head after state entries were set, or removed where None."""
        head = attrs.evolve(
            self,
            snapshot=self.snapshot.after(
                {key: None if event is None else event.event_id for key, event in changes.items()}
            ),
        )
        for key, event in changes.items():
            head._apply_entry(key, event)
        if event_types.POWER_LEVELS_KEY in changes or event_types.CREATE_KEY in changes:
            levels = changes.get(
                event_types.POWER_LEVELS_KEY, self.events.get(event_types.POWER_LEVELS_KEY)
            )
            head.power = PowerLevels.of(levels, create, create.rules)
        return head

    def with_extremities(self, extremities: tuple[Extremity, ...]) -> "RoomHead":
        """Return the head with these forward extremities."""
        depth = max((end.depth for end in extremities), default=self.depth)
        return attrs.evolve(self, extremities=extremities, depth=depth)

    def cited_extremities(self, server_name: ServerName) -> tuple[Extremity, ...]:
        """Return the extremities that a new event of this server cites."""
        if len(self.extremities) <= MAX_PREV_EVENTS:
            return self.extremities
        return tuple(end for _, end in in_turns(self.extremities, server_name)[:MAX_PREV_EVENTS])

    def _apply_entry(self, key: StateKey, event: Event | None) -> None:
        # Mutates: only called on a head that is still being built.
        if key[0] in AUTH_TYPES:
            if event is not None:
                self.events = self.events.set(key, event)
            elif key in self.events:
                self.events = self.events.delete(key)
        if key[0] == event_types.MEMBER:
            self._apply_member(key[1], None if event is None else membership_of(event))
        elif key[0] in SUMMARISED_TYPES:
            self.summary = summary_after(self.summary, key, event)

    def _apply_member(self, user_id: str, membership: str | None) -> None:
        before = self.members.get(user_id)
        self.summary = count_membership(self.summary, before, membership)
        if membership is not None:
            self.members = self.members.set(user_id, membership)
        elif before is not None:
            self.members = self.members.delete(user_id)


@attrs.define(eq=False)
class HotRoom:
    """One room in memory, changed only by the task that holds the room's lock.

    `pending` are the events that are in `head` but not committed yet, always whole batches.
    `pins` counts the holders and the uncommitted batches. `dropped` means that a commit failed and
    this object no longer describes the room.
    """

    room_id: RoomID
    create: Event
    head: RoomHead
    pending: dict[EventID, PendingEvent] = attrs.Factory(dict)
    annotations: RecentAnnotations = attrs.Factory(RecentAnnotations)
    pins: int = 0
    dropped: bool = False

    @property
    def rules(self) -> RoomVersion:
        """Rules of the room's version."""
        return self.create.rules

    def weight(self) -> int:
        """Return the estimated memory use, in bytes."""
        head = self.head
        return (
            _ROOM_BYTES
            + len(head.snapshot.map) * state_snapshots.ENTRY_BYTES
            + len(head.members) * _MEMBER_BYTES
            + len(head.events) * _EVENT_BYTES
        )

    def missing_auth_event_ids(self, drafts: Iterable[Draft]) -> list[EventID]:
        """Return the IDs of auth events that the drafts need and `head` has not loaded."""
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

    def remember_state_events(self, events: Iterable[Event]) -> None:
        """Add loaded events of the current state to the head."""
        self.head = self.head.with_events(events)

    def trim(self) -> None:
        """Drop cached member events if there are many; pending ones stay."""
        head = self.head
        if len(head.events) <= MAX_STATE_EVENTS:
            return
        remaining = {
            key: event
            for key, event in head.events.items()
            if key[0] != event_types.MEMBER or event.event_id in self.pending
        }
        self.head = attrs.evolve(head, events=Map(remaining))


def extremity(event: Event) -> Extremity:
    """Return the extremity for an event."""
    if event.rules.event_id_is_hash:
        return Extremity(event.event_id, event.depth, server_of(event.sender))
    return Extremity(
        event.event_id, event.depth, server_of(event.sender), encoded_reference_hash(event)
    )


def in_turns(
    extremities: Iterable[Extremity], server_name: ServerName
) -> list[tuple[int, Extremity]]:
    """Sort extremities by importance: each with the number of its server's turn.

    Each server has its turn, this one first, and the deepest of each come first. Other servers see
    only the state after what an event cites. One that forks the room, at any depth, must not keep
    the events out that make the new one's sender a member.
    """
    turns: Counter[ServerName] = Counter()
    ordered = []
    for end in sorted(extremities, key=lambda end: (-end.depth, end.event_id)):
        ordered.append((turns[end.server], end.server != server_name, end))
        turns[end.server] += 1
    ordered.sort(key=lambda entry: entry[:2])
    return [(turn, end) for turn, _, end in ordered]


def limited_extremities(
    extremities: tuple[Extremity, ...], server_name: ServerName
) -> tuple[Extremity, ...]:
    """Return the forward extremities that count, if a room has too many of them.

    The state after an event that does not count becomes part of the room's state when another event
    cites it. So a server that forks a room without end does not make each event slower, and the
    servers in the room agree as soon as one of them has joined its forks.
    """
    if len(extremities) <= MAX_EXTREMITIES_OF_SERVER:
        return extremities
    first = [
        end for turn, end in in_turns(extremities, server_name) if turn < MAX_EXTREMITIES_OF_SERVER
    ]
    kept = set(first[:MAX_EXTREMITIES])
    return tuple(end for end in extremities if end in kept)


def encoded_reference_hash(event: Event) -> str:
    """Return the reference hash of an event, as room versions 1 and 2 cite it."""
    return encode_base64(reference_hash(event.pdu, event.rules))


def head_before_create(create: Event) -> RoomHead:
    """Return the empty head of a room that is about to receive its create event."""
    return RoomHead(
        snapshot=state_snapshots.empty(),
        extremities=(),
        depth=0,
        events=Map(),
        members=Map(),
        summary=RoomSummaryRecord(),
        power=PowerLevels.of(None, create, create.rules),
    )


def head_after(head: RoomHead, event: Event, create: Event) -> RoomHead:
    """Return the head after an authorized event, which cites all of its extremities."""
    if event.state_key is not None:
        head = head.with_state({(event.type, event.state_key): event}, create)
    # Not attrs.evolve, which costs five times as much for each message that is sent.
    return RoomHead(
        snapshot=head.snapshot,
        extremities=(extremity(event),),
        depth=max(head.depth, event.depth),
        events=head.events,
        members=head.members,
        summary=head.summary,
        power=head.power,
    )


def own_state_change(head: RoomHead, event: Event) -> tuple[StateEntryChange, ...]:
    """Return the change that an event makes to the state of the head before it."""
    if event.state_key is None:
        return ()
    prev_membership = (
        head.members.get(event.state_key) if event.type == event_types.MEMBER else None
    )
    change = StateEntryChange(
        type=event.type,
        state_key=event.state_key,
        event_id=event.event_id,
        membership=membership_of(event),
        prev_membership=prev_membership,
    )
    return (change,)
