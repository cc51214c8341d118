"""Sliding sync: what is new in the windows a client looks through, waiting until something is.

The end of an answer is fixed before anything is read; what arrives meanwhile belongs to the next.
An answer changes what its connection has been sent only by making another state of it, so that
the same `pos` may come again.

Spec: MSC4186.
"""

from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import attrs
import orjson
import trio

from hs.core.events import event_types
from hs.core.ids import RoomID, UserID
from hs.core.requester import Requester
from hs.core.tokens import SyncToken
from hs.services.rooms.read.visibility import Visibility
from hs.services.rooms.store.memberships import Memberships, RoomsOf
from hs.services.rooms.store.recent_events import Tails
from hs.services.sync.notifier import Notifier, Watch
from hs.services.sync.positions import Moment, Positions
from hs.services.sync.sliding.account_data_view import PersonalViews
from hs.services.sync.sliding.connection_state import RoomSent
from hs.services.sync.sliding.connections import Connection, Connections, pos_of, read_pos
from hs.services.sync.sliding.extensions import Extensions, Scene
from hs.services.sync.sliding.request import Form, SlidingRequest, check
from hs.services.sync.sliding.room_lists import Asking, Lists, Windows
from hs.services.sync.sliding.room_plans import News, RoomPlan, parked_rooms, plan_rooms
from hs.services.sync.sliding.rooms_response import Occasion, Result, Results
from hs.services.sync.sources import Presence
from hs.storage.database import Database
from hs.storage.sync import room_changes
from hs.storage.sync.sliding_sync import ConnectionKey

CATCH_UP_S: Final = 5.0
"""How long to wait for news that the holder of a token has seen through another process."""

MAX_TIMEOUT_MS: Final = 10 * 60 * 1000


@attrs.frozen(eq=False)
class _Turn:
    """One answer in the making; `began` is when the request came."""

    requester: Requester
    asking: Asking
    since: SyncToken | None
    began: Moment
    moment: Moment
    ignored: AbstractSet[UserID]


@attrs.frozen(eq=False)
class _Answer:
    """An answer but for its `pos`; `changes` are what the client has of rooms once it has it."""

    moment: Moment
    members: dict[str, Any]
    windows: Windows
    changes: dict[RoomID, RoomSent]
    news: bool


