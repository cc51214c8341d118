"""Making accounts: users with proofs, guests, and those made by application services."""

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
from hs.services.accounts.registration.registration_requirements import Requirements
from hs.services.accounts.registration.usernames import check_chosen, check_localpart
from hs.services.accounts.sessions.interactive_auth import Proof
from hs.services.accounts.sessions.passwords import Passwords
from hs.services.accounts.sessions.sessions import (
    DeviceWish,
    Opening,
    Session,
    Sessions,
    write_opening,
)
from hs.services.accounts.sessions.token_format import hash_of
from hs.services.accounts.threepids.threepids import Threepids, record_of
from hs.services.accounts.threepids.validation_stages import addresses_in, agreed_version
from hs.storage.accounts import consents, profiles, threepids, tokens, uia_sessions, users
from hs.storage.accounts.users import UserRecord
from hs.storage.database import Database, Tx, UniqueViolation

GENERATED_NAME_LENGTH = 12


@attrs.frozen(kw_only=True)
class NewAccount:
    """An account to be made, or one of a guest to be made a user's.

    `device` None: nobody is logged in.
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
    device: DeviceWish | None = None
    proof: Proof | None = None


class Newcomers(Protocol):
    """Welcomes new users."""

    async def arrived(self, user_id: UserID, *, is_guest: bool) -> None:
        """Do for a new user what there is to do; never fails."""
        ...


@attrs.define(eq=False)
class Registration:
    """Makes accounts."""

    _database: Database
    _clock: Clock
    requirements: Requirements
    _server_name: ServerName
    _guests_allowed: bool
    _passwords: Passwords
    _sessions: Sessions
    _profiles: Profiles
    _appservices: Appservices
    _threepids: Threepids
    _newcomers: Newcomers

    async def check_name(self, localpart: str) -> UserID:
        """Give the user ID for a name that somebody wants, if it is to be had.

        Raises: InvalidUsername, Exclusive, UserInUse.
        """
        user_id = check_localpart(localpart.lower(), self._server_name)
        settings = self.requirements.registration
        allow = settings.allow_underscore_prefixed_registration
        check_chosen(user_id, allow, self._appservices)
        if not settings.inhibit_user_in_use_error and await self.is_taken(user_id):
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
        return await self._database.read(users.find_user_ignoring_case, user_id) is not None

    async def register(self, account: NewAccount) -> Session | None:
        """Make an account and log its owner in, if a device is given; all of it or nothing.

        Raises: UserInUse, InvalidParam, WeakPassword, ThreepidInUse, ThreepidDenied.
        """
        for proved in () if account.proof is None else addresses_in(account.proof):
            self._threepids.check_allowed(proved.medium, proved.address, registering=True)
        password_hash = account.password_hash
        if account.password is not None:
            password_hash = await self.hashed(account.password)
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
        name = account.display_name or account.user_id[1 : account.user_id.index(":")]
        write = _upgrade_guest if account.was_guest else _write_account
        try:
            await self._database.write(write, record, name, opening, account.proof)
        except UniqueViolation as error:
            raise UserInUse("This user name is taken") from error
        self._profiles.announce(account.user_id)
        if account.was_guest:
            self._sessions.rights_changed(account.user_id)
        if opening is not None:
            await self._sessions.opened(opening.session, True, [])
        if account.appservice_id is None:
            await self._newcomers.arrived(account.user_id, is_guest=account.is_guest)
        return None if opening is None else opening.session

    async def hashed(self, password: str) -> str:
        """Give what is kept of a password. Raises: WeakPassword, InvalidParam."""
        self._passwords.check_new(password)
        return await self._passwords.hash(password)

    async def log_in_again(
        self, user_id: UserID, password: str | None, device: DeviceWish | None
    ) -> Session | None:
        """Log somebody in who has just registered, and may not have heard of it.

        Raises: Forbidden, UserLocked.
        """
        user = await self._database.read(users.find_user, user_id)
        known = None if user is None else user.password_hash
        if password is None or not await self._passwords.matches(password, known):
            raise Forbidden("The account was made with another password")
        check_may_get_tokens(is_locked=user is not None and user.is_locked)
        return None if device is None else await self._sessions.open(user_id, device)

    async def guest_with(self, access_token: str, localpart: str) -> UserID:
        """Give the guest who has a token, and wants to keep their name.

        Raises: Forbidden, if the token is no guest's or that of another name.
        """
        found = await self._database.read(tokens.find, hash_of(access_token))
        wanted = f"@{localpart}:{self._server_name}"
        if found is None or not found.is_guest or found.is_deactivated or found.user_id != wanted:
            raise Forbidden("Guests can become users under their own name only")
        return UserID(found.user_id)

    async def register_guest(self, device: DeviceWish) -> Session:
        """Make a guest.

        Raises: Forbidden, when guests are not let in.
        """
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
    opening: Opening | None,
    proof: Proof | None,
) -> None:
    await users.insert_user(tx, record)
    await profiles.put(tx, record.user_id, "displayname", display_name)
    await _write_session(tx, record, opening, proof)


async def _upgrade_guest(
    tx: Tx,
    record: UserRecord,
    display_name: str,
    opening: Opening | None,
    proof: Proof | None,
) -> None:
    # The guest keeps the name that they go by.
    if not await users.upgrade_guest(tx, record.user_id, record.password_hash):
        raise UserInUse("This user is no guest any more")
    await _write_session(tx, record, opening, proof)


async def _write_session(
    tx: Tx, record: UserRecord, opening: Opening | None, proof: Proof | None
) -> None:
    if opening is not None:
        await write_opening(tx, opening)
    if proof is not None:
        await _write_proved(tx, record, proof)
        if proof.registration_token is not None:
            await users.use_registration_token(tx, proof.registration_token)
        if proof.session_id is not None and not await uia_sessions.conclude(
            tx, proof.session_id, record.user_id
        ):
            raise UserInUse("An account was made in this session already")


async def _write_proved(tx: Tx, record: UserRecord, proof: Proof) -> None:
    for proved in addresses_in(proof):
        address = record_of(UserID(record.user_id), proved, record.created_ms)
        if not await threepids.insert(tx, address):
            raise ThreepidInUse("Another account has this address")
    version = agreed_version(proof)
    if version is not None:
        await consents.put(tx, record.user_id, version, record.created_ms)
