"""Registration: creates accounts of users, guests and application services."""

import secrets
import string
from typing import Protocol

import attrs

from hs.core.errors import Exclusive, Forbidden, ThreepidInUse, UserInUse
from hs.core.ids import ServerName, UserID
from hs.lib.clock import Clock
from hs.services.accounts.limits.account_restrictions import check_may_get_tokens
from hs.services.accounts.limits.appservice_users import Appservices
from hs.services.accounts.profiles.profiles import Profiles
from hs.services.accounts.registration.registration_requirements import RegistrationRequirements
from hs.services.accounts.registration.usernames import check_choosable, check_localpart
from hs.services.accounts.sessions.interactive_auth import UiaProof
from hs.services.accounts.sessions.passwords import Passwords
from hs.services.accounts.sessions.server_blocking import check_is_open
from hs.services.accounts.sessions.sessions import (
    NewSession,
    RequestedDevice,
    Session,
    Sessions,
    write_session,
)
from hs.services.accounts.sessions.token_format import hash_of
from hs.services.accounts.threepids.threepids import Threepids, threepid_record
from hs.services.accounts.threepids.validation_stages import agreed_version, threepids_in
from hs.storage.accounts import consents, profiles, threepids, tokens, uia_sessions, users
from hs.storage.accounts.users import UserRecord
from hs.storage.database import Database, Tx, UniqueViolation

GENERATED_NAME_LENGTH = 12


@attrs.frozen(kw_only=True)
class NewAccount:
    """An account to be created, or, with `was_guest`, a guest account to be upgraded.

    No device is logged in if `device` is None.
    """

    user_id: UserID
    password: str | None = None
    password_hash: str | None = None
    is_guest: bool = False
    was_guest: bool = False
    is_admin: bool = False
    user_type: str | None = None
    appservice_id: str | None = None
    display_name: str | None = None
    device: RequestedDevice | None = None
    proof: UiaProof | None = None


class NewUserListener(Protocol):
    """A listener that is notified of new users."""

    async def on_new_user(self, user_id: UserID, *, is_guest: bool) -> None:
        """Handle the registration of a user; must not raise."""
        ...


