"""The rooms of an answer: timelines, state and the rest, of all rooms together.

Spec: MSC4186, Room results, with the names that clients know today.
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, NamedTuple

import attrs
import orjson

from hs.core.ids import EventID, RoomID, UserID
from hs.core.push.unread import RoomCounts
from hs.core.requester import Requester
from hs.core.tokens import SyncToken, TopologicalToken
from hs.services.rooms.read.rendering import Rendering, Viewer, content_of
from hs.services.rooms.read.stripped_state import StrippedState
from hs.services.rooms.read.visibility import Seen, Visibility
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.memberships import Memberships
from hs.services.rooms.store.room_members import Present
from hs.services.rooms.store.stored_event import StoredEvent
from hs.services.sync.positions import Moment
from hs.services.sync.sliding.connection_state import RoomSent
from hs.services.sync.sliding.request import Form
from hs.services.sync.sliding.response_state import RoomStates, member_key
from hs.services.sync.sliding.room_activity import RoomFacts
from hs.services.sync.sliding.room_lists import Windows, activity_of
from hs.services.sync.sliding.room_plans import RoomPlan
from hs.services.sync.sliding.room_response import AVATAR_KEY, NAME_KEY, Telling
from hs.services.sync.sliding.timeline_slice import Stretches
from hs.services.sync.sources import NO_COUNTS, UnreadCounts

Fields = dict[str, Any]
_NEWS: Final = ("initial", "required_state", "timeline", "is_dm", "name", "avatar", "heroes")


class Names(NamedTuple):
    """What the two forms call differently."""

    stripped_state: str
    expanded_timeline: str


DEPLOYED_NAMES: Final = Names("invite_state", "unstable_expanded_timeline")
ACCEPTED_NAMES: Final = Names("stripped_state", "expanded_timeline")


@attrs.frozen(eq=False)
class Result:
    """One room: what is told of it, if anything, and what the client has of it then.

    `shown` are the events of its timeline.
    """

    fields: Fields | None
    sent: RoomSent
    shown: frozenset[EventID] = frozenset()


@attrs.frozen(eq=False)
class Occasion:
    """The answer that the rooms are for; `read` are those where the user's receipts moved."""

    requester: Requester
    since: SyncToken | None
    moment: Moment
    windows: Windows
    read: AbstractSet[RoomID]
    form: Form = Form.DEPLOYED

    @property
    def facts(self) -> Mapping[RoomID, RoomFacts]:
        """Give the facts of the rooms listed."""
        return self.windows.facts

    @property
    def names(self) -> Names:
        """Give what the client calls things."""
        return ACCEPTED_NAMES if self.form is Form.ACCEPTED else DEPLOYED_NAMES


@attrs.frozen(eq=False)
class _Gathered:
    """What rooms are rendered from."""

    occasion: Occasion
    viewer: Viewer
    events: Mapping[EventID, StoredEvent]
    present: Mapping[RoomID, Present]
    counts: Mapping[RoomID, RoomCounts]


