"""Password checks with limits on guessing, and the UIA stages for passwords and tokens."""

import logging
from collections.abc import Awaitable, Callable

import attrs

from hs.core.canonical_json import JsonObject
from hs.core.errors import BadJson, Forbidden, LimitExceeded, MissingParam, UserDeactivated
from hs.core.ids import UserID
from hs.lib.clock import Clock
from hs.services.accounts.limits.rate_limits import LoginLimits, RequestRateLimits
from hs.services.accounts.sessions.interactive_auth import (
    SESSION_LIFETIME_MS,
    AuthenticatedAsOtherUser,
    StageAttempt,
)
from hs.services.accounts.sessions.passwords import Passwords
from hs.services.accounts.threepids.login_identifiers import IdentifiedUser, LoginIdentifiers
from hs.settings.sections.accounts import PasswordSettings
from hs.storage.accounts import uia_sessions, users
from hs.storage.accounts.users import UserRecord
from hs.storage.database import Database, Tx

Compare = Callable[[str, str | None], Awaitable[bool]]  # a password with a hash

log = logging.getLogger(__name__)


@attrs.define(eq=False)
class PasswordCheck:
    """The check of user identifiers with passwords."""

    _database: Database
    _passwords: Passwords
    _limits: LoginLimits
    _settings: PasswordSettings
    _identifiers: LoginIdentifiers

    async def user_with_password(self, body: JsonObject) -> UserRecord:
        """Return the user with the identifier and password in a log-in request.

        Raises: Forbidden, UserDeactivated, LimitExceeded, MissingParam, BadJson, Unknown.
        """
        password = _password_in(body)
        identified = await self._identifiers.resolve(body)
        return await self._user_with_password(identified, password, self._passwords.matches)

    async def confirm(self, body: JsonObject, requester: UserID) -> None:
        """Check the password with which a user confirms an operation.

        Passwords of other users are not even compared: nobody can guess them here, or use up their
        failed attempts. Raises: AuthenticatedAsOtherUser, and as `user_with_password`.
        """
        password = _password_in(body)
        identified = await self._identifiers.resolve(body)
        if identified.user_id is None or identified.user_id.lower() != requester.lower():
            raise AuthenticatedAsOtherUser("The password must be the password of your own account")
        self._limits.confirm(requester)
        await self._user_with_password(identified, password, self._passwords.confirms)

    async def _user_with_password(
        self, identified: IdentifiedUser, password: str, compare: Compare
    ) -> UserRecord:
        if not self._settings.localdb_enabled:
            raise Forbidden("This server has no local passwords")
        with self._limits.attempt(identified.spelling):
            user = await self._active_user(identified.user_id)
            password_hash = None if user is None else user.password_hash
            if not await compare(password, password_hash) or user is None:
                self._limits.count_failure(identified.spelling)
                raise Forbidden("Invalid username or password")
        if password_hash is not None and self._passwords.needs_rehash(password_hash):
            await self._rehash(user, password, password_hash)
        return user

    async def _active_user(self, user_id: UserID | None) -> UserRecord | None:
        user = None
        if user_id is not None:
            user = await self._database.read(users.find_user_ignoring_case, user_id)
        if user is not None and user.is_deactivated:
            raise UserDeactivated("This account has been deactivated")
        return user

    async def _rehash(self, user: UserRecord, password: str, password_hash: str) -> None:
        try:
            new_hash = await self._passwords.hash(password)
        except LimitExceeded:
            log.info("too many passwords to hash, leaving that of %s as it is", user.user_id)
            return
        await self._database.write(users.rehash_password, user.user_id, password_hash, new_hash)


def _password_in(body: JsonObject) -> str:
    password = body.get("password")
    if password is None:
        raise MissingParam("Missing password")
    if not isinstance(password, str):
        raise BadJson("'password' must be a string")
    return password


@attrs.frozen(eq=False)
class PasswordStage:
    """The stage `m.login.password`."""

    _credentials: PasswordCheck

    async def check(self, attempt: StageAttempt) -> None:
        """Accept the password of the requester, whose identifier may be omitted.

        Raises: Forbidden, and as `confirm`.
        """
        if attempt.user_id is None:
            raise Forbidden("There is no account whose password could be checked")
        body = dict(attempt.auth)
        if body.get("identifier") is None and body.get("user") is None:
            body["user"] = attempt.user_id
        await self._credentials.confirm(body, attempt.user_id)


@attrs.frozen(eq=False)
class RegistrationTokenStage:
    """The stage `m.login.registration_token`."""

    _database: Database
    _clock: Clock
    _rates: RequestRateLimits

    async def check(self, attempt: StageAttempt) -> None:
        """Accept a token that has a use left, and reserve that use for the session.

        Raises: Forbidden, MissingParam, BadJson, LimitExceeded.
        """
        # Otherwise tokens could be guessed here, although the check of their validity is limited.
        self._rates.check("registration_token_validity", None, attempt.client_ip)
        token = attempt.auth.get("token")
        if token is None:
            raise MissingParam("Missing token")
        if not isinstance(token, str):
            raise BadJson("'token' must be a string")
        now_ms = self._clock.now_ms()
        is_valid = "\0" not in token and await self._database.write(
            _hold_token, token, now_ms, attempt.session_id
        )
        if not is_valid:
            raise Forbidden("The registration token is invalid")

    async def is_valid(self, token: str) -> bool:
        """Return whether the token would be accepted now."""
        now_ms = self._clock.now_ms()
        return await self._database.read(
            users.registration_token_is_valid, token, now_ms, "", now_ms - SESSION_LIFETIME_MS
        )


async def _hold_token(tx: Tx, token: str, now_ms: int, session_id: str) -> bool:
    since_ms = now_ms - SESSION_LIFETIME_MS
    # Without the lock, two concurrent sessions could both take the last use.
    await users.lock_registration_token(tx, token)
    is_valid = await users.registration_token_is_valid(tx, token, now_ms, session_id, since_ms)
    if is_valid:
        await uia_sessions.reserve_registration_token(tx, session_id, token)
    return is_valid
