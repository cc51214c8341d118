"""The sections beside rooms: the account's data, push rules, presence."""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

import orjson

from hs.core.events import event_types
from hs.core.filters import EventFilter
from hs.core.ids import RoomID, UserID
from hs.repl.feed import Feed
from hs.repl.rows import AccountDataRow, PresenceRow, PushRulesRow
from hs.repl.streams import ACCOUNT_DATA, PRESENCE, PUSH_RULES
from hs.services.rooms.store.memberships import Memberships
from hs.services.rooms.store.recent_events import Tails
from hs.services.sync.recent_changes import Recent
from hs.services.sync.room_ephemeral import account_data_event
from hs.services.sync.sources import AccountData, AccountDataEntry, Presence, PushRuleDocuments
from hs.services.sync.sync_context import RoomTurn, Section, Turn

MAX_MET: Final = 500
"""Most members of newly joined rooms whose presence is told at once."""

_PUSH_RULES: Final = "m.push_rules"
_PRESENCE: Final = "m.presence"


class Accounts:
    """Reads account data and push rules, only when they changed."""

    def __init__(
        self, feed: Feed, account_data: AccountData, push_rules: PushRuleDocuments
    ) -> None:
        self._account_data = account_data
        self._push_rules = push_rules
        self._changed: Recent[UserID, AccountDataRow] = Recent(
            feed, ACCOUNT_DATA, lambda row: (UserID(row.user_id),)
        )
        self._rules_changed: Recent[UserID, PushRulesRow] = Recent(
            feed, PUSH_RULES, lambda row: (UserID(row.user_id),)
        )

    async def entries(self, turn: Turn, turns: Sequence[RoomTurn]) -> Sequence[AccountDataEntry]:
        """Give what changed; and all of the rooms that are new to the client."""
        if turn.since is None:
            return await self._account_data.all(turn.user_id)
        since, now = turn.since.account_data, turn.moment.token.account_data
        entries: Sequence[AccountDataEntry] = ()
        if since is not now and self._changed.touched(turn.user_id, since):
            upto = now.most()
            entries = await self._account_data.changes(turn.user_id, since.floor, upto)
        fresh = {one.room_id for one in turns if one.is_new and one.section is Section.JOIN}
        if not fresh:
            return entries
        # What was deleted too: the client may have been in the room before.
        every = await self._account_data.changes(turn.user_id, 0, now.most())
        return [
            *(one for one in entries if one[0] not in fresh),
            *(one for one in every if one[0] in fresh),
        ]

    async def render(self, turn: Turn, entries: Iterable[AccountDataEntry]) -> list[bytes]:
        """Give the events of the account's own section."""
        wanted = turn.plan.filter.account_data
        events = [
            account_data_event(event_type, content)
            for room_id, event_type, content in entries
            if room_id is None and wanted.allows(event_type, None, {})
        ]
        if self._has_rules(turn) and wanted.allows(_PUSH_RULES, None, {}):
            content = await self._push_rules.content(turn.user_id)
            events.append(account_data_event(_PUSH_RULES, content))
        return events

    def _has_rules(self, turn: Turn) -> bool:
        if turn.since is None:
            return True
        since = turn.since.push_rules
        if since is turn.moment.token.push_rules:
            return False
        return self._rules_changed.touched(turn.user_id, since)


def with_user_id(event: bytes) -> bytes:
    """Name the user in a presence event's content too, where clients from before /sync look."""
    presence = orjson.loads(event)
    presence["content"]["user_id"] = presence["sender"]
    return orjson.dumps(presence)


class PresenceSection:
    """Tells presence: what changed, and of whom the user has just met."""

    def __init__(
        self,
        feed: Feed,
        presence: Presence,
        memberships: Memberships,
        tails: Tails,
        apart: AbstractSet[RoomID] = frozenset(),
    ) -> None:
        self._presence = presence
        self._apart = apart  # rooms whose members do not see each other's presence by them
        self._memberships = memberships
        self._tails = tails
        self._changed: Recent[UserID, PresenceRow] = Recent(
            feed, PRESENCE, lambda row: (UserID(row.user_id),)
        )

    async def render(self, turn: Turn, turns: Sequence[RoomTurn]) -> list[bytes]:
        """Give the events of the section."""
        wanted = turn.plan.filter.presence
        if wanted.allows_nothing or not wanted.allows_type(_PRESENCE):
            return []
        if turn.since is None:
            return _passing(turn, wanted, await self._presence.changes(turn.user_id, None))
        events: dict[UserID, bytes] = {}
        since = turn.since.presence.vector
        if not since.covers_all(turn.moment.token.presence.vector):
            touched = self._changed.since(since)
            if touched is None or touched:
                events.update(await self._presence.changes(turn.user_id, since))
        met = await self._met(turn, turns)
        if met:
            events.update(await self._presence.of(met))
        return _passing(turn, wanted, events)

    async def in_room(self, turn: Turn, room_id: RoomID) -> list[bytes]:
        """Give the events of one room's members whose presence changed."""
        assert turn.since is not None
        if room_id in self._apart:
            return []
        touched = self._changed.since(turn.since.presence.vector)
        if touched is not None and not touched:
            return []
        joined = await self._memberships.joined(room_id)
        changed = joined if touched is None else joined & touched
        events = await self._presence.of(sorted(changed)[:MAX_MET])
        return _passing(turn, turn.plan.filter.presence, events)

    async def _met(self, turn: Turn, turns: Sequence[RoomTurn]) -> set[UserID]:
        """Give who shares a room with the user only since the last answer."""
        met: set[UserID] = set()
        for one in turns:
            if one.section is not Section.JOIN or one.room_id in self._apart:
                continue
            if one.is_new:
                met.update(await self._memberships.joined(one.room_id))
            elif one.after is not None:
                met.update(self._joined_lately(one.room_id, turn))
        met.discard(turn.user_id)
        return set(sorted(met)[:MAX_MET])

    def _joined_lately(self, room_id: RoomID, turn: Turn) -> set[UserID]:
        assert turn.since is not None
        entries = self._tails.since(room_id, turn.since.events)
        return {
            UserID(state_key)
            for entry in entries or ()
            if entry.changes
            for event_type, state_key, _, membership in entry.changes
            if event_type == event_types.MEMBER and membership == event_types.JOIN
        }


def _passing(turn: Turn, wanted: EventFilter, events: Mapping[UserID, bytes]) -> list[bytes]:
    passing = [
        event
        for user_id, event in events.items()
        if wanted.allows_sender(user_id) and user_id not in turn.ignored
    ]
    return passing if wanted.limit is None else passing[: wanted.limit]
