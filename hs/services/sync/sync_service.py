"""The `/sync` service: computes responses, and waits for changes until the timeout.

Rules:

- A response covers exactly the interval `(since, next_batch]`. `next_batch` is fixed before
  anything is read; what arrives later belongs to the next response, even if a reader has seen it
  already.
- The user's rooms are read in the same step as the position, without a checkpoint in between, so
  that both describe the same state of the feed. If the rooms are not in memory at that moment, the
  database may be ahead of the position; the room selection allows for that.
- If the token is ahead of this process (another process issued it), the request waits for the feed
  to catch up. After `CATCH_UP_S` it gets an empty response with its own token back.

Races that this settles:

- A change between computing a response and waiting: the number of changes of the watch is read
  before the position, and waiting ends at once if it differs.
- Concurrent equal initial requests are computed once, but only if they saw the same number of
  changes. A request that arrives after a change never shares an older computation.
- To-device messages: the response may end earlier in that stream than in the others, if there are
  more messages than fit. Its token then says so. A response with such messages is not cached,
  because they must not be delivered again once they are acknowledged.
- Sticky events: likewise, if there are more than fit. A response with such events is not cached
  either, because it says how long they will be sticky.
- Counts: a response may be sent before push rules were evaluated. Its token then says so, and the
  requests with it are woken by the evaluation (`late_counts`).
- Draining: when the process is about to stop, waiting requests get an empty response with their own
  token, so that the client repeats them at another process.

Spec: client-server API, Syncing.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import attrs
import orjson
import trio

from hs.core.events import event_types
from hs.core.ids import RoomID
from hs.core.positions import VectorPosition
from hs.core.tokens import SyncToken
from hs.lib.caching.single_flight import SingleFlight
from hs.services.ephemeral.presence import PresenceService
from hs.services.rooms.read.rendering import EventRenderer
from hs.services.rooms.read.visibility import Visibility
from hs.services.rooms.store.memberships import Memberships, RoomsOf
from hs.services.sync.account_data_section import AccountDataSection, PresenceSection
from hs.services.sync.compiled_filters import CompiledFilters
from hs.services.sync.encryption_section import EncryptionMembers, EncryptionSection
from hs.services.sync.late_counts import LateCounts, LateCountsSection
from hs.services.sync.lazy_members import (
    NOTHING_SENT,
    RECORD_SEGMENT,
    LazyMembers,
    RecordName,
    SentMembers,
    add_record,
    split_record,
)
from hs.services.sync.notifier import Notifier, Watch
from hs.services.sync.positions import (
    PositionsLate,
    SyncPosition,
    SyncPositions,
    only_presence_moved,
)
from hs.services.sync.profile_section import NO_PROFILES, ProfileSection
from hs.services.sync.response_cache import ResponseCache
from hs.services.sync.room_ephemeral import RoomEphemeralSection
from hs.services.sync.room_selection import RoomSelection
from hs.services.sync.rooms_section import RoomsSection
from hs.services.sync.sticky_section import StickyRoomEvents, StickySection
from hs.services.sync.sync_context import CompiledFilter, RoomSyncContext, SyncContext, SyncRequest
from hs.services.sync.sync_gate import SyncGate

CATCH_UP_S: Final = 5.0
"""How long a request waits for this process to reach the position of its token."""

MAX_TIMEOUT_MS: Final = 10 * 60 * 1000


@attrs.frozen(eq=False)
class SyncSections:
    """The sections that responses consist of."""

    room_selection: RoomSelection
    rooms: RoomsSection
    ephemeral: RoomEphemeralSection
    account_data: AccountDataSection
    presence: PresenceSection
    encryption: EncryptionSection
    profiles: ProfileSection
    sticky: StickySection
    late_counts: LateCountsSection


@attrs.frozen(eq=False)
class _Response:
    """An encoded response, and whether it has changes that end the waiting.

    A response with to-device messages must not be cached: after they are acknowledged, they must
    not be delivered again.
    """

    text: bytes
    has_changes: bool
    may_be_cached: bool


@attrs.frozen(eq=False)
class SyncService:
    """The service of `/sync`."""

    _positions: SyncPositions
    _notifier: Notifier
    _memberships: Memberships
    _visibility: Visibility
    _rendering: EventRenderer
    _compiled_filters: CompiledFilters
    _lazy: LazyMembers
    _presence: PresenceService
    sections: SyncSections
    _response_cache: ResponseCache
    _gate: SyncGate
    _flights: SingleFlight[tuple[SyncRequest, int]] = attrs.field(factory=SingleFlight, init=False)

    async def sync(self, request: SyncRequest) -> bytes:
        """Return the encoded response; wait for changes until the timeout.

        Raises: InvalidParam if the token is invalid; InvalidParam, BadJson or NotFound for the
            filter; LimitExceeded if too many requests are being computed.
        """
        requester = request.requester
        compiled_filter = await self._compiled_filters.get(requester.user_id, request.filter)
        since = None if request.since is None else self._parse(request.since)
        with self._presence.syncing(requester.user_id, requester.device_id, request.set_presence):
            if since is not None:
                try:
                    since = await self._positions.reach(since, CATCH_UP_S)
                except PositionsLate:
                    assert request.since is not None
                    return _empty_response(request.since)
                if since is None:
                    request = attrs.evolve(request, since=None)
            if since is None:
                await self._presence.wait_until_present(requester.user_id, request.set_presence)
            rooms = await self._rooms_of(request)
            with self._notifier.watching(requester.user_id, _joined(rooms)) as watch:
                if compiled_filter.filter.profile_fields:
                    self._notifier.follow_profiles(watch)
                if since is None or request.full_state:
                    return await self._sync_at_once(request, compiled_filter, since, watch, rooms)
                return await self._sync_changes(request, compiled_filter, since, watch)

    def _parse(self, since: str) -> SyncToken:
        # The text without the record is that of a position, whose token is known.
        return self._positions.parse(split_record(since)[0] if RECORD_SEGMENT in since else since)

    async def _rooms_of(self, request: SyncRequest) -> RoomsOf:
        user_id = request.requester.user_id
        rooms = self._memberships.rooms_of_nowait(user_id)
        if rooms is None:
            rooms = await self._memberships.rooms_of(user_id)
            # The feed may have delivered changes after the read, before this task resumed.
            rooms = self._memberships.rooms_of_nowait(user_id) or rooms
        return rooms

    async def _sync_at_once(
        self,
        request: SyncRequest,
        compiled_filter: CompiledFilter,
        since: SyncToken | None,
        watch: Watch,
        rooms: RoomsOf,
    ) -> bytes:
        """Return a response at once; compute concurrent equal requests only once."""
        cached = self._response_cache.get(request, watch, rooms)
        if cached is not None:
            return cached
        # A request that arrives after a change must not share a computation begun before it.
        key = (request, watch.changes)
        return await self._flights.run(
            key, self._compute_at_once, request, compiled_filter, since, watch
        )

    async def _compute_at_once(
        self,
        request: SyncRequest,
        compiled_filter: CompiledFilter,
        since: SyncToken | None,
        watch: Watch,
    ) -> bytes:
        changes = watch.changes
        sent = await self._sent_members(request, compiled_filter)
        async with self._gate.of_user(request.requester.user_id):
            context = await self._context(request, compiled_filter, since, sent)
            response = await self._respond(context, context.position)
        if response.may_be_cached:
            self._response_cache.put(request, watch, changes, context.rooms, response.text)
        return response.text

    async def _sync_changes(
        self, request: SyncRequest, compiled_filter: CompiledFilter, since: SyncToken, watch: Watch
    ) -> bytes:
        is_over = request.timeout_ms <= 0
        deadline = trio.current_time() + min(request.timeout_ms, MAX_TIMEOUT_MS) / 1000
        sent: SentMembers | None = None
        changes = self._begin_wait(since, watch)
        began = position = self._positions.now()
        unseen: SyncPosition | None = None
        count_changes = -1
        while True:
            response: _Response | None = None
            has_counts = since.counted is None or watch.count_changes == count_changes
            count_changes = watch.count_changes
            if has_counts and (position is unseen or not _has_moved(since, position)):
                pass
            elif has_counts and await self._has_unseen_presence_only(
                request, compiled_filter, since, position
            ):
                unseen = position
            else:
                if sent is None:
                    # Before the gate is passed: another process may have to be asked.
                    sent = await self._sent_members(request, compiled_filter)
                async with self._gate.of_user(request.requester.user_id):
                    context = await self._context(request, compiled_filter, since, sent)
                    response = await self._respond(context, began)
                if response.has_changes:
                    return response.text
            if self._notifier.is_leaving:
                assert request.since is not None
                return _empty_response(request.since)
            if is_over:
                return (
                    await self._without_changes(request, since, position)
                    if response is None
                    else response.text
                )
            await self._notifier.wait(watch, changes, deadline)
            is_over = trio.current_time() >= deadline
            changes, position = self._begin_wait(since, watch), self._positions.now()

    async def _sent_members(
        self, request: SyncRequest, compiled_filter: CompiledFilter
    ) -> SentMembers:
        """Return the record of the members that the device has received with its token."""
        name = _record_of(request)
        if name is None:
            return NOTHING_SENT
        if not compiled_filter.is_lazy:
            return SentMembers(name)
        return await self._lazy.find(request.requester, name)

    def _begin_wait(self, since: SyncToken, watch: Watch) -> int:
        """Return the number of wake-ups before a response is computed."""
        if since.counted is not None:
            self._notifier.follow_counts(watch)
        return watch.changes

    async def _has_unseen_presence_only(
        self,
        request: SyncRequest,
        compiled_filter: CompiledFilter,
        since: SyncToken,
        position: SyncPosition,
    ) -> bool:
        """Return whether nothing has changed but the presence of users whom the user never sees.

        On a large server someone's presence changes during every poll.
        """
        return only_presence_moved(
            since, position
        ) and not await self.sections.presence.has_changes(
            request.requester.user_id, compiled_filter, since
        )

    async def _context(
        self,
        request: SyncRequest,
        compiled_filter: CompiledFilter,
        since: SyncToken | None,
        sent: SentMembers,
    ) -> SyncContext:
        user_id = request.requester.user_id
        ignored = await self._visibility.ignored_by(user_id)
        # No checkpoint between these two: the rooms must belong to the position.
        rooms, position = self._memberships.rooms_of_nowait(user_id), self._positions.now()
        if rooms is None:
            await self._memberships.rooms_of(user_id)
            position = self._positions.now()
            rooms = self._memberships.rooms_of_nowait(user_id)
        if rooms is None:
            rooms = await self._memberships.rooms_of(user_id)
        viewer = self._rendering.viewer(request.requester, ignored)
        return SyncContext(
            request=request,
            compiled_filter=compiled_filter,
            since=since,
            position=position,
            rooms=rooms,
            ignored=ignored,
            viewer=viewer,
            sent_members=sent,
        )

    async def _without_changes(
        self, request: SyncRequest, since: SyncToken, position: SyncPosition
    ) -> bytes:
        """Return a response without changes: the key counts, which are always sent."""
        encryption = await self.sections.encryption.without_changes(
            request.requester, since, position.token
        )
        next_batch = _next_batch(position, encryption.to_device, counted=since.counted)
        name = _record_of(request)
        if name is not None:
            next_batch = add_record(next_batch, name)
        return b"".join(_encode(next_batch, _encryption_parts(encryption)))

    async def _respond(self, context: SyncContext, began: SyncPosition) -> _Response:
        sections = self.sections
        if context.since is None:
            room_contexts = await sections.room_selection.initial(context)
        else:
            room_contexts = await sections.room_selection.incremental(context)
        sticky = await sections.sticky.load(context, room_contexts)
        parts, late_counts = await self._rooms_parts(context, room_contexts, sticky)
        presence = await sections.presence.render(context, room_contexts)
        if presence:
            parts.append(b',"presence":{"events":[%b]}' % b",".join(presence))
        profiles = NO_PROFILES
        if context.compiled_filter.filter.profile_fields:
            profiles = await sections.profiles.render(context, room_contexts)
        if profiles.text:
            parts += (b",", profiles.text)
        since, now = context.since, context.position.token
        requester = context.request.requester
        encryption = await sections.encryption.render(requester, since, now, began.token)
        has_changes = (
            bool(parts)
            or profiles.reached is not None
            or sticky.reached is not None
            or encryption.has_changes
            or since is None
            or context.request.full_state
        )
        parts += _encryption_parts(encryption)
        reached = encryption.to_device
        next_batch = _next_batch(
            context.position, reached, profiles.reached, sticky.reached, late_counts.reached
        )
        sent = context.sent_members
        if context.compiled_filter.is_lazy:
            sent = self._lazy.add(requester, sent, context.added_members)
        if sent.name is not None:
            next_batch = add_record(next_batch, sent.name)
        may_be_cached = reached is None and sticky.is_empty
        text = await context.time_slice.join(_encode(next_batch, parts))
        return _Response(text, has_changes, may_be_cached)

    async def _rooms_parts(
        self,
        context: SyncContext,
        room_contexts: list[RoomSyncContext],
        sticky: StickyRoomEvents,
    ) -> tuple[list[bytes], LateCounts]:
        """Return the parts of the members that tell of rooms and account data, and the counts."""
        sections, time_slice = self.sections, context.time_slice
        is_initial = context.since is None
        if is_initial:
            await time_slice.yield_if_over()
        parts: list[bytes] = []
        entries = await sections.account_data.load(context, room_contexts)
        account_data = await sections.account_data.render(context, entries)
        if account_data:
            parts.append(b',"account_data":{"events":[%b]}' % b",".join(account_data))
        room_events = await sections.ephemeral.load(context, room_contexts, entries)
        if is_initial:
            await time_slice.yield_if_over()
        has_rooms = bool(room_contexts or room_events.rooms() or sticky.by_room)
        late_counts = await sections.late_counts.load(
            context, has_rooms=has_rooms or context.request.full_state
        )
        rooms = await sections.rooms.render(
            context, room_contexts, room_events, sticky.by_room, late_counts.rooms
        )
        if rooms:
            parts += (b",", *rooms)
        return parts, late_counts


def _joined(rooms: RoomsOf) -> Iterator[RoomID]:
    # A generator, because it is consumed only if the user has no watch yet.
    return (room_id for room_id, own in rooms.items() if own.membership == event_types.JOIN)


def _has_moved(since: SyncToken, position: SyncPosition) -> bool:
    return since is not position.token and since != position.token


def _next_batch(
    position: SyncPosition,
    to_device: VectorPosition | None,
    profiles: VectorPosition | None = None,
    sticky: VectorPosition | None = None,
    counted: VectorPosition | None = None,
) -> str:
    """Return the token of a response that ends earlier in some streams than at the position."""
    token = position.token
    if to_device is not None and to_device != token.to_device:
        token = attrs.evolve(token, to_device=to_device)
    if profiles is not None:
        token = attrs.evolve(token, profile_updates=profiles)
    if sticky is not None:
        token = attrs.evolve(token, sticky=sticky)
    if counted is not None:
        token = attrs.evolve(token, counted=counted)
    return position.text if token is position.token else token.encode()


def _record_of(request: SyncRequest) -> RecordName | None:
    since = request.since
    # Most tokens have no record, and each call counts: every member of a room gets each message.
    return split_record(since)[1] if since is not None and RECORD_SEGMENT in since else None


def _empty_response(next_batch: str) -> bytes:
    return b'{"next_batch":"%b"}' % next_batch.encode()


def _encryption_parts(encryption: EncryptionMembers) -> list[bytes]:
    return [b",%b:%b" % (orjson.dumps(name), value) for name, value in encryption.members.items()]


def _encode(next_batch: str, parts: Sequence[bytes]) -> list[bytes]:
    """Return the parts of a response; those given begin with a comma."""
    return [b'{"next_batch":"%b"' % next_batch.encode(), *parts, b"}"]
