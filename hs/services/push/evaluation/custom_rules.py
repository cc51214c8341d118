"""Which users have push rules of their own, for all users, in the process that evaluates events."""

from collections.abc import Collection, Iterable

from hs.core.ids import UserID
from hs.core.push.rules import NO_USER_RULES
from hs.core.push.wire import encode_user_rules
from hs.core.streams import PUSH_RULES, PushRulesRow
from hs.repl.feed import Feed
from hs.repl.followers import TableFollower
from hs.storage.database import Database
from hs.storage.push import push_rules as storage

_NO_RULES = encode_user_rules(NO_USER_RULES)


class UsersWithCustomRules:
    """The encoded rules of the users who have rules of their own; equal rules are one object."""

    def __init__(self, database: Database, feed: Feed) -> None:
        self._database = database
        self._rules: dict[UserID, bytes] = {}
        self._shared: dict[bytes, bytes] = {}
        self._follower = TableFollower(feed, PUSH_RULES, self._read, self._replace, self._apply)

    async def load(self) -> None:
        """Read the rules of all users, unless they are here already."""
        await self._follower.load()

    def signatures(self, user_ids: Collection[UserID]) -> dict[bytes, list[UserID]]:
        """Group the given users who have rules of their own by these rules, encoded."""
        groups: dict[bytes, list[UserID]] = {}
        rules = self._rules
        fewer, more = (user_ids, rules) if len(user_ids) < len(rules) else (rules, user_ids)
        for user_id in fewer:
            if user_id in more:
                groups.setdefault(rules[user_id], []).append(user_id)
        return groups

    async def _read(self) -> Iterable[tuple[str, bytes]]:
        return await self._database.read(storage.list_rules)

    def _replace(self, stored: Iterable[tuple[str, bytes]]) -> None:
        self._rules.clear()
        for user_id, rules in stored:
            self._set(UserID(user_id), rules)

    def _apply(self, row: PushRulesRow) -> None:
        if row.rules is not None:
            self._set(UserID(row.user_id), row.rules)

    def _set(self, user_id: UserID, rules: bytes) -> None:
        if rules == _NO_RULES:
            self._rules.pop(user_id, None)
        else:
            self._rules[user_id] = self._shared.setdefault(rules, rules)
        if len(self._shared) > 2 * len(self._rules) + 100:
            self._shared = {rules: rules for rules in self._rules.values()}
