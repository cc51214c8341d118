"""Periodic cleanup of rooms' tables."""

from typing import Final

import attrs

from hs.lib.clock import Clock
from hs.storage.database import Database
from hs.storage.rooms import sticky_events, transaction_ids

CLEANUP_PERIOD_S: Final = 3600.0
TRANSACTION_ID_LIFETIME_MS: Final = 24 * 3600 * 1000


@attrs.frozen(eq=False)
class RoomCleanup:
    """Deletes old transaction IDs, and the entries of events that are not sticky any more."""

    _database: Database
    _clock: Clock

    async def delete_old_transaction_ids(self) -> int:
        """Delete the transaction IDs of requests older than a day; return their number."""
        before_ms = self._clock.now_ms() - TRANSACTION_ID_LIFETIME_MS
        return await self._database.write(transaction_ids.prune, before_ms)

    async def delete_expired_sticky_events(self) -> int:
        """Delete the entries of events that are not sticky any more; return their number."""
        return await self._database.write(sticky_events.prune, self._clock.now_ms())
