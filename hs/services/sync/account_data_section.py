"""The top-level `account_data` and `presence` sections of a sync response."""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

import orjson

from hs.core.events import event_types
from hs.core.filters import EventFilter
from hs.core.ids import RoomID, UserID
from hs.core.streams import (
    ACCOUNT_DATA,
    PRESENCE,
    PUSH_RULES,
    AccountDataRow,
    PresenceRow,
    PushRulesRow,
)
from hs.core.sync_token import SyncToken
from hs.repl.feed import Feed
from hs.repl.recent_keys import RecentKeys
from hs.services.accounts.account_data.account_data import AccountDataEntry, AccountDataService
from hs.services.ephemeral.presence import PresenceService
from hs.services.rooms.store.memberships import Memberships
from hs.services.rooms.store.recent_events import RecentEvents
from hs.services.sync.room_ephemeral import account_data_event
from hs.services.sync.sources import PushRuleDocuments
from hs.services.sync.sync_context import (
    CompiledFilter,
    MembershipSection,
    RoomSyncContext,
    SyncContext,
)

MAX_PRESENCE_USERS: Final = 500
"""Maximum number of users whose presence one response adds because they share a new room."""

_PUSH_RULES: Final = "m.push_rules"


class AccountDataSection:
    """The reader and renderer of account data and push rules.

    It reads the database only if the streams report a change since the token.
    """

    def __init__(
        self, feed: Feed, account_data: AccountDataService, push_rules: PushRuleDocuments
    ) -> None:
        self._account_data = account_data
        self._push_rules = push_rules
        self._recent: RecentKeys[UserID, AccountDataRow] = RecentKeys(
            feed, ACCOUNT_DATA, lambda row: (UserID(row.user_id),)
        )
        self._recent_rules: RecentKeys[UserID, PushRulesRow] = RecentKeys(
            feed, PUSH_RULES, lambda row: (UserID(row.user_id),)
        )

    async def load(
        self, context: SyncContext, room_contexts: Sequence[RoomSyncContext]
    ) -> Sequence[AccountDataEntry]:
        """Return the entries that changed, and all entries of rooms that are new to the client."""
        if context.since is None:
            return await self._account_data.all(context.user_id)
        since, now = context.since.account_data, context.position.token.account_data
        entries: Sequence[AccountDataEntry] = ()
        if since is not now and self._recent.touched(context.user_id, since):
            upto = now.most()
            entries = await self._account_data.changes(context.user_id, since.floor, upto)
        new_rooms = {
            room.room_id
            for room in room_contexts
            if room.is_new and room.section is MembershipSection.JOIN
        }
        if not new_rooms:
            return entries
        # Deleted entries too: the client may have them from an earlier stay in the room.
        all_entries = await self._account_data.changes(context.user_id, 0, now.most())
        return [
            *(entry for entry in entries if entry.room_id not in new_rooms),
            *(entry for entry in all_entries if entry.room_id in new_rooms),
        ]

    async def render(
        self, context: SyncContext, entries: Iterable[AccountDataEntry]
    ) -> list[bytes]:
        """Return the events of the global `account_data` section, push rules included."""
        event_filter = context.compiled_filter.filter.account_data
        events = [
            account_data_event(event_type, content)
            for room_id, event_type, content in entries
            if room_id is None and event_filter.allows(event_type, None, {})
        ]
        if self._needs_push_rules(context) and event_filter.allows(_PUSH_RULES, None, {}):
            content = await self._push_rules.content(context.user_id)
            events.append(account_data_event(_PUSH_RULES, content))
        return events

    def _needs_push_rules(self, context: SyncContext) -> bool:
        if context.since is None:
            return True
        since = context.since.push_rules
        if since is context.position.token.push_rules:
            return False
        return self._recent_rules.touched(context.user_id, since)


def with_content_user_id(event: bytes) -> bytes:
    """Return a presence event with `user_id` in its content, as `/events` clients expect it."""
    presence = orjson.loads(event)
    presence["content"]["user_id"] = presence["sender"]
    return orjson.dumps(presence)


