"""What a user's account data says of their rooms: which are direct messages, and their tags."""

from collections.abc import Mapping
from typing import Any, Final

import attrs
import orjson

from hs.core.ids import RoomID, UserID
from hs.lib.cache import LruCache
from hs.lib.loading_cache import LoadingCache
from hs.repl.feed import Batch, Feed
from hs.repl.rows import AccountDataRow
from hs.repl.streams import ACCOUNT_DATA
from hs.services.sync.sources import AccountData

MAX_USERS: Final = 10_000
DIRECT: Final = "m.direct"
TAG: Final = "m.tag"


@attrs.frozen(eq=False)
class Personal:
    """One user's view of their rooms; another object takes its place when it changes."""

    direct: frozenset[RoomID] = frozenset()
    tags: Mapping[RoomID, frozenset[str]] = attrs.field(factory=dict)


class PersonalViews:
    """The views of all users who list rooms."""

    def __init__(self, feed: Feed, account_data: AccountData) -> None:
        self._account_data = account_data
        self._users = LoadingCache(
            LruCache[UserID, Personal]("sliding_personal", max_entries=MAX_USERS), self._read
        )
        feed.subscribe(ACCOUNT_DATA, self._on_account_data)

    async def of(self, user_id: UserID) -> Personal:
        """Give a user's view."""
        return await self._users.get(user_id)

    async def _read(self, user_id: UserID) -> Personal:
        direct: frozenset[RoomID] = frozenset()
        tags: dict[RoomID, frozenset[str]] = {}
        for entry in await self._account_data.all(user_id):
            if entry.room_id is None and entry.type == DIRECT:
                direct = _direct(orjson.loads(entry.content))
            elif entry.room_id is not None and entry.type == TAG:
                given = orjson.loads(entry.content).get("tags")
                if isinstance(given, dict):
                    tags[entry.room_id] = frozenset(given)
        return Personal(direct, tags)

    def _on_account_data(self, batch: Batch[AccountDataRow]) -> None:
        for _, row in batch.rows:
            if row.type in (DIRECT, TAG):
                self._users.invalidate(UserID(row.user_id))


def _direct(content: dict[str, Any]) -> frozenset[RoomID]:
    lists = [rooms for rooms in content.values() if isinstance(rooms, list)]
    return frozenset(RoomID(one) for rooms in lists for one in rooms if isinstance(one, str))
