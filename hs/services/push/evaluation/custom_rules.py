"""Which users have push rules of their own, for all users, in the process that evaluates events.

The rules of a user are indexed when they are first needed: at the start of the process only their
encodings are read.
"""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Final

from hs.core.ids import UserID
from hs.core.push.facts import EventFacts
from hs.core.push.rules import NO_USER_RULES
from hs.core.push.wire import decode_user_rules, encode_user_rules
from hs.core.streams import PUSH_RULES, PushRulesRow
from hs.lib.time_slice import TimeSlice
from hs.repl.feed import Feed
from hs.repl.followers import TableFollower
from hs.services.push.evaluation.rule_index import RuleIndex
from hs.storage.database import Database
from hs.storage.push import push_rules as storage

MAX_INDEXED_NOWAIT: Final = 25
"""Users whose rules are indexed without letting other tasks run, some 100 µs each."""

MAX_SHARED: Final = 100_000
"""Encodings that are compared with new ones."""

_NO_RULES = encode_user_rules(NO_USER_RULES)


class UsersWithCustomRules:
    """The encoded rules of the users who have rules of their own; equal rules are one object."""

    def __init__(self, database: Database, feed: Feed) -> None:
        self._database = database
        self._rules: dict[UserID, bytes] = {}
        self._shared: dict[bytes, bytes] = {}
        self._index = RuleIndex(self._share)
        self._unindexed: set[UserID] = set()
        self._follower = TableFollower(feed, PUSH_RULES, self._read, self._replace, self._apply)

    async def load(self) -> None:
        """Read the rules of all users, unless they are here already."""
        await self._follower.load()

    def may_index_nowait(self, users: AbstractSet[UserID]) -> bool:
        """Return whether `signatures` is quick; otherwise await `index` first."""
        return len(self._missing(users)) <= MAX_INDEXED_NOWAIT

    async def index(self, users: AbstractSet[UserID]) -> None:
        """Index the rules of users, letting other tasks run in between."""
        time_slice = TimeSlice()
        for user_id in self._missing(users):
            if user_id in self._unindexed:
                self._index_user(user_id)
            await time_slice.yield_if_over()

    def signatures(self, facts: EventFacts, users: AbstractSet[UserID]) -> dict[bytes, set[UserID]]:
        """Group users by the rules, encoded, that may match an event.

        Users for whom the default rules decide are left out.
        """
        for user_id in self._missing(users):
            self._index_user(user_id)
        groups: dict[bytes, set[UserID]] = {}
        for user_id, ruleset in self._index.rulesets(facts, users, self._rules.__getitem__).items():
            groups.setdefault(ruleset, set()).add(user_id)
        return groups

    async def _read(self) -> Iterable[tuple[str, bytes]]:
        return await self._database.read(storage.list_rules)

    def _replace(self, stored: Iterable[tuple[str, bytes]]) -> None:
        self._rules.clear()
        self._shared.clear()
        self._index = RuleIndex(self._share)
        self._unindexed.clear()
        for user_id, rules in stored:
            self._set(UserID(user_id), rules)

    def _apply(self, row: PushRulesRow) -> None:
        if row.rules is not None:
            self._set(UserID(row.user_id), row.rules)

    def _set(self, user_id: UserID, rules: bytes) -> None:
        before = self._rules.pop(user_id, None)
        if before is not None and user_id not in self._unindexed:
            self._index.remove(user_id, decode_user_rules(before))
        self._unindexed.discard(user_id)
        if rules != _NO_RULES:
            self._rules[user_id] = self._share(rules)
            self._unindexed.add(user_id)

    def _missing(self, users: AbstractSet[UserID]) -> AbstractSet[UserID]:
        return self._unindexed & users if self._unindexed else frozenset()

    def _index_user(self, user_id: UserID) -> None:
        rules = self._rules[user_id]
        self._index.add(user_id, decode_user_rules(rules), rules)
        self._unindexed.discard(user_id)

    def _share(self, encoded: bytes) -> bytes:
        if len(self._shared) >= MAX_SHARED:
            # Equal encodings that are two objects only take more memory.
            self._shared.clear()
        return self._shared.setdefault(encoded, encoded)
