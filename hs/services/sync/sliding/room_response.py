"""One room of a response while it is computed, and the record of what the client has after it.

Rules for the record, which decides what later responses may leave out:

- If the changes of the state are unknown, because memory does not reach back to the token, all
  selected entries are sent except members, whose changes are read separately if needed.
- State patterns are remembered beyond the request that had them, so that a client which widens
  and narrows its request does not get the same state again. They are forgotten as soon as an entry
  that they select changes without being sent.
- A lazily loaded member that changes without being sent is removed from the known members, and is
  sent again when the timeline needs it.
- After a gap in the timeline, the client has only the events that were sent, so the remembered
  timeline limit is the one of this request.
- The record is bounded in members and patterns. Dropping some costs repeated state.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import attrs
import orjson

from hs.core.events import event_types
from hs.core.events.event_types import StateKey
from hs.core.ids import EventID, UserID
from hs.services.rooms.read.visibility import VisibleEvent
from hs.services.sync.sliding.connection_state import MAX_MEMBERS, SentRoom
from hs.services.sync.sliding.required_state import RequiredState
from hs.services.sync.sliding.room_plans import RoomPlan
from hs.services.sync.sliding.timeline_slice import TimelineSlice

MAX_REMEMBERED: Final = 200

NAME_KEY: Final = (event_types.NAME, "")
AVATAR_KEY: Final = (event_types.AVATAR, "")


@attrs.define(eq=False)
class RoomResponse:
    """One room of a response while it is computed."""

    plan: RoomPlan
    timeline_slice: TimelineSlice
    seen: Sequence[VisibleEvent] = ()
    state: Mapping[StateKey, EventID] = attrs.Factory(dict)
    changed: Mapping[StateKey, EventID | None] = attrs.Factory(dict)
    """The state entries that changed; None for those that were removed."""
    heroes: Sequence[UserID] = ()
    members: frozenset[UserID] = frozenset()
    """The users whose member events are sent by lazy loading."""
    stale: frozenset[UserID] = frozenset()
    """The users whose member events changed but are not sent by lazy loading."""

    @property
    def required(self) -> RequiredState:
        """The state patterns of the request for this room."""
        return self.plan.config.required

    @property
    def has_unknown_changes(self) -> bool:
        """Whether it is unknown which state entries changed."""
        return self.timeline_slice.changes is None

    def load_changes(self) -> None:
        """Set the changed state entries from the events of the timeline slice."""
        self.changed = {
            (event_type, state_key): None if event_id is None else EventID(event_id)
            for event_type, state_key, event_id, _ in self.timeline_slice.changes or ()
        }

    def forget_later_changes(self) -> None:
        """Drop changes that are not part of the state that the user may see."""
        self.changed = {
            key: event_id
            for key, event_id in self.changed.items()
            if self.state.get(key) == event_id
        }

    def includes(self, key: StateKey) -> bool:
        """Return whether to send the fields that depend on a state entry."""
        return self.plan.initial or self.has_unknown_changes or key in self.changed

    @property
    def includes_members(self) -> bool:
        """Whether the members of the room may differ from what the client has."""
        if self.plan.initial or self.has_unknown_changes:
            return True
        return any(key[0] == event_types.MEMBER for key in self.changed)

    def choose_members(self) -> None:
        """Select the members to send by lazy loading, and those whose record becomes stale."""
        sent = self.plan.sent
        known = frozenset() if self.plan.initial or sent is None else sent.members
        changed = frozenset(UserID(key[1]) for key in self.changed if key[0] == event_types.MEMBER)
        if not self.required.lazy:
            self.stale = changed
            return
        needed = self._timeline_users() - (known - changed)
        if not self.timeline_slice.limited and not self.plan.initial:
            needed |= changed
        self.members = needed
        self.stale = changed - needed

    def _timeline_users(self) -> frozenset[UserID]:
        users: set[UserID] = set()
        for seen in self.seen:
            event = seen.stored.event
            users.add(event.sender)
            if event.type == event_types.MEMBER and event.state_key is not None:
                users.add(UserID(event.state_key))
        return frozenset(users)

    def selected_state(self) -> dict[StateKey, EventID]:
        """Return the state entries to send."""
        plan, required = self.plan, self.required
        selected: dict[StateKey, EventID] = {}
        if plan.initial:
            selected.update(required.select(self.state))
        elif self.has_unknown_changes:
            selected.update(_without_members(required.select(self.state)))
        if plan.has_more_state and plan.sent is not None:
            previous = plan.sent.required
            matching = required.select(self.state)
            selected.update(
                (key, event_id) for key, event_id in matching if not previous.matches(key)
            )
        selected.update(
            (key, changed_to)
            for key, changed_to in self.changed.items()
            if changed_to is not None and required.matches(key)
        )
        for user_id in self.members:
            event_id = self.state.get((event_types.MEMBER, user_id))
            if event_id is not None:
                selected[(event_types.MEMBER, user_id)] = event_id
        return selected

    def removed_state(self) -> list[bytes]:
        """Return stubs for the selected state entries that were removed."""
        return [
            orjson.dumps({"type": key[0], "state_key": key[1]})
            for key, changed_to in self.changed.items()
            if changed_to is None and self.required.matches(key)
        ]

    def new_record(self) -> SentRoom:
        """Return the record of what the client has of the room after this response."""
        plan, sent = self.plan, self.plan.sent
        config = plan.config
        if plan.initial or sent is None:
            return SentRoom(
                plan.own.membership,
                config.required,
                config.timeline_limit,
                plan.is_dm,
                _limited(self.members),
            )
        limit = config.timeline_limit
        if not self.timeline_slice.limited and not plan.is_expanded:
            limit = max(limit, sent.timeline_limit)
        still_known = sent.members - self.stale
        if self.has_unknown_changes and not self.required.lazy:
            still_known = frozenset()
        return SentRoom(
            plan.own.membership,
            self._sent_patterns(sent.required),
            limit,
            plan.is_dm,
            _limited(self.members, still_known),
        )

    def _sent_patterns(self, previous: RequiredState) -> RequiredState:
        """Return the patterns of which the client has every current entry.

        Patterns that are no longer requested count until an entry that they match is left out.
        """
        required = self.required
        if previous.covers(required) and required.covers(previous):
            return previous
        is_incomplete = self.has_unknown_changes or any(
            previous.matches(key) and not required.matches(key) for key in self.changed
        )
        both = required if is_incomplete else previous.union(required)
        return both if len(both) <= MAX_REMEMBERED else required


def _without_members(
    entries: Iterable[tuple[StateKey, EventID]],
) -> Iterable[tuple[StateKey, EventID]]:
    return ((key, event_id) for key, event_id in entries if key[0] != event_types.MEMBER)


def _limited(new: frozenset[UserID], known: frozenset[UserID] = frozenset()) -> frozenset[UserID]:
    both = new | known
    if both == known or len(both) <= MAX_MEMBERS:
        return known if both == known else both
    return frozenset(sorted(new)[:MAX_MEMBERS])
