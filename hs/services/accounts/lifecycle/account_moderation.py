"""Locking and suspending accounts, as administrators do from their clients.

Spec: client-server API, Server Administration; Account locking; Account suspension.
"""

import attrs

from hs.core.errors import Forbidden, InvalidParam, NotFound
from hs.core.ids import ServerName, UserID, server_of
from hs.core.requester import Requester
from hs.services.accounts.sessions.authenticator import Revocations
from hs.storage.accounts import users
from hs.storage.accounts.users import UserRecord
from hs.storage.database import Database


@attrs.frozen(eq=False)
class Moderation:
    """Every process knows of a change at once."""

    _database: Database
    _revocations: Revocations
    _server_name: ServerName

    async def find(self, requester: Requester, user_id: UserID) -> UserRecord:
        """Give an account that the requester, an administrator, may moderate.

        Raises: Forbidden, InvalidParam, NotFound.
        """
        # Who may not ask is not to learn who is there.
        if not requester.is_admin:
            raise Forbidden("You are not a server admin")
        if server_of(user_id) != self._server_name:
            raise InvalidParam("Not a user of this server")
        user = await self._database.read(users.find_user, user_id)
        if user is None or user.is_deactivated:
            raise NotFound("There is no such user")
        if user.is_admin:
            raise Forbidden("This user is an administrator")
        return user

    async def lock(self, requester: Requester, user_id: UserID, locked: bool) -> None:
        """Lock an account, or unlock it. Raises: as `find`; Forbidden for one's own."""
        await self._target(requester, user_id)
        await self._database.write(users.set_locked, user_id, locked)
        self._revocations.users(user_id)

    async def suspend(self, requester: Requester, user_id: UserID, suspended: bool) -> None:
        """Suspend an account, or end that. Raises: as `find`; Forbidden for one's own."""
        await self._target(requester, user_id)
        await self._database.write(users.set_suspended, user_id, suspended)
        self._revocations.users(user_id)

    async def _target(self, requester: Requester, user_id: UserID) -> None:
        if user_id == requester.user_id:
            raise Forbidden("You cannot do this to yourself")
        await self.find(requester, user_id)
