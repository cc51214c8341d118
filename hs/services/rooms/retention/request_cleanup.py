"""What is done to the rooms' tables now and then, by one process."""

from typing import Final

import attrs

from hs.lib.clock import Clock
from hs.storage.database import Database
from hs.storage.rooms import transaction_ids

UPKEEP_PERIOD_S: Final = 3600.0
REQUESTS_KEPT_MS: Final = 24 * 3600 * 1000


@attrs.frozen(eq=False)
class RoomUpkeep:
    """Forgets what no request can ask for any more."""

    _database: Database
    _clock: Clock

    async def forget_old_requests(self) -> int:
        """Forget the transaction IDs of more than a day ago; give how many."""
        before_ms = self._clock.now_ms() - REQUESTS_KEPT_MS
        return await self._database.write(transaction_ids.prune, before_ms)
