"""Which users asked to be erased, as visibility asks."""

from collections.abc import Set as AbstractSet

import attrs

from hs.core.ids import UserID
from hs.storage import erasures
from hs.storage.database import Database


@attrs.frozen(eq=False)
class StoredErasures:
    """Reads it from the accounts; asked only about senders whom a viewer was not in a room with."""

    _database: Database

    async def erased_among(self, user_ids: AbstractSet[UserID]) -> AbstractSet[UserID]:
        """Give those of the users who asked to be erased."""
        found = await self._database.read(erasures.erased_among, sorted(user_ids))
        return {UserID(user_id) for user_id in found}
