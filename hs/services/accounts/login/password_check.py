"""Checking passwords of accounts, with limits on guessing; and the stages that prove with them."""

import attrs

from hs.core.canonical_json import JsonObject
from hs.core.errors import BadJson, Forbidden, MissingParam, UserDeactivated
from hs.core.ids import UserID
from hs.lib.clock import Clock
from hs.services.accounts.limits.rate_limits import LoginLimits
from hs.services.accounts.sessions.interactive_auth import SESSION_LIFETIME_MS, AnotherUser, Attempt
from hs.services.accounts.sessions.passwords import Passwords
from hs.services.accounts.threepids.login_identifiers import Identifiers
from hs.settings.sections.accounts import PasswordSettings
from hs.storage.accounts import uia_sessions, users
from hs.storage.accounts.users import UserRecord
from hs.storage.database import Database, Tx


@attrs.define(eq=False)
class Credentials:
    """Knows whether a user and a password belong together."""

    _database: Database
    _passwords: Passwords
    _limits: LoginLimits
    _settings: PasswordSettings
    _identifiers: Identifiers

    async def user_with_password(self, body: JsonObject) -> UserRecord:
        """Give the user whom an identifier and a password name.

        Raises: Forbidden, UserDeactivated, LimitExceeded, MissingParam, BadJson, Unknown.
        """
        password = body.get("password")
        if password is None:
            raise MissingParam("Missing password")
        if not isinstance(password, str):
            raise BadJson("'password' must be a string")
        named = await self._identifiers.named_in(body)
        if not self._settings.localdb_enabled:
            raise Forbidden("Passwords are not kept on this server")
        self._limits.before_password(named.spelling)
        user = None
        if named.user_id is not None:
            user = await self._database.read(users.find_user_ignoring_case, named.user_id)
        if user is not None and user.is_deactivated:
            raise UserDeactivated("This account has been deactivated")
        password_hash = None if user is None else user.password_hash
        if not await self._passwords.matches(password, password_hash) or user is None:
            self._limits.wrong_password(named.spelling)
            raise Forbidden("Invalid username or password")
        if password_hash is not None and self._passwords.is_dated(password_hash):
            renewed = await self._passwords.hash(password)
            await self._database.write(users.renew_password, user.user_id, password_hash, renewed)
        return user


@attrs.frozen(eq=False)
class PasswordStage:
    """Proves that the requester knows their password."""

    _credentials: Credentials

    async def check(self, attempt: Attempt) -> None:
        """Accept the password of the requester. Raises: Forbidden, ….

        The identifier may be missing: then it is the requester's.
        """
        body = dict(attempt.auth)
        if body.get("identifier") is None and body.get("user") is None:
            body["user"] = attempt.user_id
        user = await self._credentials.user_with_password(body)
        if attempt.user_id is None or UserID(user.user_id) != attempt.user_id:
            raise AnotherUser("The password must be that of your own account")


@attrs.frozen(eq=False)
class RegistrationTokenStage:
    """Proves that somebody was given a token that lets them register."""

    _database: Database
    _clock: Clock

    async def check(self, attempt: Attempt) -> None:
        """Accept a token with a use left, which the session then holds. Raises: Forbidden, …."""
        token = attempt.auth.get("token")
        if token is None:
            raise MissingParam("Missing token")
        if not isinstance(token, str):
            raise BadJson("'token' must be a string")
        now_ms = self._clock.now_ms()
        good = "\0" not in token and await self._database.write(
            _hold_token, token, now_ms, attempt.session_id
        )
        if not good:
            raise Forbidden("The registration token is not valid")

    async def is_good(self, token: str) -> bool:
        """Tell whether a token would be accepted now."""
        now_ms = self._clock.now_ms()
        return await self._database.read(
            users.registration_token_is_good, token, now_ms, "", now_ms - SESSION_LIFETIME_MS
        )


async def _hold_token(tx: Tx, token: str, now_ms: int, session_id: str) -> bool:
    since_ms = now_ms - SESSION_LIFETIME_MS
    # Two sessions that look at the same time would both find a use that is left.
    await users.lock_registration_token(tx, token)
    good = await users.registration_token_is_good(tx, token, now_ms, session_id, since_ms)
    if good:
        await uia_sessions.hold_registration_token(tx, session_id, token)
    return good
