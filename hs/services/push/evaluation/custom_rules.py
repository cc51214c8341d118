"""Which users have push rules of their own: all of them in memory, where events are evaluated."""

from collections.abc import Collection

from hs.core.ids import UserID
from hs.core.push.rules import NO_USER_RULES
from hs.core.push.wire import encode_user_rules
from hs.repl.feed import Batch, Feed
from hs.repl.rows import PushRulesRow
from hs.repl.streams import PUSH_RULES
from hs.storage.database import Database
from hs.storage.push import push_rules as storage

_NO_RULES = encode_user_rules(NO_USER_RULES)


class CustomRuleUsers:
    """Users with rules of their own; users with equal rules share one signature."""

    def __init__(self, database: Database, feed: Feed) -> None:
        self._database = database
        self._users: dict[UserID, bytes] = {}
        self._shared: dict[bytes, bytes] = {}
        self._news: dict[UserID, bytes] = {}
        self._loaded = False
        feed.subscribe(PUSH_RULES, self._on_rows)

    async def load(self) -> None:
        """Read everybody's rules; once, before the first event is evaluated."""
        stored = await self._database.read(storage.all_rules)
        for user_id, rules in [*stored, *self._news.items()]:
            self._set(UserID(user_id), rules)
        self._loaded = True
        self._news.clear()

    def signatures(self, user_ids: Collection[UserID]) -> dict[bytes, list[UserID]]:
        """Group those of the users who have rules of their own by these rules, encoded."""
        groups: dict[bytes, list[UserID]] = {}
        fewer, more = (
            (user_ids, self._users) if len(user_ids) < len(self._users) else (self._users, user_ids)
        )
        for user_id in fewer:
            if user_id in more:
                groups.setdefault(self._users[user_id], []).append(user_id)
        return groups

    def _set(self, user_id: UserID, rules: bytes) -> None:
        if rules == _NO_RULES:
            self._users.pop(user_id, None)
        else:
            self._users[user_id] = self._shared.setdefault(rules, rules)
        if len(self._shared) > 2 * len(self._users) + 100:
            self._shared = {rules: rules for rules in self._users.values()}

    def _on_rows(self, batch: Batch[PushRulesRow]) -> None:
        for _, row in batch.rows:
            if row.rules is not None and self._loaded:
                self._set(UserID(row.user_id), row.rules)
            elif row.rules is not None:
                self._news[UserID(row.user_id)] = row.rules
