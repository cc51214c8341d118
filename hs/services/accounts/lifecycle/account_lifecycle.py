"""Password changes, deactivation and reactivation of accounts."""

from typing import Protocol

import attrs

from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.services.accounts.profiles.profiles import Profiles
from hs.services.accounts.sessions.authenticator import Revocations
from hs.services.accounts.sessions.interactive_auth import PASSWORD, Flows
from hs.services.accounts.sessions.passwords import Passwords
from hs.services.accounts.sessions.sessions import Sessions
from hs.services.accounts.threepids.identity_servers import IdentityServers
from hs.settings.sections.accounts import PasswordPolicy, PasswordSettings
from hs.storage.accounts import account_data, profile_updates, profiles, threepids, users
from hs.storage.accounts.users import UserRecord
from hs.storage.database import Database, Tx
from hs.storage.devices import dehydrated_devices, key_backup


class RoomDeparture(Protocol):
    """The removal of deactivated users from their rooms."""

    async def depart(self, user_id: UserID) -> None:
        """Schedule that a user leaves all rooms and rejects all invites."""
        ...


@attrs.define(eq=False)
class AccountLifecycle:
    """Changes to existing accounts."""

    _database: Database
    _passwords: Passwords
    _password_settings: PasswordSettings
    _sessions: Sessions
    _profiles: Profiles
    _revocations: Revocations
    _departure: RoomDeparture
    _published: IdentityServers

    @property
    def policy(self) -> PasswordPolicy:
        """Requirements for new passwords."""
        return self._passwords.policy

    @property
    def may_change_password(self) -> bool:
        """Whether users can change their passwords on this server."""
        return bool(self._password_settings.enabled) and self._password_settings.localdb_enabled

    def flows(self) -> Flows:
        """Return the UIA flows of irreversible operations."""
        return [[PASSWORD]]

    async def find(self, user_id: UserID) -> UserRecord | None:
        """Return an account, or None."""
        return await self._database.read(users.find_user, user_id)

    async def existing(self, user_ids: list[UserID]) -> set[str]:
        """Return those local users that exist."""
        return await self._database.read(
            users.existing_users, [str(user_id) for user_id in user_ids]
        )

    def check_new_password(self, password: str) -> None:
        """Check a new password against the policy. Raises: InvalidParam, WeakPassword."""
        self._passwords.check_new(password)

    async def change_password(
        self, requester: Requester, password: str, *, logout_devices: bool
    ) -> None:
        """Set the requester's password and optionally log out their other devices.

        Raises: InvalidParam, WeakPassword.
        """
        await self.set_password(requester.user_id, password)
        if logout_devices:
            await self._sessions.close_others(requester)

    async def set_password(self, user_id: UserID, password: str) -> None:
        """Set a user's password.

        Raises: InvalidParam, WeakPassword.
        """
        self._passwords.check_new(password)
        password_hash = await self._passwords.hash(password)
        await self._database.write(users.set_password, user_id, password_hash)

    async def reset_password(self, user_id: UserID, password: str, *, logout_devices: bool) -> None:
        """Set a forgotten password and optionally log out all devices of the user.

        Raises: InvalidParam, MatrixError.
        """
        await self.set_password(user_id, password)
        if logout_devices:
            await self._sessions.close_all(user_id)

    async def reactivate(self, user_id: UserID, password: str | None) -> bool:
        """Reactivate a deactivated account; return whether it was deactivated.

        Its rooms, profile and third-party identifiers are not restored.
        Raises: InvalidParam, MatrixError.
        """
        password_hash = None
        if password is not None:
            self._passwords.check_new(password)
            password_hash = await self._passwords.hash(password)
        was_deactivated = await self._database.write(users.reactivate, user_id, password_hash)
        self._revocations.announce_users(user_id)
        self._profiles.announce(user_id)
        return was_deactivated

    async def deactivate(self, user_id: UserID, *, erase: bool) -> bool:
        """Deactivate an account: delete its sessions, profile and identifiers, leave its rooms.

        Idempotent. Return whether all identifiers were unbound from identity servers.
        """
        all_unbound = await self._published.unbind_all(user_id)
        await self._database.write(_deactivate, user_id, erase)
        self._revocations.announce_users(user_id)
        await self._sessions.close_all(user_id)
        self._profiles.announce(user_id)
        await self._departure.depart(user_id)
        while await self._database.write(key_backup.delete_leftovers, user_id):
            pass
        return all_unbound


async def _deactivate(tx: Tx, user_id: str, erase: bool) -> None:
    await users.deactivate(tx, user_id, erase)
    await profiles.delete_all(tx, user_id)
    await profile_updates.delete_all(tx, user_id)
    await threepids.delete_all(tx, user_id)
    if erase:
        await account_data.delete_all(tx, user_id)
        await key_backup.delete_all(tx, user_id)
        await dehydrated_devices.delete(tx, user_id)
