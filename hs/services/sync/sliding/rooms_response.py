"""The `rooms` member of a sliding sync response, computed for some rooms at a time.

Between these parts other tasks run. Within a part, the order of the steps matters:

1. Timelines, and which of their events the user may see.
2. The changes of the state, including members where memory does not reach back far enough.
3. The members to send by lazy loading, which depend on the visible timeline; and the heroes.
4. The state, of which the previous steps say how much is needed.
5. Counts, events and rendering.

A room without anything to send has no fields, but its record of what the client has may change: for
example, a member event that was left out must not count as sent.

A user who has left sees the room as it was at that moment: state, name and avatar come from the
state at the leave event, never from the current state. Invited and knocking users see only the
stripped state.

Spec: MSC4186, Room results, with the field names of the client's variant.
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import Any, Final, NamedTuple

import attrs
import orjson

from hs.core.ids import EventID, RoomID, UserID
from hs.core.push.unread import RoomCounts
from hs.core.requester import Requester
from hs.core.tokens import SyncToken, TopologicalToken
from hs.lib.time_slice import TimeSlice
from hs.services.rooms.read.rendering import EventRenderer, Viewer, content_of
from hs.services.rooms.read.stripped_state import StrippedState
from hs.services.rooms.read.visibility import Visibility, VisibleEvent
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.membership_history import MembershipHistory
from hs.services.rooms.store.memberships import Memberships
from hs.services.rooms.store.room_members import PresentMembers
from hs.services.rooms.store.stored_event import StoredEvent
from hs.services.sync.positions import SyncPosition
from hs.services.sync.sliding.connection_state import SentRoom
from hs.services.sync.sliding.request import SlidingSyncVariant
from hs.services.sync.sliding.requested_rooms import RequestedRooms
from hs.services.sync.sliding.response_state import ResponseState, member_key
from hs.services.sync.sliding.room_activity import RoomListProperties
from hs.services.sync.sliding.room_lists import bump_stamp_of
from hs.services.sync.sliding.room_plans import RoomPlan
from hs.services.sync.sliding.room_response import AVATAR_KEY, NAME_KEY, RoomResponse
from hs.services.sync.sliding.timeline_slice import TimelineSlices
from hs.services.sync.sources import NO_COUNTS, UnreadCountSource

RoomFields = dict[str, Any]
ROOMS_AT_ONCE: Final = 25
_CHANGE_FIELDS: Final = (
    "initial",
    "required_state",
    "timeline",
    "is_dm",
    "name",
    "avatar",
    "heroes",
)


class VariantFieldNames(NamedTuple):
    """The field names that differ between the two variants."""

    stripped_state: str
    expanded_timeline: str


DEPLOYED_NAMES: Final = VariantFieldNames("invite_state", "unstable_expanded_timeline")
ACCEPTED_NAMES: Final = VariantFieldNames("stripped_state", "expanded_timeline")


@attrs.frozen(eq=False)
class RoomResult:
    """The result of one room."""

    fields: RoomFields | None
    """The JSON members of the room; None if there is nothing to send."""
    sent: SentRoom
    """The record of what the client has of the room after this response."""
    shown: frozenset[EventID] = frozenset()
    """The events of its timeline."""


@attrs.frozen(eq=False)
class RoomsContext:
    """The response that the rooms are rendered for."""

    requester: Requester
    since: SyncToken | None
    position: SyncPosition
    windows: RequestedRooms
    read: AbstractSet[RoomID]
    """The rooms whose counts are sent: own receipts moved, or push rules were evaluated late."""
    form: SlidingSyncVariant = SlidingSyncVariant.DEPLOYED

    @property
    def facts(self) -> Mapping[RoomID, RoomListProperties]:
        """The properties of the rooms that may be listed."""
        return self.windows.facts

    @property
    def names(self) -> VariantFieldNames:
        """The field names of the client's variant."""
        return ACCEPTED_NAMES if self.form is SlidingSyncVariant.ACCEPTED else DEPLOYED_NAMES


