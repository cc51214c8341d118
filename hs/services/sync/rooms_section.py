"""The rooms section: every room's part put together, spliced from bytes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import attrs
import orjson

from hs.core.events import event_types
from hs.core.events.event_types import StateKey
from hs.core.filters import EventFilter
from hs.core.ids import EventID, RoomID, UserID
from hs.core.push.unread import Count, RoomCounts
from hs.services.rooms.read.rendering import Rendering, content_of
from hs.services.rooms.read.stripped_state import StrippedState
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.stored_event import StoredEvent
from hs.services.sync.room_ephemeral import Extras
from hs.services.sync.room_summary import Summaries, Summary
from hs.services.sync.sources import NO_COUNTS, UnreadCounts
from hs.services.sync.state_section import RoomStates, State, only_members
from hs.services.sync.sync_context import RoomTurn, Section, Turn
from hs.services.sync.timeline_range import Window, Windows
from hs.services.sync.timeline_section import RoomTimelines, Timeline, shaped

MAX_FURTHER: Final = 2
_FURTHER_FACTOR: Final = 5
_STRIPPED: Final = {Section.INVITE: b"invite_state", Section.KNOCK: b"knock_state"}
_NO_STATE: Final[State] = {}
_MSC3773: Final = b'"org.matrix.msc3773.unread_thread_notifications"'


@attrs.define(eq=False)
class _Room:
    """One joined or left room on its way to bytes."""

    turn: RoomTurn
    window: Window
    timeline: Timeline
    summary: Summary | None
    state: Mapping[StateKey, EventID] = _NO_STATE


@attrs.frozen(eq=False)
class RoomSections:
    """Renders rooms."""

    _windows: Windows
    _timelines: RoomTimelines
    _states: RoomStates
    _summaries: Summaries
    _stripped: StrippedState
    _counts: UnreadCounts
    _events: EventStore
    _rendering: Rendering

    async def render(self, turn: Turn, turns: Sequence[RoomTurn], extras: Extras) -> bytes | None:
        """Give the `rooms` member of an answer; None if there is nothing to tell."""
        quiet = _quiet(turn, turns, extras)
        if not turns and not quiet:
            return None
        sections: dict[Section, list[bytes]] = {}
        shown = [one for one in turns if one.section in (Section.JOIN, Section.LEAVE)]
        rooms = await self._rooms(turn, [*shown, *quiet])
        counts = await self._counts_of(turn, rooms)
        state = await self._state_events(turn, rooms)
        for room in rooms:
            rendered = self._rendered(turn, room, extras, counts, state)
            if rendered is not None:
                sections.setdefault(room.turn.section, []).append(
                    _named(room.turn.room_id, rendered)
                )
        outside = [one for one in turns if one.section in _STRIPPED]
        stripped = await self._stripped.of(turn.user_id, {one.room_id: one.own for one in outside})
        for one in outside:
            name, events = _STRIPPED[one.section], stripped[one.room_id]
            invite = b'{"%b":{"events":%b}}' % (name, orjson.dumps(events))
            sections.setdefault(one.section, []).append(_named(one.room_id, invite))
        if not sections:
            return None
        members = [
            b'"%b":{%b}' % (section.value.encode(), b",".join(entries))
            for section, entries in sections.items()
        ]
        return b"{%b}" % b",".join(members)

    async def _rooms(self, turn: Turn, turns: Sequence[RoomTurn]) -> list[_Room]:
        windows = await self._windows.load(turn, turns, turn.plan.limit)
        whole = [one for one in turns if one.complete or turn.request.full_state]
        if whole:
            await self._states.prepare(
                [one.room_id for one in whole if one.section is Section.JOIN]
            )
        timelines = await self._timelines.render(turn, turns, windows)
        await self._look_further(turn, turns, windows, timelines)
        if whole and turn.request.state_after is None:
            await self._states.prepare_replaced(timelines[one.room_id].shown for one in whole)
        summaries = await self._summaries.of(turn, turns, windows)
        rooms = [
            _Room(one, windows[one.room_id], timelines[one.room_id], summaries.get(one.room_id))
            for one in turns
        ]
        for room in rooms:
            room.state = await self._state(turn, room)
        return rooms

    async def _look_further(
        self,
        turn: Turn,
        turns: Sequence[RoomTurn],
        windows: dict[RoomID, Window],
        timelines: dict[RoomID, Timeline],
    ) -> None:
        """Go further back where the user may not see what happened last."""
        limit = turn.plan.limit
        short = [one for one in turns if not (one.certain or one.alone)]
        for _ in range(MAX_FURTHER):
            short = [
                one
                for one in short
                if len(windows[one.room_id].shown) >= limit
                and len(timelines[one.room_id].shown) < turn.plan.limit
            ]
            if not short:
                return
            limit *= _FURTHER_FACTOR
            windows.update(await self._windows.load(turn, short, limit))
            timelines.update(await self._timelines.render(turn, short, windows))

    # State

    async def _state(self, turn: Turn, room: _Room) -> Mapping[StateKey, EventID]:
        one, shown = room.turn, room.timeline.shown
        plan = turn.plan
        if plan.filter.room.state.allows_nothing:
            return _NO_STATE
        heroes = room.summary.heroes if room.summary is not None else ()
        if one.complete or turn.request.full_state:
            whole = await self._states.complete(turn, one, shown)
            if not plan.is_lazy:
                return whole
            wanted = {*room.timeline.senders, *heroes, turn.user_id}
            if one.after is not None:
                # What the client knows of other members may be out of date.
                changed = await self._states.changed(turn, one, room.window, shown)
                wanted |= {UserID(key[1]) for key in changed if key[0] == event_types.MEMBER}
            return only_members(whole, wanted)
        state: Mapping[StateKey, EventID] = _NO_STATE
        window = room.window
        if not window.is_whole or any(entry.changes for entry in window.entries):
            state = await self._states.changed(turn, one, window, shown)
        if not plan.is_lazy or not (shown or heroes):
            return state
        return await self._with_members(turn, room, state, heroes)

    async def _with_members(
        self,
        turn: Turn,
        room: _Room,
        state: Mapping[StateKey, EventID],
        heroes: Sequence[UserID],
    ) -> Mapping[StateKey, EventID]:
        room_id = room.turn.room_id
        members = await self._members(turn, room)
        if heroes:
            keys = [(event_types.MEMBER, str(hero)) for hero in heroes]
            found = await self._states.entries(turn, room.turn, keys, room.timeline.shown)
            members = {**members, **{UserID(key[1]): one for key, one in found.items()}}
        redundant = not turn.plan.filter.room.state.include_redundant_members
        has = turn.sent.has
        fresh = {
            (event_types.MEMBER, str(user_id)): event_id
            for user_id, event_id in members.items()
            if not (redundant and has(room_id, user_id, event_id))
        }
        return {**fresh, **state} if fresh else state

    async def _members(self, turn: Turn, room: _Room) -> Mapping[UserID, EventID]:
        timeline = room.timeline
        if timeline.members is not None:
            return timeline.members
        keys = [(event_types.MEMBER, str(sender)) for sender in timeline.senders]
        found = await self._states.entries(turn, room.turn, keys, timeline.shown)
        timeline.members = {UserID(key[1]): event_id for key, event_id in found.items()}
        return timeline.members

    async def _state_events(self, turn: Turn, rooms: Sequence[_Room]) -> dict[EventID, StoredEvent]:
        ids = [event_id for room in rooms for event_id in room.state.values()]
        if not ids:
            return {}
        events = await self._events.get(ids)
        await self._rendering.prepare_state(events.values())
        return events

    def _state_json(
        self, turn: Turn, room: _Room, events: Mapping[EventID, StoredEvent]
    ) -> list[bytes]:
        wanted = turn.plan.filter.room.state
        plain = turn.plan.shows_all_state
        if not plain and not wanted.allows_room(room.turn.room_id):
            return []
        shown = [events[event_id] for event_id in room.state.values() if event_id in events]
        if not plain:
            shown = [stored for stored in shown if _allows(wanted, stored)]
        if turn.plan.is_lazy:
            _bring(turn, shown)
        rendered = self._rendering.state_events(shown, turn.viewer, room_id=False)
        if not turn.plan.shapes_events:
            return rendered
        return [
            shaped(turn.plan, stored, text) for stored, text in zip(shown, rendered, strict=True)
        ]

    # Counts

    async def _counts_of(self, turn: Turn, rooms: Sequence[_Room]) -> Mapping[RoomID, RoomCounts]:
        joined = [room.turn.room_id for room in rooms if room.turn.section is Section.JOIN]
        if not joined:
            return {}
        return await self._counts.counts(turn.user_id, joined, turn.events)

    # Bytes

    def _rendered(
        self,
        turn: Turn,
        room: _Room,
        extras: Extras,
        counts: Mapping[RoomID, RoomCounts],
        events: Mapping[EventID, StoredEvent],
    ) -> bytes | None:
        one = room.turn
        state = self._state_json(turn, room, events) if room.state else []
        ephemeral = extras.ephemeral.get(one.room_id, ())
        account_data = extras.account_data.get(one.room_id, ())
        worth = one.is_new or turn.request.full_state or room.summary is not None
        if not (
            worth
            or room.timeline.shown
            or room.window.limited
            or state
            or ephemeral
            or account_data
        ):
            return None
        if turn.plan.is_lazy:
            _bring(turn, room.timeline.shown)
        state_name = turn.request.state_after or "state"
        parts = [
            b'"timeline":%b,"%b":{"events":[%b]},"account_data":{"events":[%b]}'
            % (
                room.timeline.json,
                state_name.encode(),
                b",".join(state),
                b",".join(account_data),
            )
        ]
        if one.section is Section.JOIN:
            parts.append(b',"ephemeral":{"events":[%b]}' % b",".join(ephemeral))
            parts.append(_counts_json(turn, counts.get(one.room_id, NO_COUNTS)))
            if room.summary is not None:
                parts.append(b',"summary":' + room.summary.json)
        return b"{%b}" % b"".join(parts)


def _quiet(turn: Turn, turns: Sequence[RoomTurn], extras: Extras) -> list[RoomTurn]:
    """Give the joined rooms in which no event arrived, but something else changed."""
    rooms = extras.rooms().difference([one.room_id for one in turns])
    if turn.request.full_state and turn.since is not None:
        rooms |= {
            room_id
            for room_id, own in turn.rooms.items()
            if own.membership == event_types.JOIN and turn.plan.filter.room.allows_room(room_id)
        }.difference([one.room_id for one in turns])
    since = None if turn.since is None else turn.since.events
    return [
        RoomTurn(room_id, Section.JOIN, turn.rooms[room_id], since, certain=True)
        for room_id in rooms
    ]


def _allows(wanted: EventFilter, stored: StoredEvent) -> bool:
    event = stored.event
    return wanted.allows(event.type, event.sender, content_of(stored))


def _bring(turn: Turn, shown: Iterable[StoredEvent]) -> None:
    """Note the members that an answer brings to a device that gets them lazily."""
    for stored in shown:
        event = stored.event
        if event.state_key is not None and event.type == event_types.MEMBER:
            turn.brought.append((event.room_id, UserID(event.state_key), event.event_id))


def _named(room_id: RoomID, rendered: bytes) -> bytes:
    return b"%b:%b" % (orjson.dumps(room_id), rendered)


def _counts_json(turn: Turn, counts: RoomCounts) -> bytes:
    if not turn.plan.filter.room.timeline.unread_thread_notifications:
        return b',"unread_notifications":%b' % _count(counts.total())
    main = b',"unread_notifications":%b' % _count(counts.main)
    if not counts.threads:
        return main
    threads = b",".join(
        b"%b:%b" % (orjson.dumps(root), _count(count)) for root, count in counts.threads.items()
    )
    # The stable name, and the one that clients of its time look for.
    return b'%b,"unread_thread_notifications":{%b},%b:{%b}' % (main, threads, _MSC3773, threads)


def _count(count: Count) -> bytes:
    return b'{"notification_count":%d,"highlight_count":%d}' % (count[0], count[1])
