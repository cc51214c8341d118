"""Which users ignore a sender, for all users, in the process that evaluates events.

Spec: client-server API, Ignoring Users.
"""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Final

import orjson

from hs.core.ids import UserID
from hs.core.streams import ACCOUNT_DATA, AccountDataRow
from hs.repl.feed import Feed
from hs.repl.followers import TableFollower
from hs.services.accounts.account_data.account_data import IGNORED_USER_LIST
from hs.storage.accounts import account_data as storage
from hs.storage.database import Database

_NO_USERS: Final[frozenset[UserID]] = frozenset()


class IgnoringUsers:
    """The lists of ignored users of all users, by ignored user."""

    def __init__(self, database: Database, feed: Feed) -> None:
        self._database = database
        self._ignored: dict[UserID, frozenset[UserID]] = {}
        self._ignoring: dict[UserID, set[UserID]] = {}
        self._follower = TableFollower(feed, ACCOUNT_DATA, self._read, self._replace, self._apply)

    async def load(self) -> None:
        """Read the lists of all users, unless they are here already."""
        await self._follower.load()

    def of(self, sender: UserID) -> AbstractSet[UserID]:
        """Return the users who ignore a sender."""
        return self._ignoring.get(sender, _NO_USERS)

    async def _read(self) -> Iterable[tuple[str, bytes]]:
        return await self._database.read(storage.list_by_type, IGNORED_USER_LIST)

    def _replace(self, lists: Iterable[tuple[str, bytes]]) -> None:
        self._ignored.clear()
        self._ignoring.clear()
        for user_id, content in lists:
            self._set(UserID(user_id), content)

    def _apply(self, row: AccountDataRow) -> None:
        if row.type == IGNORED_USER_LIST and not row.room_id and row.content is not None:
            self._set(UserID(row.user_id), row.content)

    def _set(self, user_id: UserID, content: bytes) -> None:
        ignored = _ignored_in(content)
        before = self._ignored.get(user_id, _NO_USERS)
        for ignored_id in before - ignored:
            ignoring = self._ignoring[ignored_id]
            ignoring.discard(user_id)
            if not ignoring:
                del self._ignoring[ignored_id]
        for ignored_id in ignored - before:
            self._ignoring.setdefault(ignored_id, set()).add(user_id)
        if ignored:
            self._ignored[user_id] = ignored
        else:
            self._ignored.pop(user_id, None)


def _ignored_in(content: bytes) -> frozenset[UserID]:
    try:
        users = orjson.loads(content).get("ignored_users")
    except (orjson.JSONDecodeError, AttributeError):
        return _NO_USERS
    return frozenset(map(UserID, users)) if isinstance(users, dict) else _NO_USERS