@attrs.frozen(eq=False)
class _RenderData:
    """The data that rooms are rendered from."""

    context: RoomsContext
    viewer: Viewer
    events: Mapping[EventID, StoredEvent]
    present: Mapping[RoomID, PresentMembers]
    counts: Mapping[RoomID, RoomCounts]


@attrs.frozen(eq=False)
class RoomsResponse:
    """The renderer of rooms."""

    _events: EventStore
    _memberships: Memberships
    _membership_history: MembershipHistory
    _visibility: Visibility
    _rendering: EventRenderer
    _stretches: TimelineSlices
    _states: ResponseState
    _stripped: StrippedState
    _counts: UnreadCountSource

    async def make(
        self, context: RoomsContext, plans: Sequence[RoomPlan]
    ) -> dict[RoomID, RoomResult]:
        """Return the result of each room, in the order of the plans."""
        stripped_plans = [plan for plan in plans if await self._is_stripped(context, plan)]
        stripped_ids = {plan.room_id for plan in stripped_plans}
        results = await self._make_stripped(context, stripped_plans)
        remaining = iter([plan for plan in plans if plan.room_id not in stripped_ids])
        time_slice = TimeSlice()
        while part := list(islice(remaining, ROOMS_AT_ONCE)):
            results.update(await self._make_visible(context, part))
            await time_slice.yield_if_over()
        return {plan.room_id: results[plan.room_id] for plan in plans}

    async def _is_stripped(self, context: RoomsContext, plan: RoomPlan) -> bool:
        """Return whether the user gets only the stripped state of the room."""
        if (
            plan.is_stripped
            or not plan.is_ended_invite
            or context.form is SlidingSyncVariant.DEPLOYED
        ):
            return plan.is_stripped
        # An invite or knock has ended. If the user was joined in between, they may see more.
        return await self._membership_history.last_end(plan.own.event_id) is None

    async def _make_stripped(
        self, context: RoomsContext, plans: Sequence[RoomPlan]
    ) -> dict[RoomID, RoomResult]:
        rooms = {plan.room_id: plan.own for plan in plans}
        stripped = await self._stripped.of(context.requester.user_id, rooms)
        results = {}
        for plan in plans:
            fields: RoomFields = {"initial": True} if plan.initial else {}
            fields[context.names.stripped_state] = stripped[plan.room_id]
            fields["bump_stamp"] = plan.own.stream_id
            _add_dm(plan, fields)
            _add_membership(plan, context, fields)
            sent = SentRoom(plan.own.membership, plan.config.required, 0, plan.is_dm)
            results[plan.room_id] = RoomResult(fields, sent)
        return results

    async def _make_visible(
        self, context: RoomsContext, plans: Sequence[RoomPlan]
    ) -> dict[RoomID, RoomResult]:
        user_id = context.requester.user_id
        upto = context.position.token.events
        slices = await self._stretches.load(plans, upto)
        responses = [RoomResponse(plan, slices[plan.room_id]) for plan in plans]
        await self._load_visible_events(user_id, responses)
        for response in responses:
            response.load_changes()
        await self._states.load_members(responses)
        for response in responses:
            response.choose_members()
        present = await self._load_members(context, responses)
        await self._states.load(responses)
        joined = [plan.room_id for plan in plans if plan.is_joined]
        counts = await self._counts.counts(user_id, joined, upto) if joined else {}
        viewer = self._rendering.viewer(
            context.requester, await self._visibility.ignored_by(user_id)
        )
        state_to_send = {response.plan.room_id: response.selected_state() for response in responses}
        events = await self._load_events(responses, state_to_send, viewer)
        data = _RenderData(context, viewer, events, present, counts)
        results = {}
        for response in responses:
            room_id = response.plan.room_id
            results[room_id] = self._render(response, state_to_send[room_id].values(), data)
        return results

    async def _load_visible_events(
        self, user_id: UserID, responses: Sequence[RoomResponse]
    ) -> None:
        ids = [event.event_id for response in responses for event in response.timeline_slice.events]
        if not ids:
            return
        stored = await self._events.get(ids)
        by_room: dict[RoomID, list[VisibleEvent]] = {}
        for seen in await self._visibility.filter_visible(user_id, list(stored.values())):
            by_room.setdefault(seen.stored.event.room_id, []).append(seen)
        for response in responses:
            response.seen = by_room.get(response.plan.room_id, ())
            if response.plan.is_ended_invite:
                # The user may not see the history, but may see how the own invite ended.
                membership = response.plan.own.membership
                response.seen = [
                    VisibleEvent(stored[event.event_id], membership)
                    for event in response.timeline_slice.events
                ]

    async def _load_members(
        self, context: RoomsContext, responses: Sequence[RoomResponse]
    ) -> Mapping[RoomID, PresentMembers]:
        """Load the members of the rooms that send member counts, and choose heroes.

        Heroes are also chosen for rooms whose name changed.
        """
        with_counts = [room for room in responses if room.plan.is_joined and room.includes_members]
        renamed = [
            room
            for room in responses
            if room.plan.is_joined and not room.includes_members and room.includes(NAME_KEY)
        ]
        rooms = [room.plan.room_id for room in (*with_counts, *renamed)]
        if not rooms:
            return {}
        present = await self._memberships.present_in(rooms)
        for response in (*with_counts, *renamed):
            room_id = response.plan.room_id
            if context.facts[room_id].name is None:
                user_id = context.requester.user_id
                heroes = present[room_id].first_but(user_id, 5)
                response.heroes = heroes or await self._memberships.heroes(room_id, user_id)
        return {room.plan.room_id: present[room.plan.room_id] for room in with_counts}

    async def _load_events(
        self,
        responses: Sequence[RoomResponse],
        state_to_send: Mapping[RoomID, Mapping[Any, EventID]],
        viewer: Viewer,
    ) -> Mapping[EventID, StoredEvent]:
        """Load the state events to send, and the other events that rendering needs."""
        ids = [event_id for entries in state_to_send.values() for event_id in entries.values()]
        count = len(ids)
        for response in responses:
            keys = [member_key(user_id) for user_id in response.heroes]
            if response.plan.last_stream_id is not None:
                keys += [NAME_KEY, AVATAR_KEY]
            ids += [response.state[key] for key in keys if key in response.state]
        events = await self._events.get(ids)
        timeline = [seen.stored for response in responses for seen in response.seen]
        await self._rendering.prepare(timeline, viewer)
        await self._rendering.prepare_state(
            events[event_id] for event_id in ids[:count] if event_id in events
        )
        return events

    def _render(
        self, response: RoomResponse, state_ids: Iterable[EventID], data: _RenderData
    ) -> RoomResult:
        plan, viewer = response.plan, data.viewer
        rendering = self._rendering
        fields: RoomFields = {"initial": True} if plan.initial else {}
        events = data.events
        state_events = [events[event_id] for event_id in state_ids if event_id in events]
        state = rendering.state_events(state_events, viewer, room_id=False)
        if data.context.form is SlidingSyncVariant.ACCEPTED:
            state += response.removed_state()
        if state or plan.initial:
            fields["required_state"] = _array(state)
        self._add_timeline(response, data, fields)
        _add_dm(plan, fields)
        if plan.is_joined:
            _add_summary(response, data, fields)
        elif plan.initial:
            _add_last_name(response, data, fields)
        has_changes = plan.initial or any(name in fields for name in _CHANGE_FIELDS)
        if (
            not has_changes
            and not response.timeline_slice.limited
            and plan.room_id not in data.context.read
        ):
            return RoomResult(None, response.new_record())
        _add_membership(plan, data.context, fields)
        if plan.is_joined and data.context.form is SlidingSyncVariant.DEPLOYED:
            counts = data.counts.get(plan.room_id, NO_COUNTS)
            fields["notification_count"] = counts.main.notifications
            fields["highlight_count"] = counts.main.highlights
        fields["bump_stamp"] = bump_stamp_of(plan.own, data.context.facts[plan.room_id])
        shown = frozenset(seen.stored.event_id for seen in response.seen)
        return RoomResult(fields, response.new_record(), shown)

    def _add_timeline(self, response: RoomResponse, data: _RenderData, fields: RoomFields) -> None:
        plan, timeline_slice, viewer = response.plan, response.timeline_slice, data.viewer
        if not response.seen and not plan.initial and not timeline_slice.limited:
            return
        rendered = self._rendering.timeline_events(response.seen, viewer, room_id=False)
        fields["timeline"] = _array(rendered)
        fields["limited"] = timeline_slice.limited or plan.is_expanded
        fields["num_live"] = _count_live(response.seen, data.context.since)
        fields["prev_batch"] = _prev_batch(response, data.context.position)
        if plan.is_expanded:
            fields[data.context.names.expanded_timeline] = True


