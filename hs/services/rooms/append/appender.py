"""The interface for appending events to rooms, served by the process that owns the room."""

from typing import Protocol

from hs.core.ids import RoomID
from hs.repl.rpc import rpc
from hs.services.rooms.append.drafts import AppendedEvent, Draft


class RoomAppender(Protocol):
    """Appends events to rooms.

    When a call returns, the events are committed and this process's feed has delivered them.
    """

    @rpc
    async def append(self, room_id: RoomID, drafts: list[Draft]) -> list[AppendedEvent]:
        """Append events to a room, all of them or none.

        Idempotent by each draft's `txn`.
        Raises: NotFound, if this server has no state of the room; Forbidden and TooLarge, by the
            authorization rules, `from_memberships` and the size limits; BadState, if the event that
            a draft `replaces` is not in the current state any more; MatrixError 503, if the commit
            failed; the call may be repeated.
        """

    @rpc
    async def create(self, version: str, drafts: list[Draft]) -> list[AppendedEvent]:
        """Create a room from its first events, beginning with m.room.create, in one commit.

        Idempotent by the first draft's `txn`: a repeated call returns the create event only.
        Raises: UnsupportedRoomVersion, and as `append`.
        """
