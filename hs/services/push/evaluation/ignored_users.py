"""Who ignores whom: all of it in memory, where events are evaluated.

Spec: client-server API, Ignoring Users.
"""

from collections.abc import Set as AbstractSet
from typing import Final

import orjson

from hs.core.ids import UserID
from hs.repl.feed import Batch, Feed
from hs.repl.rows import AccountDataRow
from hs.repl.streams import ACCOUNT_DATA
from hs.services.accounts.account_data.account_data import IGNORED_USER_LIST
from hs.storage.accounts import account_data as storage
from hs.storage.database import Database

_NOBODY: Final[frozenset[UserID]] = frozenset()


class IgnoringUsers:
    """Everybody's list of ignored users, the other way round."""

    def __init__(self, database: Database, feed: Feed) -> None:
        self._database = database
        self._lists: dict[UserID, frozenset[UserID]] = {}
        self._ignoring: dict[UserID, set[UserID]] = {}
        self._news: dict[UserID, bytes] = {}
        self._loaded = False
        feed.subscribe(ACCOUNT_DATA, self._on_rows)

    async def load(self) -> None:
        """Read everybody's lists; once, before the first event is evaluated."""
        stored = await self._database.read(storage.everybodys, IGNORED_USER_LIST)
        for user_id, content in [*stored, *self._news.items()]:
            self._set(UserID(user_id), content)
        self._loaded = True
        self._news.clear()

    def of(self, sender: UserID) -> AbstractSet[UserID]:
        """Give those who ignore a sender."""
        return self._ignoring.get(sender, _NOBODY)

    def _on_rows(self, batch: Batch[AccountDataRow]) -> None:
        for _, row in batch.rows:
            if row.type != IGNORED_USER_LIST or row.room_id or row.content is None:
                continue
            if self._loaded:
                self._set(UserID(row.user_id), row.content)
            else:
                self._news[UserID(row.user_id)] = row.content

    def _set(self, user_id: UserID, content: bytes) -> None:
        ignored = _ignored_in(content)
        before = self._lists.get(user_id, _NOBODY)
        for one in before - ignored:
            ignoring = self._ignoring[one]
            ignoring.discard(user_id)
            if not ignoring:
                del self._ignoring[one]
        for one in ignored - before:
            self._ignoring.setdefault(one, set()).add(user_id)
        if ignored:
            self._lists[user_id] = ignored
        else:
            self._lists.pop(user_id, None)


def _ignored_in(content: bytes) -> frozenset[UserID]:
    try:
        users = orjson.loads(content).get("ignored_users")
    except (orjson.JSONDecodeError, AttributeError):
        return _NOBODY
    return frozenset(UserID(one) for one in users) if isinstance(users, dict) else _NOBODY
