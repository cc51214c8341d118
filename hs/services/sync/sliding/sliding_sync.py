"""The sliding sync service: computes responses, and waits for changes until the timeout.

Rules:

- The end position of a response is fixed before anything is read; what arrives later belongs to the
  next response. The user's rooms are read in the same step, without a checkpoint in between.
- A connection state is never modified. A response that changes what the client has creates a new
  state, under a new number in `pos`, so a client that lost the response may repeat its request.
- The new state is stored before the response is returned, and only for the response that is
  returned: responses that were computed while waiting, without changes to send, are discarded.
- If the computed rooms were last sent with exactly this connection state, only rooms with changes
  are examined. Otherwise all requested rooms are, and those that are no longer requested get a
  record of the token up to which they were sent.

Races that this settles:

- A change between computing a response and waiting: the number of changes of the watch is read
  before the position, and waiting ends at once if it differs. After waking, a response is computed
  again only if the position has moved.
- A token from another process: the request waits until this process has caught up, and after
  `CATCH_UP_S` gets an empty response with its own `pos` back.
- Draining: waiting requests are answered at once with the last computed response.

Spec: MSC4186.
"""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Any, Final

import attrs
import orjson
import trio

from hs.core.events import event_types
from hs.core.ids import RoomID, UserID
from hs.core.positions import VectorPosition
from hs.core.requester import Requester
from hs.core.tokens import SyncToken
from hs.services.ephemeral.presence import PresenceService
from hs.services.rooms.read.visibility import Visibility
from hs.services.rooms.store.memberships import Memberships, RoomsOf
from hs.services.rooms.store.recent_events import RecentEvents
from hs.services.sync.late_counts import NO_LATE_COUNTS, load_late_counts
from hs.services.sync.notifier import Notifier, Watch
from hs.services.sync.positions import (
    PositionsLate,
    SyncPosition,
    SyncPositions,
    only_presence_moved,
)
from hs.services.sync.sliding.account_data_view import AccountDataViews
from hs.services.sync.sliding.connection_state import SentRoom
from hs.services.sync.sliding.connections import (
    SlidingConnection,
    SlidingConnections,
    UnknownPos,
    encode_pos,
    parse_pos,
)
from hs.services.sync.sliding.extensions import ExtensionContext, SlidingExtensions
from hs.services.sync.sliding.request import SlidingRequest, SlidingSyncVariant, validate_request
from hs.services.sync.sliding.requested_rooms import RequestedRooms, SlidingSyncContext
from hs.services.sync.sliding.room_lists import RoomLists
from hs.services.sync.sliding.room_plans import (
    ChangesSincePos,
    RoomPlan,
    no_longer_requested,
    plan_rooms,
)
from hs.services.sync.sliding.rooms_response import RoomResult, RoomsContext, RoomsResponse
from hs.services.sync.sources import UnreadCountSource
from hs.services.sync.sync_gate import SyncGate
from hs.storage.database import Database
from hs.storage.sync import room_changes
from hs.storage.sync.sliding_sync import ConnectionKey

CATCH_UP_S: Final = 5.0
"""How long a request waits for this process to reach the position of its token."""

MAX_TIMEOUT_MS: Final = 10 * 60 * 1000


@attrs.frozen(eq=False)
class _Context:
    """The context of one response.

    `began` is the position of this process when the request arrived.
    """

    requester: Requester
    request_context: SlidingSyncContext
    since: SyncToken | None
    began: SyncPosition
    position: SyncPosition
    ignored: AbstractSet[UserID]


@attrs.frozen(eq=False)
class _Response:
    """A response without its `pos`, which has `token`.

    `changes` are the new records of what the client has of rooms after this response.
    """

    position: SyncPosition
    members: dict[str, Any]
    requested: RequestedRooms
    changes: dict[RoomID, SentRoom]
    has_changes: bool
    token: SyncToken


