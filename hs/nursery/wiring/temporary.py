"""What stands in for unread counts until they are kept; removed with them."""

from collections.abc import Collection, Mapping

from hs.core.ids import RoomID, UserID
from hs.core.positions import VectorPosition
from hs.services.sync.sources import RoomCounts


class NothingCounted:
    """Empty push rules, and nothing unread."""

    async def content(self, user_id: UserID) -> bytes:
        """Give no rules."""
        return b'{"global":{"override":[],"content":[],"room":[],"sender":[],"underride":[]}}'

    async def counts(
        self, user_id: UserID, room_ids: Collection[RoomID], upto: VectorPosition
    ) -> Mapping[RoomID, RoomCounts]:
        """Count nothing."""
        return {}