@attrs.frozen(eq=False)
class Results:
    """Makes the rooms of answers."""

    _events: EventStore
    _memberships: Memberships
    _visibility: Visibility
    _rendering: Rendering
    _stretches: Stretches
    _states: RoomStates
    _stripped: StrippedState
    _counts: UnreadCounts

    async def make(self, occasion: Occasion, plans: Sequence[RoomPlan]) -> dict[RoomID, Result]:
        """Make the result of each room."""
        outside = [one for one in plans if await self._is_outside(occasion, one)]
        rooms = {one.room_id for one in outside}
        results = await self._make_outside(occasion, outside)
        results.update(
            await self._make_seen(occasion, [one for one in plans if one.room_id not in rooms])
        )
        return {plan.room_id: results[plan.room_id] for plan in plans}

    async def _is_outside(self, occasion: Occasion, plan: RoomPlan) -> bool:
        """Tell whether the user is told only what is known outside of the room."""
        if plan.is_stripped or not plan.is_alone or occasion.form is Form.DEPLOYED:
            return plan.is_stripped
        # How an invite or knock ended; in between they may have been in the room.
        return await self._visibility.stays.end(plan.own.event_id) is None

    async def _make_outside(
        self, occasion: Occasion, plans: Sequence[RoomPlan]
    ) -> dict[RoomID, Result]:
        rooms = {plan.room_id: plan.own for plan in plans}
        stripped = await self._stripped.of(occasion.requester.user_id, rooms)
        results = {}
        for plan in plans:
            fields: Fields = {"initial": True} if plan.initial else {}
            fields[occasion.names.stripped_state] = stripped[plan.room_id]
            fields["bump_stamp"] = plan.own.stream_id
            _tell_dm(plan, fields)
            _tell_place(plan, occasion, fields)
            sent = RoomSent(plan.own.membership, plan.config.required, 0, plan.is_dm)
            results[plan.room_id] = Result(fields, sent)
        return results

    async def _make_seen(
        self, occasion: Occasion, plans: Sequence[RoomPlan]
    ) -> dict[RoomID, Result]:
        if not plans:
            return {}
        user_id = occasion.requester.user_id
        upto = occasion.moment.token.events
        stretches = await self._stretches.load(plans, upto)
        tellings = [Telling(plan, stretches[plan.room_id]) for plan in plans]
        await self._see(user_id, tellings)
        for telling in tellings:
            telling.note_changes()
        await self._states.load_members(tellings)
        for telling in tellings:
            telling.choose_members()
        present = await self._present(occasion, tellings)
        await self._states.load(tellings)
        joined = [plan.room_id for plan in plans if plan.is_joined]
        counts = await self._counts.counts(user_id, joined, upto) if joined else {}
        viewer = self._rendering.viewer(
            occasion.requester, await self._visibility.ignored_by(user_id)
        )
        wanted = {telling.plan.room_id: telling.wanted_state() for telling in tellings}
        events = await self._load(tellings, wanted, viewer)
        gathered = _Gathered(occasion, viewer, events, present, counts)
        results = {}
        for telling in tellings:
            room_id = telling.plan.room_id
            results[room_id] = self._render(telling, wanted[room_id].values(), gathered)
        return results

    async def _see(self, user_id: UserID, tellings: Sequence[Telling]) -> None:
        ids = [one.event_id for telling in tellings for one in telling.stretch.events]
        if not ids:
            return
        stored = await self._events.get(ids)
        by_room: dict[RoomID, list[Seen]] = {}
        for seen in await self._visibility.filter_visible(user_id, list(stored.values())):
            by_room.setdefault(seen.stored.event.room_id, []).append(seen)
        for telling in tellings:
            telling.seen = by_room.get(telling.plan.room_id, ())
            if telling.plan.is_alone:
                # History is closed to them, but not how their own invite ended.
                membership = telling.plan.own.membership
                ended = [stored[one.event_id] for one in telling.stretch.events]
                telling.seen = [Seen(one, membership) for one in ended]

    async def _present(
        self, occasion: Occasion, tellings: Sequence[Telling]
    ) -> Mapping[RoomID, Present]:
        """Give who is in rooms where that is to be told, and choose their heroes."""
        concerned = [one for one in tellings if one.plan.is_joined and one.tells_members]
        renamed = [
            one
            for one in tellings
            if one.plan.is_joined and not one.tells_members and one.tells(NAME_KEY)
        ]
        rooms = [one.plan.room_id for one in (*concerned, *renamed)]
        if not rooms:
            return {}
        present = await self._memberships.present_in(rooms)
        for telling in (*concerned, *renamed):
            room_id = telling.plan.room_id
            if occasion.facts[room_id].name is None:
                user_id = occasion.requester.user_id
                heroes = present[room_id].first_but(user_id, 5)
                telling.heroes = heroes or await self._memberships.heroes(room_id, user_id)
        return {one.plan.room_id: present[one.plan.room_id] for one in concerned}

    async def _load(
        self,
        tellings: Sequence[Telling],
        wanted: Mapping[RoomID, Mapping[Any, EventID]],
        viewer: Viewer,
    ) -> Mapping[EventID, StoredEvent]:
        """Read the events of state that are told, and all that rendering needs."""
        ids = [event_id for one in wanted.values() for event_id in one.values()]
        count = len(ids)
        for telling in tellings:
            keys = [member_key(user_id) for user_id in telling.heroes]
            if telling.plan.last is not None:
                keys += [NAME_KEY, AVATAR_KEY]
            ids += [telling.state[key] for key in keys if key in telling.state]
        events = await self._events.get(ids)
        timeline = [seen.stored for telling in tellings for seen in telling.seen]
        await self._rendering.prepare(timeline, viewer)
        await self._rendering.prepare_state(events[one] for one in ids[:count] if one in events)
        return events

    def _render(self, telling: Telling, wanted: Iterable[EventID], gathered: _Gathered) -> Result:
        plan, viewer = telling.plan, gathered.viewer
        render = self._rendering
        fields: Fields = {"initial": True} if plan.initial else {}
        events = gathered.events
        told = [events[one] for one in wanted if one in events]
        state = render.state_events(told, viewer, room_id=False)
        if gathered.occasion.form is Form.ACCEPTED:
            state += telling.gone_state()
        if state or plan.initial:
            fields["required_state"] = _array(state)
        self._tell_timeline(telling, gathered, fields)
        _tell_dm(plan, fields)
        if plan.is_joined:
            _tell_summary(telling, gathered, fields)
        elif plan.initial:
            _tell_last_name(telling, gathered, fields)
        news = plan.initial or any(name in fields for name in _NEWS)
        if not news and not telling.stretch.limited and plan.room_id not in gathered.occasion.read:
            return Result(None, telling.afterwards())
        _tell_place(plan, gathered.occasion, fields)
        if plan.is_joined and gathered.occasion.form is Form.DEPLOYED:
            counts = gathered.counts.get(plan.room_id, NO_COUNTS)
            fields["notification_count"] = counts.main.notifications
            fields["highlight_count"] = counts.main.highlights
        fields["bump_stamp"] = activity_of(plan.own, gathered.occasion.facts[plan.room_id])
        shown = frozenset(seen.stored.event_id for seen in telling.seen)
        return Result(fields, telling.afterwards(), shown)

    def _tell_timeline(self, telling: Telling, gathered: _Gathered, fields: Fields) -> None:
        plan, stretch, viewer = telling.plan, telling.stretch, gathered.viewer
        if not telling.seen and not plan.initial and not stretch.limited:
            return
        rendered = self._rendering.timeline_events(telling.seen, viewer, room_id=False)
        fields["timeline"] = _array(rendered)
        fields["limited"] = stretch.limited or plan.is_expanded
        fields["num_live"] = _live(telling.seen, gathered.occasion.since)
        fields["prev_batch"] = _prev_batch(telling, gathered.occasion.moment)
        if plan.is_expanded:
            fields[gathered.occasion.names.expanded_timeline] = True