@attrs.frozen(eq=False)
class SlidingSync:
    """Answers sliding sync."""

    _database: Database
    _positions: Positions
    _notifier: Notifier
    _memberships: Memberships
    _visibility: Visibility
    _tails: Tails
    _presence: Presence
    connections: Connections
    _personal: PersonalViews
    _lists: Lists
    _results: Results
    _extensions: Extensions
    _gate: AbstractAsyncContextManager[None]

    async def sync(self, requester: Requester, request: SlidingRequest) -> bytes:
        """Give an answer as JSON, waiting for news up to the timeout.

        Raises: InvalidParam; M_UNKNOWN_POS; LimitExceeded, when too many ask.
        """
        check(request)
        user_id = requester.user_id
        key = ConnectionKey(user_id, requester.device_id or "", request.conn_id)
        connection, since = Connection(key), None
        if request.pos is not None:
            since, number = read_pos(request.pos, self._positions)
            connection = await self.connections.find(key, number)
        with self._presence.syncing(user_id, requester.device_id, request.set_presence):
            if since is not None and not await self._catch_up(since):
                assert request.pos is not None
                return orjson.dumps({"pos": request.pos, "lists": {}, "rooms": {}})
            rooms = await self._rooms_of(user_id)
            with self._notifier.watching(user_id, _joined(rooms)) as watch:
                return await self._wait(requester, request, connection, since, watch)

    async def _catch_up(self, since: SyncToken) -> bool:
        return self._positions.covers(since) or await self._positions.wait_for(since, CATCH_UP_S)

    async def _rooms_of(self, user_id: UserID) -> RoomsOf:
        rooms = self._memberships.rooms_of_nowait(user_id)
        if rooms is None:
            rooms = await self._memberships.rooms_of(user_id)
            # The feed may have gone on between the reading and this task's turn.
            rooms = self._memberships.rooms_of_nowait(user_id) or rooms
        return rooms

    async def _wait(
        self,
        requester: Requester,
        request: SlidingRequest,
        connection: Connection,
        since: SyncToken | None,
        watch: Watch,
    ) -> bytes:
        timeout_ms = max(0, min(request.timeout_ms, MAX_TIMEOUT_MS))
        deadline = trio.current_time() + timeout_ms / 1000
        answer: _Answer | None = None
        began = self._positions.now()
        while True:
            changes = watch.changes
            if answer is None or answer.moment is not self._positions.now():
                async with self._gate:
                    turn = await self._turn(requester, request, connection, since, began)
                    answer = await self._answer(turn)
            if answer.news or since is None or self._notifier.is_leaving:
                break
            if trio.current_time() >= deadline:
                break
            await self._notifier.wait(watch, changes, deadline)
        return await self._send(connection, answer)

    async def _send(self, connection: Connection, answer: _Answer) -> bytes:
        if answer.changes or not connection.number:
            connection = await self.connections.advance(connection, answer.changes)
        answer.windows.settled_at = connection.number
        pos = pos_of(answer.moment.text, connection.number)
        return orjson.dumps({"pos": pos, **answer.members})

    async def _turn(
        self,
        requester: Requester,
        request: SlidingRequest,
        connection: Connection,
        since: SyncToken | None,
        began: Moment,
    ) -> _Turn:
        user_id = requester.user_id
        ignored = await self._visibility.ignored_by(user_id)
        personal = await self._personal.of(user_id)
        await self._rooms_of(user_id)
        # From here on without a pause: the rooms are those of the moment.
        moment = self._positions.now()
        rooms = self._memberships.rooms_of_nowait(user_id)
        if rooms is None:
            rooms = await self._memberships.rooms_of(user_id)
        asking = Asking(user_id, request, connection, rooms, personal)
        return _Turn(requester, asking, since, began, moment, ignored)

    async def _answer(self, turn: _Turn) -> _Answer:
        asking, since = turn.asking, turn.since
        windows = await self._lists.windows(asking, turn.moment.token.events)
        touched = None if since is None else await self._touched(turn, windows, since)
        read: AbstractSet[RoomID] = frozenset()
        if asking.request.form is Form.DEPLOYED:  # in the other one, rooms have no counts
            token = turn.moment.token
            read = await self._extensions.own_receipts(asking, windows, since, token)
        news = News(since, touched, read)
        changes: dict[RoomID, RoomSent] = {}
        candidates: AbstractSet[RoomID] = windows.rooms.keys()
        if touched is not None and windows.settled_at == asking.connection.number:
            candidates = candidates & (touched | read)
        elif since is not None:
            changes.update(parked_rooms(asking, windows, since))
        plans = plan_rooms(asking, windows, candidates, news)
        occasion = Occasion(turn.requester, since, turn.moment, windows, read, asking.request.form)
        results = await self._results.make(occasion, plans)
        changes.update(_changed(asking, results, candidates))
        return await self._compose(turn, windows, plans, results, changes)

    async def _touched(
        self, turn: _Turn, windows: Windows, since: SyncToken
    ) -> AbstractSet[RoomID]:
        """Find the rooms with news."""
        rooms = self._tails.rooms_since(since.events)
        if rooms is not None:
            return rooms
        sent = turn.asking.connection.rooms
        live = [one for one in windows.rooms if one in sent and sent[one].parked is None]
        found = await self._database.read(room_changes.changed_rooms, live, since.events.floor)
        return frozenset(RoomID(one) for one in found)

    async def _compose(
        self,
        turn: _Turn,
        windows: Windows,
        plans: list[RoomPlan],
        results: dict[RoomID, Result],
        changes: dict[RoomID, RoomSent],
    ) -> _Answer:
        rooms = {room_id: one.fields for room_id, one in results.items() if one.fields is not None}
        fresh = {
            plan.room_id: results[plan.room_id].shown
            for plan in plans
            if plan.initial and not plan.is_stripped
        }
        before = turn.asking.connection.rooms
        parked = {
            room_id: sent.parked
            for room_id in changes
            if room_id in windows.rooms
            and room_id not in fresh
            and (sent := before.get(room_id)) is not None
            and sent.parked is not None
        }
        scene = Scene(
            asking=turn.asking,
            windows=windows,
            since=turn.since,
            began=turn.began,
            moment=turn.moment,
            fresh=fresh,
            parked=parked,
            ignored=turn.ignored,
        )
        extensions, news = await self._extensions.make(scene)
        members = {
            "lists": {name: {"count": count} for name, count in windows.counts.items()},
            "rooms": rooms,
            "extensions": extensions,
        }
        return _Answer(turn.moment, members, windows, changes, news or bool(rooms))


def _changed(
    asking: Asking, results: dict[RoomID, Result], candidates: AbstractSet[RoomID]
) -> dict[RoomID, RoomSent]:
    """Give what the client has of rooms after the answer, where that differs from before."""
    before = asking.connection.rooms
    changed = {
        room_id: one.sent for room_id, one in results.items() if before.get(room_id) != one.sent
    }
    for room_id in candidates - results.keys():
        sent = before.get(room_id)
        if sent is not None and sent.parked is not None:
            changed[room_id] = attrs.evolve(sent, parked=None)
    return changed


def _joined(rooms: RoomsOf) -> list[RoomID]:
    return [room_id for room_id, own in rooms.items() if own.membership == event_types.JOIN]
