"""Content reports of users, which are stored for administrators.

Spec: client-server API, Reporting Content.
"""

from typing import Final

import attrs

from hs.core.errors import BadJson, NotFound
from hs.core.ids import EventID, RoomID, UserID
from hs.core.requester import Requester
from hs.lib.clock import Clock
from hs.services.rooms.store.memberships import Memberships
from hs.storage.admin import reports as storage
from hs.storage.admin.reports import ReportRecord
from hs.storage.database import Database

MAX_REASON_CHARS: Final = 1000
MAX_REPORTS: Final = 10_000  # of one user; the oldest are deleted


@attrs.frozen(eq=False)
class Reports:
    """The store of content reports."""

    database: Database
    members: Memberships
    clock: Clock

    async def report_room(self, requester: Requester, room_id: RoomID, reason: str) -> None:
        """Report a room, also as a non-member.

        Raises: NotFound.
        """
        if not await self.database.read(storage.room_exists, room_id):
            raise NotFound("The room was not found.")
        await self._store(requester, reason, room_id=room_id)

    async def report_event(
        self,
        requester: Requester,
        room_id: RoomID,
        event_id: EventID,
        reason: str | None,
        score: int | None,
    ) -> None:
        """Report an event of a room that the requester is joined to.

        Raises: BadJson, NotFound.
        """
        is_joined = await self.members.is_joined(room_id, requester.user_id)
        sender = (
            await self.database.read(storage.sender_of, event_id, room_id) if is_joined else None
        )
        if sender is None:
            raise NotFound("The event was not found or you are not joined to the room.")
        await self._store(
            requester, reason, room_id=room_id, event_id=event_id, user_id=sender, score=score
        )

    async def report_user(self, requester: Requester, user_id: UserID, reason: str) -> None:
        """Report a user.

        Raises: NotFound.
        """
        if not await self.database.read(storage.user_exists, user_id):
            raise NotFound("The user was not found.")
        await self._store(requester, reason, user_id=user_id)

    async def _store(
        self,
        requester: Requester,
        reason: str | None,
        *,
        room_id: str | None = None,
        event_id: str | None = None,
        user_id: str | None = None,
        score: int | None = None,
    ) -> None:
        if reason is not None and len(reason) > MAX_REASON_CHARS:
            raise BadJson(f"'reason' must not be longer than {MAX_REASON_CHARS} characters")
        report = ReportRecord(
            received_ms=self.clock.now_ms(),
            reporter=requester.user_id,
            room_id=room_id,
            event_id=event_id,
            user_id=user_id,
            reason=reason,
            score=score,
        )
        await self.database.write(storage.add, report, MAX_REPORTS)
