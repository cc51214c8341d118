"""What happens to an account after it was made: a new password, and its end."""

from typing import Protocol

import attrs

from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.services.accounts.profiles.profiles import Profiles
from hs.services.accounts.sessions.authenticator import Revocations
from hs.services.accounts.sessions.interactive_auth import PASSWORD, Flows
from hs.services.accounts.sessions.passwords import Passwords
from hs.services.accounts.sessions.sessions import Sessions
from hs.settings.sections.accounts import PasswordPolicy, PasswordSettings
from hs.storage.accounts import account_data, profiles, threepids, users
from hs.storage.accounts.users import UserRecord
from hs.storage.database import Database, Tx
from hs.storage.devices import dehydrated_devices, key_backup


class RoomDeparture(Protocol):
    """Takes users who go for good out of their rooms."""

    async def depart(self, user_id: UserID) -> None:
        """Have a user leave, and refuse invites to, all rooms; returns soon, works on after."""
        ...


class PublishedAddresses(Protocol):
    """Withdraws what users published of their addresses elsewhere."""

    async def unbind_all(self, user_id: UserID) -> bool:
        """Withdraw everything; tell whether all of it is withdrawn."""
        ...


@attrs.define(eq=False)
class Lifecycle:
    """Changes passwords and closes accounts."""

    _database: Database
    _passwords: Passwords
    _password_settings: PasswordSettings
    _sessions: Sessions
    _profiles: Profiles
    _revocations: Revocations
    _departure: RoomDeparture
    _published: PublishedAddresses

    @property
    def policy(self) -> PasswordPolicy:
        """Give what new passwords must contain."""
        return self._passwords.policy

    @property
    def may_change_password(self) -> bool:
        """Tell whether users can change their passwords here."""
        return bool(self._password_settings.enabled) and self._password_settings.localdb_enabled

    def flows(self) -> Flows:
        """Give what users must prove before they do what cannot be undone."""
        return [[PASSWORD]]

    async def find(self, user_id: UserID) -> UserRecord | None:
        """Give an account."""
        return await self._database.read(users.find_user, user_id)

    async def existing(self, user_ids: list[UserID]) -> set[str]:
        """Tell which of these users of our server exist."""
        return await self._database.read(users.existing, [str(one) for one in user_ids])

    def check_new_password(self, password: str) -> None:
        """Refuse what cannot be a password. Raises: InvalidParam, WeakPassword."""
        self._passwords.check_new(password)

    async def change_password(
        self, requester: Requester, password: str, *, logout_devices: bool
    ) -> None:
        """Set the requester's password, and perhaps log all their other devices out.

        Raises: InvalidParam, WeakPassword.
        """
        await self.set_password(requester.user_id, password)
        if logout_devices:
            await self._sessions.close_others(requester)

    async def set_password(self, user_id: UserID, password: str) -> None:
        """Set somebody's password.

        Raises: InvalidParam, WeakPassword.
        """
        self._passwords.check_new(password)
        password_hash = await self._passwords.hash(password)
        await self._database.write(users.set_password, user_id, password_hash)

    async def reset_password(self, user_id: UserID, password: str, *, logout_devices: bool) -> None:
        """Set the password of somebody who forgot theirs, and perhaps log them out everywhere.

        Raises: InvalidParam, MatrixError.
        """
        await self.set_password(user_id, password)
        if logout_devices:
            await self._sessions.close_all(user_id)

    async def reactivate(self, user_id: UserID, password: str | None) -> bool:
        """Open a closed account again, for an administrator; tell whether it was closed.

        Its rooms, name and addresses do not come back. Raises: InvalidParam, MatrixError.
        """
        password_hash = None
        if password is not None:
            self._passwords.check_new(password)
            password_hash = await self._passwords.hash(password)
        reopened = await self._database.write(users.reactivate, user_id, password_hash)
        self._revocations.users(user_id)
        self._profiles.announce(user_id)
        return reopened

    async def deactivate(self, user_id: UserID, *, erase: bool) -> bool:
        """Close an account for good: nobody logs in again, no name is left, all rooms are left.

        Doing it twice is fine. Tells whether identity servers have forgotten its addresses.
        """
        is_withdrawn = await self._published.unbind_all(user_id)
        await self._database.write(_deactivate, user_id, erase)
        self._revocations.users(user_id)
        await self._sessions.close_all(user_id)
        self._profiles.announce(user_id)
        await self._departure.depart(user_id)
        return is_withdrawn


async def _deactivate(tx: Tx, user_id: str, erase: bool) -> None:
    await users.deactivate(tx, user_id, erase)
    await profiles.delete_all(tx, user_id)
    await threepids.delete_all(tx, user_id)
    if erase:
        await account_data.delete_all(tx, user_id)
        await key_backup.delete_all(tx, user_id)
        await dehydrated_devices.delete(tx, user_id)
