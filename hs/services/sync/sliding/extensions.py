"""The extensions of sliding sync: account data, receipts, typing, and those in other modules.

A room that is new to the client is sent completely. A room that is requested again continues from
the token up to which it was sent. Every other room continues from the token of the request.

Spec: MSC3959, MSC3960, MSC3961 as MSC4186 uses them.
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

import attrs
import orjson

from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.core.positions import VectorPosition
from hs.core.streams import (
    ACCOUNT_DATA,
    PUSH_RULES,
    RECEIPTS,
    TYPING,
    AccountDataRow,
    PushRulesRow,
    ReceiptRow,
    TypingRow,
)
from hs.core.tokens import SyncToken
from hs.repl.feed import Feed
from hs.repl.recent_keys import RecentKeys
from hs.services.accounts.account_data.account_data import AccountDataEntry, AccountDataService
from hs.services.ephemeral.receipts import Receipts
from hs.services.ephemeral.typing_notifications import TypingUsers
from hs.services.sync.positions import SyncPosition
from hs.services.sync.profile_updates import ProfileViewer
from hs.services.sync.sliding.encryption_extension import EncryptionExtensions
from hs.services.sync.sliding.profile_extension import PROFILES_EXTENSION as PROFILES
from hs.services.sync.sliding.profile_extension import (
    ProfileExtension,
    ProfileExtensionPage,
    ProfileScope,
)
from hs.services.sync.sliding.request import (
    WILDCARD,
    ProfileExtensionRequest,
    ScopedExtensionRequest,
)
from hs.services.sync.sliding.requested_rooms import RequestedRooms, SlidingSyncContext
from hs.services.sync.sliding.sticky_extension import (
    STICKY_EXTENSION,
    StickyExtension,
    StickyExtensionContext,
)
from hs.services.sync.sliding.thread_extension import THREADS_EXTENSION as THREADS
from hs.services.sync.sliding.thread_extension import ThreadExtension
from hs.services.sync.sources import PushRuleDocuments

_PUSH_RULES: Final = "m.push_rules"

JsonMembers = dict[str, Any]
TimelineEventIds = Mapping[RoomID, AbstractSet[EventID]]


@attrs.frozen(eq=False)
class ExtensionContext:
    """The response that extensions are rendered for."""

    request_context: SlidingSyncContext
    requested: RequestedRooms
    since: SyncToken | None
    began: SyncPosition
    """The position of this process when the request arrived."""
    position: SyncPosition
    """The position at which the response ends."""
    new_rooms: TimelineEventIds
    """The rooms that are new to the client, and the events of their timelines."""
    shown: AbstractSet[EventID]
    """The events of all timelines."""
    resumed: Mapping[RoomID, SyncToken]
    """The rooms that are requested again, and the tokens up to which they were sent."""
    ignored: AbstractSet[UserID]
    lazy_members: Mapping[RoomID, AbstractSet[UserID]]
    """For rooms with lazy loading, the users whose member events the response adds."""


@attrs.frozen(eq=False)
class RenderedExtensions:
    """The extensions of a response.

    `profiles_reached` is where the next response continues in the stream of profile updates, if
    that is not the end of this response.
    """

    members: JsonMembers
    has_changes: bool
    profiles_reached: VectorPosition | None


class SlidingExtensions:
    """The renderer of all extensions."""

    def __init__(
        self,
        feed: Feed,
        account_data: AccountDataService,
        push_rules: PushRuleDocuments,
        receipts: Receipts,
        typing: TypingUsers,
        encryption: EncryptionExtensions,
        threads: ThreadExtension,
        profiles: ProfileExtension,
        sticky: StickyExtension,
    ) -> None:
        self._account_data = account_data
        self._push_rules = push_rules
        self._receipts = receipts
        self._typing = typing
        self._encryption = encryption
        self._threads = threads
        self._profiles = profiles
        self._sticky = sticky
        self._recent_account_data: RecentKeys[UserID, AccountDataRow] = RecentKeys(
            feed, ACCOUNT_DATA, lambda row: (UserID(row.user_id),)
        )
        self._recent_push_rules: RecentKeys[UserID, PushRulesRow] = RecentKeys(
            feed, PUSH_RULES, lambda row: (UserID(row.user_id),)
        )
        self._recent_receipts: RecentKeys[tuple[RoomID, UserID], ReceiptRow] = RecentKeys(
            feed, RECEIPTS, lambda row: ((RoomID(row.room_id), UserID(row.user_id)),)
        )
        self._recent_typing: RecentKeys[RoomID, TypingRow] = RecentKeys(
            feed, TYPING, lambda row: (RoomID(row.room_id),)
        )

    async def own_receipts(
        self,
        request_context: SlidingSyncContext,
        requested: RequestedRooms,
        since: SyncToken | None,
        upto: SyncToken,
    ) -> frozenset[RoomID]:
        """Return the rooms in which the user's own receipts moved since the room was last sent.

        For rooms that are requested again, that is longer ago than `since`.
        """
        if since is None:
            return frozenset()
        user_id = request_context.user_id
        moved = self._recent_receipts.since(since.receipts)
        changed = {room_id for room_id, reader in moved or () if reader == user_id}
        if moved is None or requested.sent_at != request_context.connection.number:
            unknown_by_floor: dict[int, set[RoomID]] = {}
            for room_id in _joined(request_context, requested.rooms):
                sent = request_context.connection.rooms.get(room_id)
                if sent is not None and (sent.sent_until is not None or moved is None):
                    sent_until = sent.sent_until or since
                    unknown_by_floor.setdefault(sent_until.receipts.floor, set()).add(room_id)
            for floor, room_ids in unknown_by_floor.items():
                changed |= await self._with_own_receipts(user_id, room_ids, floor, upto)
        return frozenset(changed)

    async def _with_own_receipts(
        self, user_id: UserID, room_ids: set[RoomID], after: int, upto: SyncToken
    ) -> set[RoomID]:
        contents = await self._receipts.in_rooms(user_id, room_ids, after, upto.receipts.most())
        named = orjson.dumps(user_id)
        return {room_id for room_id, content in contents.items() if named in content}

    async def make(self, context: ExtensionContext) -> RenderedExtensions:
        """Render the enabled extensions."""
        request = context.request_context.request.extensions
        members: JsonMembers = {}
        if request.account_data.enabled:
            members["account_data"] = await self._account_data_extension(
                context, request.account_data
            )
        if request.receipts.enabled:
            rooms = await self._receipts_extension(context, request.receipts)
            if rooms:
                members["receipts"] = {"rooms": rooms}
        if request.typing.enabled:
            typing = self._typing_extension(context, request.typing)
            if typing:
                members["typing"] = {"rooms": typing}
        members[THREADS] = await self._threads.make(
            context.request_context.user_id, request.threads, context.since, context.position.token
        )
        members[PROFILES], reached = await self._profile_extension(context, request.profiles)
        members = {name: member for name, member in members.items() if member}
        key = context.request_context.connection.key
        encryption, has_changes = await self._encryption.make(
            context.request_context.user_id,
            key.device_id or None,
            request,
            context.since,
            context.position.token,
            context.began.token,
        )
        sticky, has_sticky = await self._sticky_extension(context)
        has_changes = has_changes or has_sticky or bool(members) or reached is not None
        return RenderedExtensions({**members, **encryption, **sticky}, has_changes, reached)

    async def _profile_extension(
        self, context: ExtensionContext, request: ProfileExtensionRequest
    ) -> ProfileExtensionPage:
        if not request.enabled:
            return ProfileExtensionPage({})
        requested, scope = context.requested.rooms, _scope(context, request)

        def full(room_ids: AbstractSet[RoomID]) -> set[RoomID]:
            joined = _joined(context.request_context, room_ids)
            return {room_id for room_id in joined if not requested[room_id].required.lazy}

        profile_scope = ProfileScope(
            full_rooms=lambda: full(scope),
            new_full_rooms=full(scope & context.new_rooms.keys()),
            lazy_members={
                user_id
                for room_id, members in context.lazy_members.items()
                if room_id in scope and requested[room_id].required.lazy
                for user_id in members
            },
        )
        return await self._profiles.make(
            ProfileViewer(context.request_context.user_id, context.ignored),
            None if request.fields is None else frozenset(request.fields),
            profile_scope,
            context.since,
            context.position.token,
        )

    async def _sticky_extension(self, context: ExtensionContext) -> tuple[JsonMembers, bool]:
        request = context.request_context.request.extensions.sticky
        sticky_context = StickyExtensionContext(
            request_context=context.request_context,
            requested=context.requested,
            upto=context.position.token.events,
            new_rooms=context.new_rooms.keys(),
            shown=context.shown,
        )
        member, has_changes = await self._sticky.make(sticky_context, request)
        return {STICKY_EXTENSION: member} if member else {}, has_changes

    async def _account_data_extension(
        self, context: ExtensionContext, request: ScopedExtensionRequest
    ) -> JsonMembers:
        user_id, since = context.request_context.user_id, context.since
        changed_entries: Sequence[AccountDataEntry]
        all_entries: Sequence[AccountDataEntry] = ()
        if since is None:
            changed_entries = all_entries = await self._account_data.all(user_id)
        else:
            if context.new_rooms or context.resumed:
                # Deleted entries too: the client may have received them earlier.
                upto = context.position.token.account_data.most()
                all_entries = await self._account_data.changes(user_id, 0, upto)
            changed_entries = await self._account_data_since(user_id, since, context.position)
        global_events = [
            _event(type_, content) for room_id, type_, content in changed_entries if room_id is None
        ]
        if since is None or self._recent_push_rules.touched(user_id, since.push_rules):
            global_events.append(_event(_PUSH_RULES, await self._push_rules.content(user_id)))
        scope = _scope(context, request)
        # A room that is requested again gets all entries: they do not say when they changed.
        complete_rooms = context.new_rooms.keys() | context.resumed.keys()
        rooms: dict[str, list[orjson.Fragment]] = {}
        for entries, wanted_rooms in (
            (all_entries, complete_rooms),
            (changed_entries, scope - complete_rooms),
        ):
            for room_id, type_, content in entries:
                if room_id is not None and room_id in wanted_rooms and room_id in scope:
                    rooms.setdefault(room_id, []).append(_event(type_, content))
        members: JsonMembers = {"global": global_events, "rooms": rooms}
        return {name: member for name, member in members.items() if member}

    async def _account_data_since(
        self, user_id: UserID, since: SyncToken, position: SyncPosition
    ) -> Sequence[AccountDataEntry]:
        if not self._recent_account_data.touched(user_id, since.account_data):
            return ()
        upto = position.token.account_data.most()
        return await self._account_data.changes(user_id, since.account_data.floor, upto)

    async def _receipts_extension(
        self, context: ExtensionContext, request: ScopedExtensionRequest
    ) -> JsonMembers:
        scope = _joined(context.request_context, _scope(context, request))
        user_id, upto = context.request_context.user_id, context.position.token.receipts.most()
        receipts: JsonMembers = {}
        new_rooms = scope & context.new_rooms.keys()
        if new_rooms:
            contents = await self._receipts.in_rooms(user_id, new_rooms, 0, upto)
            for room_id, content in contents.items():
                selected = _select_receipts(
                    orjson.loads(content), context.new_rooms[room_id], user_id
                )
                if selected:
                    receipts[room_id] = {"type": "m.receipt", "content": selected}
        after: dict[int, set[RoomID]] = {}
        for room_id, token in context.resumed.items():
            if room_id in scope:
                after.setdefault(token.receipts.floor, set()).add(room_id)
        changed_rooms = self._rooms_with_new_receipts(
            context, scope - new_rooms - context.resumed.keys()
        )
        if changed_rooms and context.since is not None:
            after.setdefault(context.since.receipts.floor, set()).update(changed_rooms)
        for floor, room_ids in after.items():
            contents = await self._receipts.in_rooms(user_id, room_ids, floor, upto)
            for room_id, content in contents.items():
                receipts[room_id] = {"type": "m.receipt", "content": orjson.Fragment(content)}
        return receipts

    def _rooms_with_new_receipts(
        self, context: ExtensionContext, scope: AbstractSet[RoomID]
    ) -> AbstractSet[RoomID]:
        since = context.since
        if since is None or since.receipts.covers_all(context.position.token.receipts):
            return frozenset()
        moved = self._recent_receipts.since(since.receipts)
        return scope if moved is None else scope & {room_id for room_id, _ in moved}

    def _typing_extension(
        self, context: ExtensionContext, request: ScopedExtensionRequest
    ) -> JsonMembers:
        since = context.since
        changed_rooms: AbstractSet[RoomID] | None = frozenset()
        # An empty list is sent only if it is known that typing stopped, or if the room is requested
        # again and the client may have an old list.
        known_changed = set(context.resumed)
        if since is not None and not since.typing.vector.covers_all(
            context.position.token.typing.vector
        ):
            changed_rooms = self._recent_typing.since(since.typing.vector)
            known_changed |= self._recent_typing.known_since(since.typing.vector)
        complete_rooms = context.new_rooms.keys() | context.resumed.keys()
        if changed_rooms is not None and not changed_rooms and not complete_rooms:
            return {}
        scope = _joined(context.request_context, _scope(context, request))
        typing: JsonMembers = {}
        for room_id in scope if changed_rooms is None else scope & (changed_rooms | complete_rooms):
            users = [
                user_id
                for user_id in self._typing.typing_users(room_id)
                if user_id not in context.ignored
            ]
            if users or room_id in known_changed:
                typing[room_id] = {"type": "m.typing", "content": {"user_ids": users}}
        return typing


def _scope(
    context: ExtensionContext, request: ScopedExtensionRequest | ProfileExtensionRequest
) -> AbstractSet[RoomID]:
    """Return the requested rooms to which the lists and rooms of an extension limit it."""
    requested = context.requested
    if request.lists is None and request.rooms is None:
        return requested.rooms.keys()
    scope: set[RoomID] = set()
    for name, room_ids in requested.by_list.items():
        if request.lists is None or WILDCARD in request.lists or name in request.lists:
            scope.update(room_ids)
    is_every_room = request.rooms is None or WILDCARD in request.rooms
    scope.update(
        room_id
        for room_id in requested.subscribed
        if is_every_room or room_id in (request.rooms or ())
    )
    return scope


def _joined(request_context: SlidingSyncContext, room_ids: Iterable[RoomID]) -> set[RoomID]:
    rooms = request_context.rooms
    return {room_id for room_id in room_ids if rooms[room_id].membership == event_types.JOIN}


def _select_receipts(
    content: JsonMembers, shown: AbstractSet[EventID], user_id: UserID
) -> JsonMembers:
    """Return the receipts for these events, and the user's own receipts."""
    selected: JsonMembers = {}
    for event_id, by_type in content.items():
        if event_id in shown:
            selected[event_id] = by_type
            continue
        own = {
            receipt_type: {user_id: users[user_id]}
            for receipt_type, users in by_type.items()
            if user_id in users
        }
        if own:
            selected[event_id] = own
    return selected


def _event(event_type: str, content: bytes) -> orjson.Fragment:
    return orjson.Fragment(b'{"type":%b,"content":%b}' % (orjson.dumps(event_type), content))
