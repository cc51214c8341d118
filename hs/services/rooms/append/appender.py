"""The door by which events enter rooms: an interface, served by the owner of each room."""

from typing import Protocol

from hs.core.ids import RoomID
from hs.repl.rpc import rpc
from hs.services.rooms.append.drafts import Appended, Draft


class RoomAppender(Protocol):
    """Appends to rooms; what is appended is on disk, and seen by this process's feed."""

    @rpc
    async def append(self, room_id: RoomID, drafts: list[Draft]) -> list[Appended]:
        """Append events to a room, all of them or none.

        Idempotent by each draft's `txn`.
        Raises: NotFound for a room without state here; Forbidden and TooLarge by the rules;
        BadState, when what a draft `replaces` is not in place any more;
        MatrixError 503 when the commit failed, which may be tried again.
        """

    @rpc
    async def create(self, version: str, drafts: list[Draft]) -> list[Appended]:
        """Make a room of events, the first of which is its m.room.create, in one commit.

        Idempotent by the first draft's `txn`: a repetition gives the first event alone.
        Raises: UnsupportedRoomVersion, and as `append`.
        """