class PresenceSection:
    """The presence section: changed presence, and that of users who newly share a room."""

    def __init__(
        self,
        feed: Feed,
        presence: PresenceService,
        memberships: Memberships,
        tails: RecentEvents,
        excluded_rooms: AbstractSet[RoomID] = frozenset(),
    ) -> None:
        self._presence = presence
        # Sharing one of these rooms does not make presence visible.
        self._excluded_rooms = excluded_rooms
        self._memberships = memberships
        self._tails = tails
        self._recent: RecentKeys[UserID, PresenceRow] = RecentKeys(
            feed, PRESENCE, lambda row: (UserID(row.user_id),)
        )

    async def render(
        self, context: SyncContext, room_contexts: Sequence[RoomSyncContext]
    ) -> list[bytes]:
        """Return the presence events since the token, or those of all visible users."""
        if not context.compiled_filter.shows_presence:
            return []
        event_filter = context.compiled_filter.filter.presence
        if context.since is None:
            return _filter_events(
                context, event_filter, await self._presence.changes(context.user_id, None)
            )
        events: dict[UserID, bytes] = {}
        since = context.since.presence.vector
        if not since.covers_all(context.position.token.presence.vector):
            events.update(await self._presence.changes(context.user_id, since))
        contacts = await self._new_contacts(context, room_contexts)
        if contacts:
            events.update(await self._presence.of(contacts))
        return _filter_events(context, event_filter, events)

    async def has_changes(
        self, user_id: UserID, compiled_filter: CompiledFilter, since: SyncToken
    ) -> bool:
        """Return whether presence that the user receives may have changed since the token."""
        return compiled_filter.shows_presence and await self._presence.has_changes(
            user_id, since.presence.vector
        )

    async def render_room(self, context: SyncContext, room_id: RoomID) -> list[bytes]:
        """Return the presence events of the members of one room whose presence changed."""
        assert context.since is not None
        if room_id in self._excluded_rooms:
            return []
        changed_users = self._recent.since(context.since.presence.vector)
        if changed_users is not None and not changed_users:
            return []
        joined = await self._memberships.joined(room_id)
        changed = joined if changed_users is None else joined & changed_users
        events = await self._presence.of(sorted(changed)[:MAX_PRESENCE_USERS])
        return _filter_events(context, context.compiled_filter.filter.presence, events)

    async def _new_contacts(
        self, context: SyncContext, room_contexts: Sequence[RoomSyncContext]
    ) -> set[UserID]:
        """Return the users who have shared a room with the user only since the token."""
        contacts: set[UserID] = set()
        for room_context in room_contexts:
            if (
                room_context.section is not MembershipSection.JOIN
                or room_context.room_id in self._excluded_rooms
            ):
                continue
            if room_context.is_new:
                contacts.update(await self._memberships.joined(room_context.room_id))
            elif room_context.after is not None:
                contacts.update(self._joined_since(room_context.room_id, context))
        contacts.discard(context.user_id)
        return set(sorted(contacts)[:MAX_PRESENCE_USERS])

    def _joined_since(self, room_id: RoomID, context: SyncContext) -> set[UserID]:
        assert context.since is not None
        entries = self._tails.since(room_id, context.since.events)
        return {
            UserID(state_key)
            for entry in entries or ()
            if entry.changes
            for event_type, state_key, _, membership in entry.changes
            if event_type == event_types.MEMBER and membership == event_types.JOIN
        }


def _filter_events(
    context: SyncContext, event_filter: EventFilter, events: Mapping[UserID, bytes]
) -> list[bytes]:
    if not events:
        return []
    allowed = [
        event
        for user_id, event in events.items()
        if event_filter.allows_sender(user_id) and user_id not in context.ignored
    ]
    return allowed if event_filter.limit is None else allowed[: event_filter.limit]
