"""One flat stream of what happens, for old clients and for those who look into a room.

A long answer is cut; its token then says how far the events of each writer were told, so that
the next request goes on from there.

Spec: client-server API, `GET /events`, with and without `room_id`.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Final

import attrs
import immutables
import orjson
import trio

from hs.core.events import event_types
from hs.core.filters import NO_FILTER
from hs.core.ids import EventID, RoomID
from hs.core.positions import VectorPosition
from hs.core.requester import Requester
from hs.core.tokens import SyncToken
from hs.services.rooms.read.event_serializer import Showing
from hs.services.rooms.read.rendering import json_array
from hs.services.rooms.read.visibility import Seen
from hs.services.rooms.store.memberships import LocalMembership, RoomsOf
from hs.services.sync.account_data_section import with_user_id
from hs.services.sync.lazy_members import SentMembers
from hs.services.sync.notifier import Notifier, Watch
from hs.services.sync.positions import Positions
from hs.services.sync.room_ephemeral import account_data_event, in_room
from hs.services.sync.room_readers import RoomReaders
from hs.services.sync.sources import Presence
from hs.services.sync.sync_context import DEFAULT_LIMIT, Plan, SyncRequest, Turn
from hs.services.sync.sync_service import CATCH_UP_S, MAX_TIMEOUT_MS, Sections
from hs.storage.rooms import timelines

MAX_EVENTS: Final = 100

_PLAN: Final = Plan(NO_FILTER, 0, DEFAULT_LIMIT)


@attrs.frozen
class EventsAsk:
    """What is asked for: what happened behind `start` (None: now), of one room or of all."""

    requester: Requester
    start: str | None
    timeout_ms: int
    limit: int = MAX_EVENTS
    room_id: RoomID | None = None


@attrs.frozen
class EventsPage:
    """What happened between two tokens."""

    start: str
    end: str
    chunk: orjson.Fragment


@attrs.frozen(eq=False)
class _News:
    token: SyncToken
    chunk: list[bytes]
    is_all: bool


@attrs.frozen(order=True)
class _Arrival:
    stream_id: int
    writer: str
    event_id: EventID


@attrs.frozen(eq=False)
class EventStream:
    """Answers /events."""

    _readers: RoomReaders
    _positions: Positions
    _notifier: Notifier
    _presence: Presence
    _showing: Showing
    _sections: Sections
    _gate: AbstractAsyncContextManager[None]

    async def events(self, ask: EventsAsk) -> EventsPage:
        """Give what happened, waiting for something up to the timeout.

        Raises: InvalidParam; Forbidden, if the room may not be looked into; LimitExceeded.
        """
        moment = self._positions.now()
        start = moment.text if ask.start is None else ask.start
        since = moment.token if ask.start is None else self._positions.parse(ask.start)
        requester = ask.requester
        if ask.room_id is not None:
            await self._readers.visibility.check_may_read(requester.user_id, ask.room_id)
        with self._presence.syncing(requester.user_id, requester.device_id, "online"):
            if not self._positions.covers(since):
                await self._positions.wait_for(since, CATCH_UP_S)
            rooms = await self._readers.memberships.rooms_of(requester.user_id)
            with self._watching(ask, rooms) as watch:
                return await self._wait(ask, start, since, watch)

    def _watching(self, ask: EventsAsk, rooms: RoomsOf) -> AbstractContextManager[Watch]:
        user_id = ask.requester.user_id
        if ask.room_id is not None:
            return self._notifier.peeking(user_id, ask.room_id)
        # The feed may have gone on between the reading and this task's turn.
        rooms = self._readers.memberships.rooms_of_nowait(user_id) or rooms
        joined = [room_id for room_id, own in rooms.items() if own.membership == event_types.JOIN]
        return self._notifier.watching(user_id, joined)

    async def _wait(self, ask: EventsAsk, start: str, since: SyncToken, watch: Watch) -> EventsPage:
        deadline = trio.current_time() + min(ask.timeout_ms, MAX_TIMEOUT_MS) / 1000
        while True:
            changes = watch.changes
            if self._positions.covers(since) and since != self._positions.now().token:
                async with self._gate:
                    news = await self._news(ask, since)
                if news.chunk:
                    return EventsPage(start, news.token.encode(), json_array(news.chunk))
                since = news.token
                if not news.is_all:
                    continue
            if self._notifier.is_leaving or trio.current_time() >= deadline:
                return EventsPage(start, since.encode(), json_array(()))
            await self._notifier.wait(watch, changes, deadline)

    async def _news(self, ask: EventsAsk, since: SyncToken) -> _News:
        turn = await self._turn(ask, since)
        found = await self._arrivals(turn, ask.limit)
        told = found[: ask.limit]
        chunk = await self._rendered(ask.requester, told)
        chunk += await self._beside(turn, ask)
        token = turn.moment.token
        if len(found) > len(told):
            events = since.events
            for one in told:
                events = events.advance(one.writer, one.stream_id)
            token = attrs.evolve(token, events=events)
        return _News(token, chunk, len(found) == len(told))

    async def _turn(self, ask: EventsAsk, since: SyncToken) -> Turn:
        user_id = ask.requester.user_id
        ignored = await self._readers.visibility.ignored_by(user_id)
        rooms = await self._readers.memberships.rooms_of(user_id)
        moment = self._positions.now()
        rooms = self._readers.memberships.rooms_of_nowait(user_id) or rooms
        if ask.room_id is not None:
            # Who looks in from outside is told what a member is told.
            as_member = LocalMembership(event_types.JOIN, EventID(""), 0, user_id)
            rooms = immutables.Map({ask.room_id: rooms.get(ask.room_id, as_member)})
            if rooms[ask.room_id].membership != event_types.JOIN:
                rooms = immutables.Map({ask.room_id: as_member})
        viewer = self._readers.rendering.viewer(ask.requester, ignored)
        request = SyncRequest(ask.requester)
        return Turn(request, _PLAN, since, moment, rooms, ignored, viewer, SentMembers())

    # Events

    async def _arrivals(self, turn: Turn, limit: int) -> list[_Arrival]:
        """List what is new, up to one more than the limit."""
        assert turn.since is not None
        since = turn.since.events
        touched = self._readers.tails.rooms_since(since)
        found: set[_Arrival] = set()
        for room_id, own in turn.rooms.items():
            if own.membership == event_types.JOIN:
                if touched is None or room_id in touched:
                    found.update(await self._in_room(turn, room_id, limit + 1))
            elif own.stream_id > since.floor and own.sender not in turn.ignored:
                found.update(await self._until_gone(turn, room_id, own, limit + 1))
        return sorted(found)[: limit + 1]

    async def _in_room(self, turn: Turn, room_id: RoomID, limit: int) -> list[_Arrival]:
        assert turn.since is not None
        entries: Iterable[_Arrival]
        known = self._readers.tails.since(room_id, turn.since.events)
        if known is not None:
            entries = (_Arrival(one.stream_id, one.writer, one.event_id) for one in known)
        else:
            after, upto = turn.since.events.floor, turn.events.most()
            placed = await self._readers.database.read(
                timelines.arrived_between, room_id, after, upto, limit
            )
            entries = (_Arrival(one.stream_id, one.writer, EventID(one.event_id)) for one in placed)
        return [one for one in entries if _is_between(one, turn.since.events, turn.events)][:limit]

    async def _until_gone(
        self, turn: Turn, room_id: RoomID, own: LocalMembership, limit: int
    ) -> list[_Arrival]:
        """List what happened until the user left, or the invite alone."""
        assert turn.since is not None
        stored = await self._readers.events.get_one(own.event_id)
        if stored is None:
            return []
        last = _Arrival(stored.stream_id, stored.writer, stored.event_id)
        if not _is_between(last, turn.since.events, turn.events):
            return []
        if own.membership in (event_types.INVITE, event_types.KNOCK):
            return [last]
        earlier = await self._in_room(turn, room_id, limit)
        return [*(one for one in earlier if one.stream_id < last.stream_id), last]

    async def _rendered(self, requester: Requester, arrivals: Sequence[_Arrival]) -> list[bytes]:
        events = await self._readers.events.get(one.event_id for one in arrivals)
        visible = await self._readers.visibility.filter_visible(
            requester.user_id, list(events.values())
        )
        seen = {one.stored.event_id: one for one in visible}
        for event_id, stored in events.items():
            event = stored.event
            if event.type == event_types.MEMBER and event.state_key == requester.user_id:
                # What happens to the user themselves they are told in any case.
                own = Seen(stored, str(event.content.get("membership")))
                seen.setdefault(event_id, own)
        chosen = [seen[event_id] for event_id in events if event_id in seen]
        return await self._showing.timeline(requester, chosen)

    # Beside events

    async def _beside(self, turn: Turn, ask: EventsAsk) -> list[bytes]:
        sections = self._sections
        if ask.room_id is None:
            presence = await sections.presence.render(turn, ())
        else:
            presence = await sections.presence.in_room(turn, ask.room_id)
        entries = await sections.accounts.entries(turn, ())
        extras = await sections.extras.gather(turn, (), ())
        return [
            *(with_user_id(event) for event in presence),
            *(
                in_room(room_id, event)
                for room_id, events in extras.ephemeral.items()
                for event in events
            ),
            *(
                event if room_id is None else in_room(room_id, event)
                for room_id, event in [
                    (one[0], account_data_event(one[1], one[2])) for one in entries
                ]
                if ask.room_id is None or room_id == ask.room_id
            ),
        ]


def _is_between(one: _Arrival, since: VectorPosition, upto: VectorPosition) -> bool:
    return upto.covers(one.writer, one.stream_id) and not since.covers(one.writer, one.stream_id)