@attrs.frozen(eq=False)
class SlidingSync:
    """The sliding sync service."""

    _database: Database
    _positions: SyncPositions
    _notifier: Notifier
    _memberships: Memberships
    _visibility: Visibility
    _tails: RecentEvents
    _presence: PresenceService
    connections: SlidingConnections
    _account_data: AccountDataViews
    lists: RoomLists
    _results: RoomsResponse
    _extensions: SlidingExtensions
    _gate: SyncGate
    _counts: UnreadCountSource

    async def sync(self, requester: Requester, request: SlidingRequest) -> bytes:
        """Return the encoded response; wait for changes until the timeout.

        Raises: InvalidParam if the request is invalid; UnknownPos if its `pos` is unknown;
            LimitExceeded if too many requests are being computed.
        """
        validate_request(request)
        user_id = requester.user_id
        key = ConnectionKey(user_id, requester.device_id or "", request.conn_id)
        connection, since = SlidingConnection(key), None
        if request.pos is not None:
            since, number = parse_pos(request.pos, self._positions)
            connection = await self.connections.find(key, number)
        with self._presence.syncing(user_id, requester.device_id, request.set_presence):
            if since is not None:
                try:
                    since = await self._positions.reach(since, CATCH_UP_S)
                except PositionsLate:
                    return orjson.dumps({"pos": request.pos, "lists": {}, "rooms": {}})
                if since is None:
                    raise UnknownPos
            rooms = await self._rooms_of(user_id)
            with self._notifier.watching(user_id, _joined(rooms)) as watch:
                if request.extensions.profiles.enabled:
                    self._notifier.follow_profiles(watch)
                return await self._wait(requester, request, connection, since, watch)

    async def _rooms_of(self, user_id: UserID) -> RoomsOf:
        rooms = self._memberships.rooms_of_nowait(user_id)
        if rooms is None:
            rooms = await self._memberships.rooms_of(user_id)
            # The feed may have delivered changes after the read, before this task resumed.
            rooms = self._memberships.rooms_of_nowait(user_id) or rooms
        return rooms

    async def _wait(
        self,
        requester: Requester,
        request: SlidingRequest,
        connection: SlidingConnection,
        since: SyncToken | None,
        watch: Watch,
    ) -> bytes:
        timeout_ms = max(0, min(request.timeout_ms, MAX_TIMEOUT_MS))
        deadline = trio.current_time() + timeout_ms / 1000
        response: _Response | None = None
        began = self._positions.now()
        is_late = since is not None and since.counted is not None
        count_changes = -1
        while True:
            if is_late:
                self._notifier.follow_counts(watch)
            changes = watch.changes
            has_counts = not is_late or watch.count_changes == count_changes
            count_changes = watch.count_changes
            position = self._positions.now()
            # Responses have no presence, so they are not computed again when others come and go.
            if (
                response is None
                or not has_counts
                or not (
                    response.position is position
                    or only_presence_moved(response.position.token, position)
                )
            ):
                async with self._gate.of_user(requester.user_id):
                    context = await self._make_context(requester, request, connection, since, began)
                    response = await self._respond(context)
                    if response.has_changes or since is None:
                        return await self._send(connection, response)
            if self._notifier.is_leaving or trio.current_time() >= deadline:
                break
            await self._notifier.wait(watch, changes, deadline)
        return await self._send(connection, response)

    async def _send(self, connection: SlidingConnection, response: _Response) -> bytes:
        if response.changes or not connection.number:
            connection = await self.connections.advance(connection, response.changes)
        response.requested.sent_at = connection.number
        position, token = response.position, response.token
        text = position.text if token is position.token else token.encode()
        pos = encode_pos(text, connection.number)
        return orjson.dumps({"pos": pos, **response.members})

    async def _make_context(
        self,
        requester: Requester,
        request: SlidingRequest,
        connection: SlidingConnection,
        since: SyncToken | None,
        began: SyncPosition,
    ) -> _Context:
        user_id = requester.user_id
        ignored = await self._visibility.ignored_by(user_id)
        account_data = await self._account_data.of(user_id)
        await self._rooms_of(user_id)
        # No checkpoint between these two: the rooms must belong to the position.
        position = self._positions.now()
        rooms = self._memberships.rooms_of_nowait(user_id)
        if rooms is None:
            rooms = await self._memberships.rooms_of(user_id)
        request_context = SlidingSyncContext(user_id, request, connection, rooms, account_data)
        return _Context(
            requester=requester,
            request_context=request_context,
            since=since,
            began=began,
            position=position,
            ignored=ignored,
        )

    async def _respond(self, context: _Context) -> _Response:
        request_context, since = context.request_context, context.since
        requested = await self.lists.windows(request_context, context.position.token.events)
        changed_rooms = (
            None
            if since is None
            else await self._rooms_with_events(context, requested, since.events)
        )
        read_rooms: AbstractSet[RoomID] = frozenset()
        late_counts = NO_LATE_COUNTS
        if (
            request_context.request.form is SlidingSyncVariant.DEPLOYED
        ):  # only here do rooms have counts
            token = context.position.token
            read_rooms = await self._extensions.own_receipts(
                request_context, requested, since, token
            )
            has_rooms = (
                changed_rooms is None
                or bool(read_rooms)
                or requested.sent_at != request_context.connection.number
                or not requested.rooms.keys().isdisjoint(changed_rooms)
            )
            late_counts = await load_late_counts(
                self._counts,
                since,
                token.events,
                partial(self._rooms_with_events, context, requested),
                has_rooms=has_rooms,
            )
            read_rooms = read_rooms | late_counts.rooms
        changes_since = ChangesSincePos(since, changed_rooms, read_rooms)
        changes: dict[RoomID, SentRoom] = {}
        candidates: AbstractSet[RoomID] = requested.rooms.keys()
        if changed_rooms is not None and requested.sent_at == request_context.connection.number:
            candidates = candidates & (changed_rooms | read_rooms)
        elif since is not None:
            changes.update(no_longer_requested(request_context, requested, since))
        plans = plan_rooms(request_context, requested, candidates, changes_since)
        rooms_context = RoomsContext(
            requester=context.requester,
            since=since,
            position=context.position,
            windows=requested,
            read=read_rooms,
            form=request_context.request.form,
        )
        results = await self._results.make(rooms_context, plans)
        changes.update(_changed_records(request_context, results, candidates))
        response = await self._compose(context, requested, plans, results, changes)
        if late_counts.reached is None:
            return response
        return attrs.evolve(
            response, token=attrs.evolve(response.token, counted=late_counts.reached)
        )

    async def _rooms_with_events(
        self, context: _Context, requested: RequestedRooms, since: VectorPosition
    ) -> AbstractSet[RoomID]:
        """Return the rooms with events since; rooms that are requested again may be missing."""
        rooms = self._tails.rooms_since(since)
        if rooms is not None:
            return rooms
        sent = context.request_context.connection.rooms
        up_to_date = [
            room_id
            for room_id in requested.rooms
            if room_id in sent and sent[room_id].sent_until is None
        ]
        room_ids = await self._database.read(room_changes.changed_rooms, up_to_date, since.floor)
        return frozenset(RoomID(room_id) for room_id in room_ids)

    async def _compose(
        self,
        context: _Context,
        requested: RequestedRooms,
        plans: list[RoomPlan],
        results: dict[RoomID, RoomResult],
        changes: dict[RoomID, SentRoom],
    ) -> _Response:
        rooms = {
            room_id: result.fields
            for room_id, result in results.items()
            if result.fields is not None
        }
        new_rooms = {
            plan.room_id: results[plan.room_id].shown
            for plan in plans
            if plan.initial and not plan.is_stripped
        }
        before = context.request_context.connection.rooms
        resumed = {
            room_id: sent.sent_until
            for room_id in changes
            if room_id in requested.rooms
            and room_id not in new_rooms
            and (sent := before.get(room_id)) is not None
            and sent.sent_until is not None
        }
        extension_context = ExtensionContext(
            request_context=context.request_context,
            requested=requested,
            since=context.since,
            began=context.began,
            position=context.position,
            new_rooms=new_rooms,
            shown={event_id for result in results.values() for event_id in result.shown},
            resumed=resumed,
            ignored=context.ignored,
            lazy_members=(
                _added_members(before, changes)
                if context.request_context.request.extensions.profiles.enabled
                else {}
            ),
        )
        extensions = await self._extensions.make(extension_context)
        members = {
            "lists": {name: {"count": count} for name, count in requested.counts.items()},
            "rooms": rooms,
            "extensions": extensions.members,
        }
        return _Response(
            position=context.position,
            members=members,
            requested=requested,
            changes=changes,
            has_changes=extensions.has_changes or bool(rooms),
            token=_token(context.position, extensions.profiles_reached),
        )