def _tell_summary(telling: Telling, gathered: _Gathered, fields: Fields) -> None:
    plan = telling.plan
    facts = gathered.occasion.facts[plan.room_id]
    for key, name, value in (
        (NAME_KEY, "name", facts.name),
        (AVATAR_KEY, "avatar", facts.avatar_url),
    ):
        if telling.tells(key) and (value is not None or key in telling.changed):
            fields[name] = value
    if telling.heroes:
        fields["heroes"] = [_hero(telling, user_id, gathered) for user_id in telling.heroes]
    present = gathered.present.get(plan.room_id)
    if present is not None:
        fields["joined_count"] = present.joined_count
        fields["invited_count"] = present.invited_count


def _hero(telling: Telling, user_id: UserID, gathered: _Gathered) -> Fields:
    hero: Fields = {"user_id": user_id}
    event_id = telling.state.get(member_key(user_id))
    stored = None if event_id is None else gathered.events.get(event_id)
    content = {} if stored is None else content_of(stored)
    for name in ("displayname", "avatar_url"):
        if isinstance(content.get(name), str):
            hero[name] = content[name]
    return hero


def _tell_last_name(telling: Telling, gathered: _Gathered, fields: Fields) -> None:
    """Tell what a room was called when the user was removed from it."""
    for key, name, source in ((NAME_KEY, "name", "name"), (AVATAR_KEY, "avatar", "url")):
        event_id = telling.state.get(key)
        stored = None if event_id is None else gathered.events.get(event_id)
        value = None if stored is None else content_of(stored).get(source)
        if isinstance(value, str):
            fields[name] = value


def _tell_place(plan: RoomPlan, occasion: Occasion, fields: Fields) -> None:
    if occasion.form is Form.DEPLOYED:
        return
    fields["membership"] = plan.own.membership
    lists = occasion.windows.lists_of(plan.room_id)
    if lists:
        fields["lists"] = lists


def _tell_dm(plan: RoomPlan, fields: Fields) -> None:
    before = False if plan.initial or plan.sent is None else plan.sent.is_dm
    if plan.is_dm != before:
        fields["is_dm"] = plan.is_dm


def _live(seen: Sequence[Seen], since: SyncToken | None) -> int:
    if since is None:
        return 0
    covers = since.events.covers
    return sum(1 for one in seen if not covers(one.stored.writer, one.stored.stream_id))


def _prev_batch(telling: Telling, moment: Moment) -> str:
    if telling.seen:
        stored = telling.seen[0].stored
        return TopologicalToken(stored.event.depth, stored.stream_id - 1).encode()
    if telling.stretch.events:
        first = telling.stretch.events[0]
        return TopologicalToken(first.depth, first.stream_id - 1).encode()
    return moment.text


def _array(rendered: Sequence[bytes]) -> orjson.Fragment:
    return orjson.Fragment(b"[" + b",".join(rendered) + b"]")
