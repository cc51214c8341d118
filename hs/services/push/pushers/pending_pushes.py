"""The notifications that one pusher has still to send.

`_added` has all notifications above the position while `_is_complete` holds. That is set before the
table is read, so a notification is in the table, is added by the feed, or both; what is not above
the position any more is skipped. If more are added than fit, the table is read again.
"""

from collections import deque
from typing import Final

import attrs

from hs.core.ids import UserID
from hs.services.push.pushers.delivery import Push
from hs.storage.database import Database
from hs.storage.push import pushers as storage

MAX_HELD: Final = 100
"""The limit of notifications in memory; others are read from the table later."""

PAGE_SIZE: Final = 50


@attrs.define(eq=False)
class PendingPushes:
    """The notifications above `position`, the number of the last one that is done."""

    position: int
    _added: deque[Push] = attrs.Factory(deque)
    _is_complete: bool = False

    def add(self, push: Push) -> None:
        """Add a stored notification."""
        if self._is_complete and len(self._added) < MAX_HELD:
            self._added.append(push)
        else:
            self.look_again()

    def look_again(self) -> None:
        """Have the table read: it may have notifications that were not added."""
        self._is_complete = False
        self._added.clear()

    def advance(self, position: int) -> None:
        """Note that everything up to a number is done."""
        self.position = max(self.position, position)

    def has(self, push: Push) -> bool:
        """Return whether a notification has still to be sent."""
        return push.seq > self.position

    async def take(self, database: Database, user_id: UserID) -> list[Push]:
        """Return the next notifications in order; none if all are done."""
        if self._is_complete:
            pushes = [push for push in self._added if self.has(push)]
            self._added.clear()
            return pushes
        # From here on the feed adds notifications.
        self._is_complete = True
        self._added.clear()
        pushes = await database.read(storage.list_queued, user_id, self.position, PAGE_SIZE)
        if len(pushes) == PAGE_SIZE:
            self._is_complete = False
        return pushes
