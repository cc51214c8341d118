"""The Protocols by which sync reads push rules and unread counts.

They belong to `hs.services.push`, which sync does not import: neither builds on the other.
"""

from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from typing import Protocol

from hs.core.ids import RoomID, UserID
from hs.core.positions import VectorPosition
from hs.core.push.unread import RoomCounts

NO_COUNTS = RoomCounts()


class PushRuleDocuments(Protocol):
    """Push rules of users as clients see them."""

    async def content(self, user_id: UserID) -> bytes:
        """Return the content of the m.push_rules event as JSON, `{"global": …}`."""


class UnreadCountSource(Protocol):
    """Unread counts."""

    async def counts(
        self, user_id: UserID, room_ids: Collection[RoomID], upto: VectorPosition
    ) -> Mapping[RoomID, RoomCounts]:
        """Return a user's counts up to a position of the stream events; no entry means none.

        The implementation decides how long to wait for the evaluation of push rules up to there.
        """

    async def catch_up(self) -> VectorPosition | None:
        """Wait for the evaluation as `counts` does.

        Return the position up to which counts are exact from now on; None if no event is left.
        """

    def changed_since(self, position: VectorPosition) -> AbstractSet[RoomID] | None:
        """Return the rooms whose counts the evaluation of events after a position changed.

        Return None if that is not known.
        """