def _add_summary(response: RoomResponse, data: _RenderData, fields: RoomFields) -> None:
    plan = response.plan
    facts = data.context.facts[plan.room_id]
    for key, name, value in (
        (NAME_KEY, "name", facts.name),
        (AVATAR_KEY, "avatar", facts.avatar_url),
    ):
        if response.includes(key) and (value is not None or key in response.changed):
            fields[name] = value
    if response.heroes:
        fields["heroes"] = [_hero(response, user_id, data) for user_id in response.heroes]
    present = data.present.get(plan.room_id)
    if present is not None:
        fields["joined_count"] = present.joined_count
        fields["invited_count"] = present.invited_count


def _hero(response: RoomResponse, user_id: UserID, data: _RenderData) -> RoomFields:
    hero: RoomFields = {"user_id": user_id}
    event_id = response.state.get(member_key(user_id))
    stored = None if event_id is None else data.events.get(event_id)
    content = {} if stored is None else content_of(stored)
    for name in ("displayname", "avatar_url"):
        if isinstance(content.get(name), str):
            hero[name] = content[name]
    return hero


def _add_last_name(response: RoomResponse, data: _RenderData, fields: RoomFields) -> None:
    """Add the name and avatar that the room had when the user left it."""
    for key, name, content_key in ((NAME_KEY, "name", "name"), (AVATAR_KEY, "avatar", "url")):
        event_id = response.state.get(key)
        stored = None if event_id is None else data.events.get(event_id)
        value = None if stored is None else content_of(stored).get(content_key)
        if isinstance(value, str):
            fields[name] = value


