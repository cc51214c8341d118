"""The presence that a writer has published and not stored yet.

Rules:

- Only the users whom this process still owns are stored (KeyFence).
- If storing fails, the changes are kept; newer ones take precedence.
"""

from collections.abc import Collection

import attrs
import trio

from hs.core.ids import UserID
from hs.core.streams import PresenceRow
from hs.repl.slots.fences import KeyFence, OwnedKeys
from hs.repl.slots.table import Matches
from hs.storage.database import Database, Tx
from hs.storage.ephemeral import presence as storage
from hs.storage.ephemeral.presence import PresenceRecord


@attrs.define(eq=False)
class UnsavedPresence:
    """The last row of each user with changes that are not stored."""

    _database: Database
    _fence: KeyFence
    _rows: dict[UserID, PresenceRow] = attrs.Factory(dict)
    _saving: dict[UserID, PresenceRow] = attrs.Factory(dict)
    _has_rows: trio.Event = attrs.Factory(trio.Event)
    _lock: trio.Lock = attrs.Factory(trio.Lock)

    def add(self, row: PresenceRow) -> None:
        """Add what a user's presence has become."""
        self._rows[UserID(row.user_id)] = row
        self._has_rows.set()

    def has(self, user_id: UserID) -> bool:
        """Return whether a user has changes that are not being stored."""
        return user_id in self._rows

    def has_some(self, matches: Matches) -> bool:
        """Return whether some users have changes that are not stored."""
        return any(matches(user_id) for user_id in (*self._rows, *self._saving))

    def lose(self, matches: Matches) -> None:
        """Forget users, because another process owns them."""
        for users in (self._rows, self._saving):
            for user_id in [user_id for user_id in users if matches(user_id)]:
                del users[user_id]

    async def wait(self) -> None:
        """Wait until there are changes."""
        await self._has_rows.wait()

    async def save(self) -> Collection[UserID]:
        """Store the changes since the last time; return their users."""
        async with self._lock:
            if self._has_rows.is_set():  # else somebody may be waiting for this event
                self._has_rows = trio.Event()
            self._saving, self._rows = self._rows, {}
            rows = dict(self._saving)
            if not rows:
                return ()
            try:
                owned = self._fence(list(rows))
                await self._database.write(_save_owned, owned, list(map(_record_of, rows.values())))
            except BaseException:
                self._rows = {**self._saving, **self._rows}
                self._has_rows.set()
                raise
            finally:
                self._saving = {}
            return rows.keys()


def _record_of(row: PresenceRow) -> PresenceRecord:
    return PresenceRecord(
        row.user_id, row.state, row.last_active_ts, row.status_msg, row.currently_active
    )


async def _save_owned(tx: Tx, owned: OwnedKeys, records: list[PresenceRecord]) -> None:
    user_ids = await owned(tx)
    await storage.save(tx, [record for record in records if record.user_id in user_ids])
