"""Locking and suspension of accounts by server administrators.

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
class AccountModeration:
    """Locks and suspends accounts; all processes learn of changes immediately."""

    _database: Database
    _revocations: Revocations
    _server_name: ServerName

    async def find(self, requester: Requester, user_id: UserID) -> UserRecord:
        """Return an account that the requester, an administrator, may moderate.

        Raises: Forbidden, InvalidParam, NotFound.
        """
        # Checked first: other requesters must not learn whether the user exists.
        if not requester.is_admin:
            raise Forbidden("You are not a server administrator")
        if server_of(user_id) != self._server_name:
            raise InvalidParam("The user is not a user of this server")
        user = await self._database.read(users.find_user, user_id)
        if user is None or user.is_deactivated:
            raise NotFound("User not found")
        if user.is_admin:
            raise Forbidden("Server administrators cannot be locked or suspended")
        return user

    async def lock(self, requester: Requester, user_id: UserID, locked: bool) -> None:
        """Lock or unlock an account. Raises: as `find`; Forbidden for the requester's own."""
        await self._check_target(requester, user_id)
        await self._database.write(users.set_locked, user_id, locked)
        self._revocations.announce_users(user_id)

    async def suspend(self, requester: Requester, user_id: UserID, suspended: bool) -> None:
        """Suspend or unsuspend an account. Raises: as `find`; Forbidden for the requester's own."""
        await self._check_target(requester, user_id)
        await self._database.write(users.set_suspended, user_id, suspended)
        self._revocations.announce_users(user_id)

    async def _check_target(self, requester: Requester, user_id: UserID) -> None:
        if user_id == requester.user_id:
            raise Forbidden("You cannot lock or suspend your own account")
        await self.find(requester, user_id)
