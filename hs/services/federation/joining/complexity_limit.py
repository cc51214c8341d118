"""Joins of rooms that are too complex for this server are rejected.

A server in the room is asked for the complexity before the join. If it does not tell, the state
that it sends is counted, and if there is too much of it, the user leaves again at once: then
nothing of the room is stored.
"""

import logging
from typing import Final

import attrs
import trio

from hs.core.complexity import complexity_of
from hs.core.errors import MatrixError, RemoteFault
from hs.core.events import event_types
from hs.core.ids import RoomID, ServerName, UserID
from hs.services.federation.joining.signed_templates import ExpectedMember, TemplateSigner
from hs.services.federation.requests.complexity import get_complexity
from hs.services.federation.requests.membership import make_membership, send_leave
from hs.services.federation_client.client import FederationClient
from hs.settings.sections.federation import RemoteRoomLimit
from hs.storage.accounts import users
from hs.storage.database import Database

LEAVE_DEADLINE_S: Final = 30.0

log = logging.getLogger(__name__)


@attrs.frozen(eq=False)
class ComplexityLimit:
    """Checks rooms before they are joined, and before they are stored."""

    _settings: RemoteRoomLimit
    _client: FederationClient
    _templates: TemplateSigner
    _database: Database

    async def applies_to(self, user_id: UserID) -> bool:
        """Return whether a user may not join all rooms."""
        if not self._settings.enabled:
            return False
        if not self._settings.admins_can_join:
            return True
        user = await self._database.read(users.find_user, user_id)
        return user is None or not user.is_admin

    async def check_before(self, server: ServerName, room_id: RoomID) -> None:
        """Raise MatrixError if a server says that a room is too complex."""
        try:
            complexity = await get_complexity(self._client, server, room_id)
        except RemoteFault as fault:
            log.info("the complexity of room %s is not known: %s", room_id, fault)
            return
        self._check(complexity)

    async def check_state(
        self, server: ServerName, room_id: RoomID, user_id: UserID, state_events: int
    ) -> None:
        """Raise MatrixError if a room with so many state events is too complex; leave it first."""
        try:
            self._check(complexity_of(state_events))
        except MatrixError:
            with trio.move_on_after(LEAVE_DEADLINE_S):
                await self._leave(server, room_id, user_id)
            raise

    def _check(self, complexity: float) -> None:
        if complexity > self._settings.complexity:
            raise MatrixError("M_RESOURCE_LIMIT_EXCEEDED", 400, self._settings.complexity_error)

    async def _leave(self, server: ServerName, room_id: RoomID, user_id: UserID) -> None:
        expected = ExpectedMember(room_id, user_id, {"membership": event_types.LEAVE})
        try:
            template = await make_membership(self._client, server, "leave", room_id, user_id)
            event = self._templates.sign(server, template, expected)
            await send_leave(self._client, server, event)
        except (MatrixError, RemoteFault) as fault:
            log.warning("%s could not leave the too complex room %s: %s", user_id, room_id, fault)
