"""Waiting until the user directory has seen what this process knows to be committed.

The directory is written by one process, some time after the profiles and member events that it
is made of. A client that changes a name, or joins a room, and then searches expects to find it.

Rules:

- The feed brings the newest member event and the users with changed profiles. What the directory
  has seen is read from the database, so it does not matter which process writes it.
- A search waits at most WAIT_S. What was waited for in vain is not waited for again: the process
  that writes the directory may be down.
"""

from collections.abc import Sequence
from typing import Final

import attrs
import trio

from hs.core.events import event_types
from hs.core.streams import CACHES, EVENTS, CacheRow, EventRow
from hs.repl.feed import Batch, Feed, Interest
from hs.services.directory.directory_entries import local_entry_of
from hs.storage.database import Database, Tx
from hs.storage.directory import user_directory as storage

PROFILES_CACHE: Final = "profiles"
WAIT_S: Final = 2.0
POLL_S: Final = 0.05
MAX_PROFILES: Final = 500
"""Users with changed profiles that are waited for; the oldest are dropped."""


@attrs.define(eq=False)
class DirectoryProgress:
    """What the directory must have seen before a search, in each process."""

    _database: Database
    _newest_member: int = 0
    _profiles: dict[str, None] = attrs.Factory(dict)

    def follow(self, feed: Feed) -> None:
        """Follow the feed from its present position."""
        feed.subscribe(EVENTS, self._on_events, Interest.CHANGES)
        feed.subscribe(CACHES, self._on_caches)

    async def wait(self) -> None:
        """Wait until the directory has seen what was delivered before the call, or for WAIT_S."""
        newest, user_ids = self._newest_member, list(self._profiles)
        if not newest and not user_ids:
            return
        deadline = trio.current_time() + WAIT_S
        while not await self._database.read(_has_seen, newest, user_ids):
            if trio.current_time() >= deadline:
                break
            await trio.sleep(POLL_S)
        if self._newest_member == newest:
            self._newest_member = 0
        for user_id in user_ids:
            self._profiles.pop(user_id, None)

    def _on_events(self, batch: Batch[EventRow]) -> None:
        for position, row in batch.rows:
            is_hidden = row.outlier or row.rejected or row.soft_failed
            if row.type == event_types.MEMBER and not is_hidden:
                self._newest_member = max(self._newest_member, position)

    def _on_caches(self, batch: Batch[CacheRow]) -> None:
        for _, row in batch.rows:
            if row.cache == PROFILES_CACHE:
                for user_id in row.keys:
                    self._profiles[user_id] = None
        while len(self._profiles) > MAX_PROFILES:
            del self._profiles[next(iter(self._profiles))]


async def _has_seen(tx: Tx, newest_member: int, user_ids: Sequence[str]) -> bool:
    """Return whether the directory has seen a member event and the profiles of users."""
    if newest_member and await storage.load_progress(tx) < newest_member:
        return False
    if not user_ids:
        return True
    profiles = await storage.profiles_of(tx, user_ids)
    entries = await storage.list_entries(tx, user_ids)
    return all(
        entries.get(user_id) == local_entry_of(user_id, fields)
        for user_id, fields in profiles.items()
    )