def _add_membership(plan: RoomPlan, context: RoomsContext, fields: RoomFields) -> None:
    if context.form is SlidingSyncVariant.DEPLOYED:
        return
    fields["membership"] = plan.own.membership
    lists = context.windows.lists_of(plan.room_id)
    if lists:
        fields["lists"] = lists


def _add_dm(plan: RoomPlan, fields: RoomFields) -> None:
    before = False if plan.initial or plan.sent is None else plan.sent.is_dm
    if plan.is_dm != before:
        fields["is_dm"] = plan.is_dm


def _count_live(seen: Sequence[VisibleEvent], since: SyncToken | None) -> int:
    if since is None:
        return 0
    covers = since.events.covers
    return sum(1 for view in seen if not covers(view.stored.writer, view.stored.stream_id))


def _prev_batch(response: RoomResponse, position: SyncPosition) -> str:
    if response.seen:
        stored = response.seen[0].stored
        return TopologicalToken(stored.event.depth, stored.stream_id - 1).encode()
    if response.timeline_slice.events:
        first = response.timeline_slice.events[0]
        return TopologicalToken(first.depth, first.stream_id - 1).encode()
    return position.text


def _array(rendered: Sequence[bytes]) -> orjson.Fragment:
    return orjson.Fragment(b"[" + b",".join(rendered) + b"]")
