"""Making accounts: users with proofs, guests, and those made by application services."""

import secrets
import string

import attrs

from hs.core.errors import Exclusive, Forbidden, UserInUse
from hs.core.ids import ServerName, UserID
from hs.lib.clock import Clock
from hs.services.accounts.appservices import Appservices
from hs.services.accounts.passwords import Passwords
from hs.services.accounts.profiles import Profiles
from hs.services.accounts.sessions import DeviceWish, Opening, Session, Sessions, write_opening
from hs.services.accounts.uia import DUMMY, REGISTRATION_TOKEN, Flows, Proof
from hs.services.accounts.usernames import check_chosen, check_localpart
from hs.settings.accounts import RegistrationSettings
from hs.storage import accounts, profiles, uia
from hs.storage.accounts import UserRecord
from hs.storage.database import Database, Tx, UniqueViolation

GENERATED_NAME_LENGTH = 12


@attrs.frozen(kw_only=True)
class NewAccount:
    """An account to be made. `device` None: nobody is logged in."""

    user_id: UserID
    password: str | None = None
    is_guest: bool = False
    is_admin: bool = False
    user_type: str | None = None
    appservice_id: str | None = None
    display_name: str | None = None
    device: DeviceWish | None = None
    proof: Proof | None = None


@attrs.define(eq=False)
class Registration:
    """Makes accounts."""

    _database: Database
    _clock: Clock
    _settings: RegistrationSettings
    _server_name: ServerName
    _guests_allowed: bool
    _passwords: Passwords
    _sessions: Sessions
    _profiles: Profiles
    _appservices: Appservices

    def check_is_open(self) -> None:
        """Refuse when nobody may register.

        Raises: Forbidden.
        """
        if not self._settings.enable_registration:
            raise Forbidden("Registration is disabled")
        if self._settings.registrations_require_3pid:
            raise Forbidden("This server takes only users with an address, which it cannot check")

    @property
    def asks_for_token(self) -> bool:
        """Tell whether registering needs a token."""
        return self._settings.registration_requires_token

    def flows(self) -> Flows:
        """Give what must be proved in order to register."""
        return [[REGISTRATION_TOKEN]] if self.asks_for_token else [[DUMMY]]

    async def check_name(self, localpart: str) -> UserID:
        """Give the user ID for a name that somebody wants, if it is to be had.

        Raises: InvalidUsername, Exclusive, UserInUse.
        """
        user_id = check_localpart(localpart, self._server_name)
        allow = self._settings.allow_underscore_prefixed_registration
        check_chosen(user_id, allow, self._appservices)
        if not self._settings.inhibit_user_in_use_error and await self.is_taken(user_id):
            raise UserInUse("This user name is taken")
        return user_id

    async def check_any_name(self, localpart: str) -> UserID:
        """Give the user ID for a name that an administrator wants, if it is to be had.

        Raises: InvalidUsername, UserInUse.
        """
        user_id = check_localpart(localpart.lower(), self._server_name)
        if await self.is_taken(user_id):
            raise UserInUse("This user name is taken")
        return user_id

    def check_appservice_name(self, localpart: str, appservice_id: str) -> UserID:
        """Give the user ID that an application service wants, if it is in its namespaces.

        Raises: InvalidUsername, Exclusive.
        """
        user_id = check_localpart(localpart, self._server_name)
        if not self._appservices.owns(appservice_id, user_id):
            raise Exclusive("The user ID is not in the application service's namespaces")
        if self._appservices.reserves(user_id, appservice_id):
            raise Exclusive("The user ID belongs to another application service")
        return user_id

    def generated_name(self) -> UserID:
        """Give a user ID to somebody who wants none in particular."""
        letters = (secrets.choice(string.ascii_lowercase) for _ in range(GENERATED_NAME_LENGTH))
        return UserID(f"@{''.join(letters)}:{self._server_name}")

    async def is_taken(self, user_id: UserID) -> bool:
        """Tell whether an account has that ID, in whatever case."""
        return await self._database.read(accounts.find_user_ignoring_case, user_id) is not None

    async def register(self, account: NewAccount) -> Session | None:
        """Make an account and log its owner in, if a device is given; all of it or nothing.

        Raises: UserInUse, InvalidParam, WeakPassword.
        """
        password_hash = None
        if account.password is not None:
            self._passwords.check_new(account.password)
            password_hash = await self._passwords.hash(account.password)
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
        name = account.display_name
        if name is None and not account.is_guest:
            name = account.user_id[1 : account.user_id.index(":")]
        try:
            await self._database.write(_write_account, record, name, opening, account.proof)
        except UniqueViolation as error:
            raise UserInUse("This user name is taken") from error
        if name is not None:
            self._profiles.announce(account.user_id)
        if opening is None:
            return None
        await self._sessions.opened(opening.session, True, [])
        return opening.session

    async def register_guest(self, device: DeviceWish) -> Session:
        """Make a guest.

        Raises: Forbidden, when guests are not let in.
        """
        if not self._guests_allowed:
            raise Forbidden("Guest access is disabled")
        number = await self._database.write(accounts.next_guest_number)
        user_id = UserID(f"@{number}:{self._server_name}")
        guest = NewAccount(user_id=user_id, is_guest=True, device=device)
        session = await self.register(guest)
        assert session is not None
        return session


async def _write_account(
    tx: Tx,
    record: UserRecord,
    display_name: str | None,
    opening: Opening | None,
    proof: Proof | None,
) -> None:
    await accounts.insert_user(tx, record)
    if display_name is not None:
        await profiles.put(tx, record.user_id, "displayname", display_name)
    if opening is not None:
        await write_opening(tx, opening)
    if proof is not None:
        if proof.registration_token is not None:
            await accounts.use_registration_token(tx, proof.registration_token)
        if proof.session_id is not None:
            await uia.delete(tx, proof.session_id)
