"""The account data that room lists depend on: direct rooms, tags, invite permissions."""

from collections.abc import Mapping
from typing import Any, Final

import attrs
import orjson

from hs.core.ids import RoomID, UserID
from hs.core.invite_permission import (
    ALLOW_EVERYBODY,
    INVITE_PERMISSION_TYPES,
    InvitePermission,
    InviteVerdict,
)
from hs.core.streams import ACCOUNT_DATA, AccountDataRow
from hs.lib.caching.loading_cache import LoadingCache
from hs.lib.caching.lru_cache import LruCache
from hs.repl.feed import Batch, Feed
from hs.services.accounts.account_data.account_data import IGNORED_USER_LIST, AccountDataService
from hs.services.sync.invite_permissions import invite_permission_in

MAX_USERS: Final = 10_000
DIRECT: Final = "m.direct"
TAG: Final = "m.tag"
_RELEVANT_TYPES: Final = frozenset((DIRECT, TAG, IGNORED_USER_LIST, *INVITE_PERMISSION_TYPES))


@attrs.frozen(eq=False)
class AccountDataView:
    """One user's direct rooms, tags and invite rules.

    It is immutable. A change replaces the object, so its identity shows whether it changed.
    """

    direct: frozenset[RoomID] = frozenset()
    tags: Mapping[RoomID, frozenset[str]] = attrs.field(factory=dict)
    invites: InvitePermission = ALLOW_EVERYBODY
    ignored: frozenset[UserID] = frozenset()

    def wants_invite(self, inviter: UserID) -> bool:
        """Return whether an invite from this user is listed."""
        return inviter not in self.ignored and self.invites.verdict(inviter) is InviteVerdict.ALLOW


class AccountDataViews:
    """The cache of these views, invalidated by account data changes."""

    def __init__(self, feed: Feed, account_data: AccountDataService) -> None:
        self._account_data = account_data
        self._views = LoadingCache(
            LruCache[UserID, AccountDataView]("sliding_account_data", max_entries=MAX_USERS),
            self._load,
        )
        feed.subscribe(ACCOUNT_DATA, self._on_account_data)

    async def of(self, user_id: UserID) -> AccountDataView:
        """Return the view of one user."""
        return await self._views.get(user_id)

    async def _load(self, user_id: UserID) -> AccountDataView:
        direct: frozenset[RoomID] = frozenset()
        tags: dict[RoomID, frozenset[str]] = {}
        ignored: frozenset[UserID] = frozenset()
        entries = await self._account_data.all(user_id)
        for entry in entries:
            if entry.room_id is None and entry.type == IGNORED_USER_LIST:
                ignored = _ignored_users(orjson.loads(entry.content))
            if entry.room_id is None and entry.type == DIRECT:
                direct = _direct_rooms(orjson.loads(entry.content))
            elif entry.room_id is not None and entry.type == TAG:
                tag_content = orjson.loads(entry.content).get("tags")
                if isinstance(tag_content, dict):
                    tags[entry.room_id] = frozenset(tag_content)
        return AccountDataView(direct, tags, invite_permission_in(entries), ignored)

    def _on_account_data(self, batch: Batch[AccountDataRow]) -> None:
        for _, row in batch.rows:
            if row.type in _RELEVANT_TYPES:
                self._views.invalidate(UserID(row.user_id))


def _ignored_users(content: dict[str, Any]) -> frozenset[UserID]:
    users = content.get("ignored_users")
    return frozenset(map(UserID, users)) if isinstance(users, dict) else frozenset()


def _direct_rooms(content: dict[str, Any]) -> frozenset[RoomID]:
    lists = [rooms for rooms in content.values() if isinstance(rooms, list)]
    return frozenset(
        RoomID(room_id) for rooms in lists for room_id in rooms if isinstance(room_id, str)
    )
