"""Which users have pushers: all of them in memory, where events are evaluated."""

from collections.abc import Set as AbstractSet

from hs.core.ids import UserID
from hs.repl.feed import Batch, Feed
from hs.repl.rows import PusherRow
from hs.repl.streams import PUSHERS
from hs.storage.database import Database
from hs.storage.push import pushers as storage


class PusherUsers:
    """Users with at least one pusher that is turned on."""

    def __init__(self, database: Database, feed: Feed) -> None:
        self._database = database
        self._users: dict[UserID, set[tuple[str, str]]] = {}
        self._news: list[PusherRow] = []
        self._loaded = False
        feed.subscribe(PUSHERS, self._on_rows)

    async def load(self) -> None:
        """Read everybody's pushers; once, before the first event is evaluated."""
        for record in await self._database.read(storage.all_enabled):
            self._note(record.user_id, (record.app_id, record.pushkey), sends=True)
        for row in self._news:
            self._note_row(row)
        self._loaded = True
        self._news.clear()

    def among(self, user_ids: AbstractSet[UserID]) -> AbstractSet[UserID]:
        """Give those of the users who have pushers."""
        return self._users.keys() & user_ids if self._users else frozenset()

    def _on_rows(self, batch: Batch[PusherRow]) -> None:
        for _, row in batch.rows:
            if self._loaded:
                self._note_row(row)
            else:
                self._news.append(row)

    def _note_row(self, row: PusherRow) -> None:
        sends = row.enabled and not row.removed
        self._note(row.user_id, (row.app_id, row.pushkey), sends=sends)

    def _note(self, user_id: str, key: tuple[str, str], *, sends: bool) -> None:
        owner = UserID(user_id)
        if sends:
            self._users.setdefault(owner, set()).add(key)
            return
        keys = self._users.get(owner)
        if keys is not None:
            keys.discard(key)
            if not keys:
                del self._users[owner]
