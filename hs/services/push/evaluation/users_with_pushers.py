"""Which users have pushers, for all users, in the process that evaluates events."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from hs.core.ids import UserID
from hs.core.streams import PUSHERS, PusherRow
from hs.repl.feed import Feed
from hs.repl.followers import TableFollower
from hs.storage.database import Database
from hs.storage.push import pushers as storage
from hs.storage.push.pushers import PusherRecord


class UsersWithPushers:
    """The users who have at least one enabled pusher."""

    def __init__(self, database: Database, feed: Feed) -> None:
        self._database = database
        self._pushers: dict[UserID, set[tuple[str, str]]] = {}
        self._follower = TableFollower(feed, PUSHERS, self._read, self._replace, self._apply)

    async def load(self) -> None:
        """Read the pushers of all users, unless they are here already."""
        await self._follower.load()

    def among(self, user_ids: AbstractSet[UserID]) -> AbstractSet[UserID]:
        """Return the given users who have pushers."""
        return self._pushers.keys() & user_ids if self._pushers else frozenset()

    async def _read(self) -> Iterable[PusherRecord]:
        return await self._database.read(storage.list_enabled)

    def _replace(self, records: Iterable[PusherRecord]) -> None:
        self._pushers.clear()
        for record in records:
            self._add(UserID(record.user_id), (record.app_id, record.pushkey))

    def _apply(self, row: PusherRow) -> None:
        user_id, key = UserID(row.user_id), (row.app_id, row.pushkey)
        if row.enabled and not row.removed:
            self._add(user_id, key)
        else:
            self._remove(user_id, key)

    def _add(self, user_id: UserID, key: tuple[str, str]) -> None:
        self._pushers.setdefault(user_id, set()).add(key)

    def _remove(self, user_id: UserID, key: tuple[str, str]) -> None:
        keys = self._pushers.get(user_id)
        if keys is not None:
            keys.discard(key)
            if not keys:
                del self._pushers[user_id]
