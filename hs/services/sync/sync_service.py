"""/sync: what happened in `(since, next_batch]`, exactly, and waiting until something does.

The end of an answer is fixed before anything is read; what arrives meanwhile belongs to the next.

Spec: client-server API, Syncing.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

import attrs
import orjson
import trio

from hs.core.events import event_types
from hs.core.ids import RoomID
from hs.core.tokens import SyncToken
from hs.lib.caching.single_flight import SingleFlight
from hs.services.rooms.read.rendering import Rendering
from hs.services.rooms.read.visibility import Visibility
from hs.services.rooms.store.memberships import Memberships, RoomsOf
from hs.services.sync.account_data_section import Accounts, PresenceSection
from hs.services.sync.compiled_filters import Plans
from hs.services.sync.lazy_members import LazyMembers, SentMembers
from hs.services.sync.notifier import Notifier, Watch
from hs.services.sync.positions import Moment, Positions
from hs.services.sync.response_cache import Answers
from hs.services.sync.room_ephemeral import RoomExtras
from hs.services.sync.room_selection import RoomTurns
from hs.services.sync.rooms_section import RoomSections
from hs.services.sync.sources import Extension, Extra, Presence
from hs.services.sync.sync_context import Plan, RoomTurn, SyncRequest, Turn

CATCH_UP_S: Final = 5.0
"""How long to wait for news that the holder of a token has seen through another process."""

MAX_TIMEOUT_MS: Final = 10 * 60 * 1000


@attrs.frozen(eq=False)
class Sections:
    """The parts an answer is made of."""

    room_turns: RoomTurns
    rooms: RoomSections
    extras: RoomExtras
    accounts: Accounts
    presence: PresenceSection
    extensions: Sequence[Extension] = ()


@attrs.frozen(eq=False)
class _Answer:
    """An answer as JSON, and whether it is worth giving before the time is over.

    One with messages to the device is not kept: once acknowledged they must not come again.
    """

    text: bytes
    news: bool
    may_be_kept: bool


@attrs.frozen(eq=False)
class SyncService:
    """Answers /sync."""

    _positions: Positions
    _notifier: Notifier
    _memberships: Memberships
    _visibility: Visibility
    _rendering: Rendering
    _plans: Plans
    _lazy: LazyMembers
    _presence: Presence
    sections: Sections
    _answers: Answers
    _gate: AbstractAsyncContextManager[None]
    _flights: SingleFlight[tuple[SyncRequest, int]] = attrs.field(factory=SingleFlight, init=False)

    async def sync(self, request: SyncRequest) -> bytes:
        """Give an answer as JSON, waiting for news up to the timeout.

        Raises: InvalidParam, BadJson, NotFound; LimitExceeded, when too many ask.
        """
        requester = request.requester
        plan = await self._plans.plan(requester.user_id, request.filter)
        since = None if request.since is None else self._positions.parse(request.since)
        with self._presence.syncing(requester.user_id, requester.device_id, request.set_presence):
            if since is not None and not await self._catch_up(since):
                assert request.since is not None
                return _idle(request.since)
            rooms = await self._rooms_of(request)
            with self._notifier.watching(requester.user_id, _joined(rooms)) as watch:
                if since is None or request.full_state:
                    return await self._whole(request, plan, since, watch, rooms)
                return await self._news(request, plan, since, watch)

    async def _catch_up(self, since: SyncToken) -> bool:
        return self._positions.covers(since) or await self._positions.wait_for(since, CATCH_UP_S)

    async def _rooms_of(self, request: SyncRequest) -> RoomsOf:
        user_id = request.requester.user_id
        rooms = self._memberships.rooms_of_nowait(user_id)
        if rooms is None:
            rooms = await self._memberships.rooms_of(user_id)
            # The feed may have gone on between the reading and this task's turn.
            rooms = self._memberships.rooms_of_nowait(user_id) or rooms
        return rooms

    async def _whole(
        self,
        request: SyncRequest,
        plan: Plan,
        since: SyncToken | None,
        watch: Watch,
        rooms: RoomsOf,
    ) -> bytes:
        """Answer at once and in full; equal requests at the same time are answered together."""
        known = self._answers.find(request, watch, rooms)
        if known is not None:
            return known
        # Whoever asks after something happened must see it.
        key = (request, watch.changes)
        return await self._flights.run(key, self._make_whole, request, plan, since, watch)

    async def _make_whole(
        self, request: SyncRequest, plan: Plan, since: SyncToken | None, watch: Watch
    ) -> bytes:
        changes = watch.changes
        sent = self._lazy.of(request.requester.user_id, request.requester.device_id)
        sent.resume(request.since)
        async with self._gate:
            turn = await self._turn(request, plan, since, sent)
            made = await self._answer(turn, turn.moment)
        if made.may_be_kept:
            self._answers.keep(request, watch, changes, turn.rooms, made.text)
        return made.text

    async def _news(
        self, request: SyncRequest, plan: Plan, since: SyncToken, watch: Watch
    ) -> bytes:
        deadline = trio.current_time() + min(request.timeout_ms, MAX_TIMEOUT_MS) / 1000
        sent = self._lazy.of(request.requester.user_id, request.requester.device_id)
        sent.resume(request.since)
        began = self._positions.now()
        while True:
            changes = watch.changes
            moment = self._positions.now()
            answer: _Answer | None = None
            if _is_behind(since, moment):
                async with self._gate:
                    turn = await self._turn(request, plan, since, sent)
                    answer = await self._answer(turn, began)
                if answer.news:
                    return answer.text
            if self._notifier.is_leaving:
                assert request.since is not None
                return _idle(request.since)
            if trio.current_time() >= deadline:
                return await self._standing(request, moment) if answer is None else answer.text
            await self._notifier.wait(watch, changes, deadline)

    async def _turn(
        self, request: SyncRequest, plan: Plan, since: SyncToken | None, sent: SentMembers
    ) -> Turn:
        user_id = request.requester.user_id
        ignored = await self._visibility.ignored_by(user_id)
        await self._rooms_of(request)
        # From here on without a pause: the rooms are those of the moment.
        moment = self._positions.now()
        rooms = self._memberships.rooms_of_nowait(user_id)
        if rooms is None:
            rooms = await self._memberships.rooms_of(user_id)
        viewer = self._rendering.viewer(request.requester, ignored)
        return Turn(request, plan, since, moment, rooms, ignored, viewer, sent)

    async def _standing(self, request: SyncRequest, moment: Moment) -> bytes:
        """Give the answer when nothing happened: what extensions tell at all times."""
        members: list[bytes] = []
        for extension in self.sections.extensions:
            now = moment.token
            extra = await extension.render(request.requester, now, now, now)
            members += _of_extra(extra)
        return _written(moment.text, members)

    async def _answer(self, turn: Turn, began: Moment) -> _Answer:
        sections = self.sections
        if turn.since is None:
            turns = await sections.room_turns.everything(turn)
        else:
            turns = await sections.room_turns.changed(turn)
        members = await self._rooms_member(turn, turns)
        presence = await sections.presence.render(turn, turns)
        if presence:
            members.append(b'"presence":{"events":[%b]}' % b",".join(presence))
        news = bool(members) or turn.since is None or turn.request.full_state
        text, may_be_kept = turn.moment.text, True
        for extension in sections.extensions:
            requester, since, now = turn.request.requester, turn.since, turn.moment.token
            extra = await extension.render(requester, since, now, began.token)
            news = news or extra.news
            members += _of_extra(extra)
            if extra.to_device is not None:
                may_be_kept = False
                if extra.to_device == turn.moment.token.to_device:
                    continue
                text = attrs.evolve(turn.moment.token, to_device=extra.to_device).encode()
        turn.sent.bring(turn.brought, text)
        return _Answer(_written(text, members), news, may_be_kept)

    async def _rooms_member(self, turn: Turn, turns: list[RoomTurn]) -> list[bytes]:
        sections = self.sections
        members: list[bytes] = []
        entries = await sections.accounts.entries(turn, turns)
        account_data = await sections.accounts.render(turn, entries)
        if account_data:
            members.append(b'"account_data":{"events":[%b]}' % b",".join(account_data))
        extras = await sections.extras.gather(turn, turns, entries)
        rooms = await sections.rooms.render(turn, turns, extras)
        if rooms is not None:
            members.append(b'"rooms":' + rooms)
        return members


def _joined(rooms: RoomsOf) -> Iterator[RoomID]:
    # Gone through only when the user has no watch yet.
    return (room_id for room_id, own in rooms.items() if own.membership == event_types.JOIN)


def _is_behind(since: SyncToken, moment: Moment) -> bool:
    return since is not moment.token and since != moment.token


def _idle(text: str) -> bytes:
    return b'{"next_batch":"%b"}' % text.encode()


def _of_extra(extra: Extra) -> list[bytes]:
    return [b"%b:%b" % (orjson.dumps(name), one) for name, one in extra.members.items()]


def _written(text: str, members: Sequence[bytes]) -> bytes:
    return b'{"next_batch":"%b"%b}' % (
        text.encode(),
        b"".join([b"," + member for member in members]),
    )
