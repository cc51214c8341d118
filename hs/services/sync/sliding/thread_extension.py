"""The extension of thread subscriptions.

Spec: MSC4308.
"""

from collections.abc import Iterable
from typing import Any, Final

from hs.core.ids import UserID
from hs.core.streams import THREAD_SUBSCRIPTIONS, ThreadSubscriptionRow
from hs.core.tokens import SyncToken
from hs.repl.feed import Feed
from hs.repl.recent_keys import RecentKeys
from hs.services.rooms.threads.thread_subscriptions import DEFAULT_LIMIT, ThreadSubscriptions
from hs.services.sync.sliding.request import ThreadExtensionRequest
from hs.storage.rooms.thread_subscriptions import SubscriptionRecord

THREADS_EXTENSION: Final = "io.element.msc4308.thread_subscriptions"


class ThreadExtension:
    """The renderer of the extension; None if this server has no thread subscriptions."""

    def __init__(self, feed: Feed, subscriptions: ThreadSubscriptions | None) -> None:
        self._subscriptions = subscriptions
        self._recent: RecentKeys[UserID, ThreadSubscriptionRow] = RecentKeys(
            feed, THREAD_SUBSCRIPTIONS, lambda row: (UserID(row.user_id),)
        )

    async def make(
        self,
        user_id: UserID,
        request: ThreadExtensionRequest,
        since: SyncToken | None,
        now: SyncToken,
    ) -> dict[str, Any]:
        """Return the changes since a token; an empty dictionary if there are none."""
        if self._subscriptions is None or not request.enabled:
            return {}
        after = 0
        if since is not None:
            if not self._recent.touched(user_id, since.thread_subscriptions):
                return {}
            after = since.thread_subscriptions.floor
        page = await self._subscriptions.changes(
            user_id,
            after,
            now.thread_subscriptions.most(),
            max(1, min(request.limit or DEFAULT_LIMIT, DEFAULT_LIMIT)),
            gone_too=since is not None,
        )
        if not page.changes:
            return {}
        members: dict[str, Any] = subscriptions_by_room(page.changes)
        if page.end is not None:
            members["prev_batch"] = page.end
        return members


def subscriptions_by_room(changes: Iterable[SubscriptionRecord]) -> dict[str, Any]:
    """Return the `subscribed` and `unsubscribed` members, by room and thread root."""
    members: dict[str, Any] = {}
    for change in changes:
        entry: dict[str, Any] = {"bump_stamp": change.stream_id}
        if change.is_subscribed:
            entry["automatic"] = change.is_automatic
        kind = "subscribed" if change.is_subscribed else "unsubscribed"
        members.setdefault(kind, {}).setdefault(change.room_id, {})[change.root_id] = entry
    return members