@attrs.define(eq=False)
class Registration:
    """The registration of accounts."""

    _database: Database
    _clock: Clock
    requirements: RegistrationRequirements
    _server_name: ServerName
    _guests_allowed: bool
    _passwords: Passwords
    _sessions: Sessions
    _profiles: Profiles
    _appservices: Appservices
    _threepids: Threepids
    _newcomers: NewUserListener

    async def check_name(self, localpart: str) -> UserID:
        """Return the user ID for a localpart that a user may choose and that is available.

        Raises: InvalidUsername, Exclusive, UserInUse.
        """
        user_id = check_localpart(localpart.lower(), self._server_name)
        settings = self.requirements.registration
        allow = settings.allow_underscore_prefixed_registration
        check_choosable(user_id, allow, self._appservices)
        if not settings.inhibit_user_in_use_error and await self.is_taken(user_id):
            raise UserInUse("This username is taken")
        return user_id

    async def check_any_name(self, localpart: str) -> UserID:
        """Return the user ID for a localpart that is available, for an administrator.

        Raises: InvalidUsername, UserInUse.
        """
        user_id = check_localpart(localpart.lower(), self._server_name)
        if await self.is_taken(user_id):
            raise UserInUse("This username is taken")
        return user_id

    def check_appservice_name(self, localpart: str, appservice_id: str) -> UserID:
        """Return the user ID for a localpart in the namespaces of the application service.

        Raises: InvalidUsername, Exclusive, ResourceLimitExceeded.
        """
        check_is_open(self.requirements.blocking, is_admin=False)
        user_id = check_localpart(localpart, self._server_name)
        if not self._appservices.owns(appservice_id, user_id):
            raise Exclusive("The user ID is not in the application service's namespaces")
        if self._appservices.reserves(user_id, appservice_id):
            raise Exclusive("The user ID belongs to another application service")
        return user_id

    def random_user_id(self) -> UserID:
        """Return a random user ID."""
        letters = (secrets.choice(string.ascii_lowercase) for _ in range(GENERATED_NAME_LENGTH))
        return UserID(f"@{''.join(letters)}:{self._server_name}")

    async def is_taken(self, user_id: UserID) -> bool:
        """Return whether an account has this user ID, ignoring case."""
        return await self._database.read(users.find_user_ignoring_case, user_id) is not None

    async def register(self, account: NewAccount) -> Session | None:
        """Create an account and, if it names a device, its session, in one transaction.

        Raises: UserInUse, InvalidParam, WeakPassword, ThreepidInUse, ThreepidDenied.
        """
        for threepid in () if account.proof is None else threepids_in(account.proof):
            self._threepids.check_allowed(threepid.medium, threepid.address, registering=True)
        password_hash = account.password_hash
        if account.password is not None:
            password_hash = await self.hash_new_password(account.password)
        record = UserRecord(
            account.user_id,
            password_hash,
            self._clock.now_ms(),
            is_guest=account.is_guest,
            is_admin=account.is_admin,
            user_type=account.user_type,
            appservice_id=account.appservice_id,
        )
        opening = None
        if account.device is not None:
            opening = self._sessions.prepare(account.user_id, account.device)
        display_name = account.display_name or account.user_id[1 : account.user_id.index(":")]
        write = _upgrade_guest if account.was_guest else _write_account
        try:
            await self._database.write(write, record, display_name, opening, account.proof)
        except UniqueViolation as error:
            raise UserInUse("This username is taken") from error
        self._profiles.announce(account.user_id)
        if account.was_guest:
            self._sessions.announce_rights_changed(account.user_id)
        if opening is not None:
            await self._sessions.announce_opened(opening.session, True, [])
        if account.appservice_id is None:
            await self._newcomers.on_new_user(account.user_id, is_guest=account.is_guest)
        return None if opening is None else opening.session

    async def hash_new_password(self, password: str) -> str:
        """Check a new password and return its hash. Raises: WeakPassword, InvalidParam."""
        self._passwords.check_new(password)
        return await self._passwords.hash(password)

    async def log_in_again(
        self, user_id: UserID, password: str | None, device: RequestedDevice | None
    ) -> Session | None:
        """Log in a user whose registration is repeated because its response may have been lost.

        Raises: Forbidden, UserLocked.
        """
        user = await self._database.read(users.find_user, user_id)
        password_hash = None if user is None else user.password_hash
        if password is None or not await self._passwords.confirms(password, password_hash):
            raise Forbidden("The account was created with another password")
        check_may_get_tokens(is_locked=user is not None and user.is_locked)
        return None if device is None else await self._sessions.open(user_id, device)

    async def guest_by_token(self, access_token: str, localpart: str) -> UserID:
        """Return the guest with an access token, who upgrades the account and keeps the user ID.

        Raises: Forbidden if the token is not one of the guest with this localpart.
        """
        token = await self._database.read(tokens.find, hash_of(access_token))
        user_id = UserID(f"@{localpart}:{self._server_name}")
        if token is None or not token.is_guest or token.is_deactivated or token.user_id != user_id:
            raise Forbidden("A guest account can be upgraded only under its own username")
        return user_id

    async def register_guest(self, device: RequestedDevice) -> Session:
        """Create a guest account.

        Raises: ResourceLimitExceeded; Forbidden if guest access is disabled.
        """
        check_is_open(self.requirements.blocking, is_admin=False)
        if not self._guests_allowed:
            raise Forbidden("Guest access is disabled")
        number = await self._database.write(users.next_guest_number)
        user_id = UserID(f"@{number}:{self._server_name}")
        guest = NewAccount(
            user_id=user_id, is_guest=True, display_name=f"Guest {number}", device=device
        )
        session = await self.register(guest)
        assert session is not None
        return session


async def _write_account(
    tx: Tx,
    record: UserRecord,
    display_name: str,
    opening: NewSession | None,
    proof: UiaProof | None,
) -> None:
    await users.insert_user(tx, record)
    await profiles.set_field(tx, record.user_id, "displayname", display_name)
    await _write_session(tx, record, opening, proof)


async def _upgrade_guest(
    tx: Tx,
    record: UserRecord,
    display_name: str,
    opening: NewSession | None,
    proof: UiaProof | None,
) -> None:
    # The display name stays as the guest has set it.
    if not await users.upgrade_guest(tx, record.user_id, record.password_hash):
        raise UserInUse("This user is not a guest any more")
    await _write_session(tx, record, opening, proof)


async def _write_session(
    tx: Tx, record: UserRecord, opening: NewSession | None, proof: UiaProof | None
) -> None:
    if opening is not None:
        await write_session(tx, opening)
    if proof is not None:
        await _write_stage_results(tx, record, proof)
        if proof.registration_token is not None:
            await users.use_registration_token(tx, proof.registration_token)
        if proof.session_id is not None and not await uia_sessions.set_outcome(
            tx, proof.session_id, record.user_id
        ):
            raise UserInUse("An account has already been created in this session")


async def _write_stage_results(tx: Tx, record: UserRecord, proof: UiaProof) -> None:
    for threepid in threepids_in(proof):
        threepid_row = threepid_record(UserID(record.user_id), threepid, record.created_ms)
        if not await threepids.insert(tx, threepid_row):
            raise ThreepidInUse("Another account has this third-party identifier")
    version = agreed_version(proof)
    if version is not None:
        await consents.record_consent(tx, record.user_id, version, record.created_ms)