def _token(position: SyncPosition, profiles: VectorPosition | None) -> SyncToken:
    """Return the token of a response, which may end earlier in the stream of profile updates."""
    if profiles is None:
        return position.token
    return attrs.evolve(position.token, profile_updates=profiles)


def _added_members(
    before: Mapping[RoomID, SentRoom], changes: Mapping[RoomID, SentRoom]
) -> dict[RoomID, AbstractSet[UserID]]:
    """Return the members that lazy loading adds to those that the client has of rooms."""
    added: dict[RoomID, AbstractSet[UserID]] = {}
    for room_id, sent in changes.items():
        previous = before.get(room_id)
        known = frozenset[UserID]() if previous is None else previous.members
        new = sent.members - known
        if new:
            added[room_id] = new
    return added


def _changed_records(
    request_context: SlidingSyncContext,
    results: dict[RoomID, RoomResult],
    candidates: AbstractSet[RoomID],
) -> dict[RoomID, SentRoom]:
    """Return the records of rooms that differ from those before the response."""
    before = request_context.connection.rooms
    changed = {
        room_id: result.sent
        for room_id, result in results.items()
        if before.get(room_id) != result.sent
    }
    for room_id in candidates - results.keys():
        sent = before.get(room_id)
        if sent is not None and sent.sent_until is not None:
            changed[room_id] = attrs.evolve(sent, sent_until=None)
    return changed


def _joined(rooms: RoomsOf) -> Iterator[RoomID]:
    # A generator, because it is consumed only if the user has no watch yet.
    return (room_id for room_id, own in rooms.items() if own.membership == event_types.JOIN)
