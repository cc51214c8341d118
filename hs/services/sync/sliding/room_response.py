"""One room being told of: what is collected for it, and what the client has of it afterwards."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import attrs
import orjson

from hs.core.events import event_types
from hs.core.events.event_types import StateKey
from hs.core.ids import EventID, UserID
from hs.services.rooms.read.visibility import Seen
from hs.services.sync.sliding.connection_state import MAX_MEMBERS, RoomSent
from hs.services.sync.sliding.required_state import RequiredState
from hs.services.sync.sliding.room_plans import RoomPlan
from hs.services.sync.sliding.timeline_slice import Stretch

MAX_REMEMBERED: Final = 200

NAME_KEY: Final = (event_types.NAME, "")
AVATAR_KEY: Final = (event_types.AVATAR, "")


@attrs.define(eq=False)
class Telling:
    """One room of an answer in the making.

    `changed` are the state entries that changed, None for those that are gone. `members` are
    those brought lazily, `stale` those that changed without being brought.
    """

    plan: RoomPlan
    stretch: Stretch
    seen: Sequence[Seen] = ()
    state: Mapping[StateKey, EventID] = attrs.Factory(dict)
    changed: Mapping[StateKey, EventID | None] = attrs.Factory(dict)
    heroes: Sequence[UserID] = ()
    members: frozenset[UserID] = frozenset()
    stale: frozenset[UserID] = frozenset()

    @property
    def required(self) -> RequiredState:
        """Give what is wanted of the state."""
        return self.plan.config.required

    @property
    def is_vague(self) -> bool:
        """Tell whether it is not known what of the state changed."""
        return self.stretch.changes is None

    def note_changes(self) -> None:
        """Take over what the stretch says of the state."""
        self.changed = {
            (event_type, state_key): None if event_id is None else EventID(event_id)
            for event_type, state_key, event_id, _ in self.stretch.changes or ()
        }

    def forget_later_changes(self) -> None:
        """Drop what changed after the state that the user may see."""
        self.changed = {
            key: event_id
            for key, event_id in self.changed.items()
            if self.state.get(key) == event_id
        }

    def tells(self, key: StateKey) -> bool:
        """Tell whether what hangs on an entry of the state is to be told."""
        return self.plan.initial or self.is_vague or key in self.changed

    @property
    def tells_members(self) -> bool:
        """Tell whether the room's members may differ from what the client knows."""
        if self.plan.initial or self.is_vague:
            return True
        return any(key[0] == event_types.MEMBER for key in self.changed)

    def choose_members(self) -> None:
        """Decide which members are brought because the timeline, or the client, needs them."""
        sent = self.plan.sent
        known = frozenset() if self.plan.initial or sent is None else sent.members
        changed = frozenset(UserID(key[1]) for key in self.changed if key[0] == event_types.MEMBER)
        if not self.required.lazy:
            self.stale = changed
            return
        wanted = self._in_timeline() - (known - changed)
        if not self.stretch.limited and not self.plan.initial:
            wanted |= changed
        self.members = wanted
        self.stale = changed - wanted

    def _in_timeline(self) -> frozenset[UserID]:
        users: set[UserID] = set()
        for one in self.seen:
            event = one.stored.event
            users.add(event.sender)
            if event.type == event_types.MEMBER and event.state_key is not None:
                users.add(UserID(event.state_key))
        return frozenset(users)

    def wanted_state(self) -> dict[StateKey, EventID]:
        """Choose the entries of the state that are told."""
        plan, required = self.plan, self.required
        wanted: dict[StateKey, EventID] = {}
        if plan.initial:
            wanted.update(required.select(self.state))
        elif self.is_vague:
            wanted.update(_but_members(required.select(self.state)))
        if plan.is_wider and plan.sent is not None:
            had = plan.sent.required
            more = required.select(self.state)
            wanted.update((key, event_id) for key, event_id in more if not had.matches(key))
        wanted.update(
            (key, changed_to)
            for key, changed_to in self.changed.items()
            if changed_to is not None and required.matches(key)
        )
        for user_id in self.members:
            found = self.state.get((event_types.MEMBER, user_id))
            if found is not None:
                wanted[(event_types.MEMBER, user_id)] = found
        return wanted

    def gone_state(self) -> list[bytes]:
        """Give stubs of the entries that are wanted and are no more."""
        return [
            orjson.dumps({"type": key[0], "state_key": key[1]})
            for key, changed_to in self.changed.items()
            if changed_to is None and self.required.matches(key)
        ]

    def afterwards(self) -> RoomSent:
        """Say what the client has of the room once it has the answer."""
        plan, sent = self.plan, self.plan.sent
        config = plan.config
        if plan.initial or sent is None:
            return RoomSent(
                plan.own.membership,
                config.required,
                config.timeline_limit,
                plan.is_dm,
                _bounded(self.members),
            )
        limit = config.timeline_limit
        if not self.stretch.limited and not plan.is_expanded:
            limit = max(limit, sent.timeline_limit)
        kept = sent.members - self.stale
        if self.is_vague and not self.required.lazy:
            kept = frozenset()
        return RoomSent(
            plan.own.membership,
            self._remembered(sent.required),
            limit,
            plan.is_dm,
            _bounded(self.members, kept),
        )

    def _remembered(self, had: RequiredState) -> RequiredState:
        """Give the patterns of which the client has everything.

        Those no longer asked for count as long as nothing they match was left out.
        """
        wanted = self.required
        if had.covers(wanted) and wanted.covers(had):
            return had
        missed = self.is_vague or any(
            had.matches(key) and not wanted.matches(key) for key in self.changed
        )
        both = wanted if missed else had.union(wanted)
        return both if len(both) <= MAX_REMEMBERED else wanted


def _but_members(
    entries: Iterable[tuple[StateKey, EventID]],
) -> Iterable[tuple[StateKey, EventID]]:
    return ((key, event_id) for key, event_id in entries if key[0] != event_types.MEMBER)


def _bounded(new: frozenset[UserID], kept: frozenset[UserID] = frozenset()) -> frozenset[UserID]:
    both = new | kept
    if both == kept or len(both) <= MAX_MEMBERS:
        return kept if both == kept else both
    return frozenset(sorted(new)[:MAX_MEMBERS])
