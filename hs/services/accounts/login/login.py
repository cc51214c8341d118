"""Login with a password, a login token, a JSON web token or as an application service.

Spec: client-server API, Login.
"""

from typing import Any

import attrs

from hs.core.canonical_json import JsonObject
from hs.core.errors import (
    BadJson,
    Exclusive,
    Forbidden,
    MissingParam,
    MissingToken,
    Unknown,
    UnknownToken,
    UserDeactivated,
)
from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.lib.clock import Clock
from hs.services.accounts.limits.account_restrictions import check_may_get_tokens
from hs.services.accounts.limits.appservice_users import Appservices
from hs.services.accounts.limits.rate_limits import LoginLimits
from hs.services.accounts.login.jwt_login import JwtLogin
from hs.services.accounts.login.password_check import PasswordCheck
from hs.services.accounts.sessions.server_blocking import check_is_open
from hs.services.accounts.sessions.sessions import RequestedDevice, Session, Sessions
from hs.services.accounts.sessions.token_format import hash_of, new_login_token
from hs.services.accounts.threepids.login_identifiers import LoginIdentifiers
from hs.settings.sections.accounts import PasswordSettings
from hs.settings.sections.login import ExistingSessionSettings
from hs.settings.sections.retention import BlockingSettings
from hs.storage.accounts import tokens, users
from hs.storage.accounts.users import UserRecord
from hs.storage.database import Database

PASSWORD = "m.login.password"
TOKEN = "m.login.token"
APPSERVICE = "m.login.application_service"
JWT = "org.matrix.login.jwt"


@attrs.define(eq=False)
class Login:
    """The login types and their checks; a successful login opens a session."""

    _database: Database
    _clock: Clock
    _settings: PasswordSettings
    _existing: ExistingSessionSettings
    _identifiers: LoginIdentifiers
    _credentials: PasswordCheck
    _limits: LoginLimits
    _sessions: Sessions
    _appservices: Appservices
    _jwt: JwtLogin | None
    _blocking: BlockingSettings

    @property
    def issues_tokens(self) -> bool:
        """Whether users can get login tokens for other devices."""
        return self._existing.enabled

    @property
    def requires_uia_for_tokens(self) -> bool:
        """Whether UIA is required to get a login token."""
        return self._existing.require_ui_auth

    @property
    def token_lifetime_ms(self) -> int:
        """Lifetime of login tokens."""
        return self._existing.token_timeout

    def flows(self) -> list[dict[str, Any]]:
        """Return the enabled login types."""
        flows: list[dict[str, Any]] = [{"type": APPSERVICE}]
        if self.issues_tokens:
            flows.insert(0, {"type": TOKEN, "get_login_token": True})
        if self._jwt is not None:
            flows.insert(0, {"type": JWT})
        if self._settings.enabled is True and self._settings.localdb_enabled:
            flows.insert(0, {"type": PASSWORD})
        return flows

    def appservice_requester(self, kind: str, token: str | None) -> Requester | None:
        """Return the application service that makes a login request; None for other requests."""
        if kind != APPSERVICE or token is None:
            return None
        return self._appservices.requester_of(token)

    async def log_in(self, body: JsonObject, token: str | None, device: RequestedDevice) -> Session:
        """Log in as requested by `body`; `token` is the access token of the request.

        Raises: Forbidden, UserDeactivated, UserLocked, LimitExceeded, Unknown, MissingParam,
        BadJson, InvalidParam, ResourceLimitExceeded.
        """
        kind = body.get("type")
        if kind is None:
            raise MissingParam("Missing 'type'")
        if kind == PASSWORD:
            if self._settings.enabled is not True:
                raise Unknown("Password login is disabled")
            user = await self._credentials.user_with_password(body)
        elif kind == TOKEN:
            user = await self._user_with_token(body)
        elif kind == APPSERVICE:
            user = await self._user_of_service(body, token)
        elif kind == JWT and self._jwt is not None:
            user = await self._active_user(await self._jwt.user_for(body))
        else:
            raise Unknown("Unknown login type")
        check_is_open(self._blocking, is_admin=user.is_admin)
        check_may_get_tokens(is_locked=user.is_locked)
        if kind != APPSERVICE:
            self._limits.log_in(user.user_id)
        return await self._sessions.open(UserID(user.user_id), device)

    async def make_token(self, user_id: UserID, lifetime_ms: int | None = None) -> str:
        """Create a login token, which is valid for one login until it expires."""
        validity_ms = self.token_lifetime_ms if lifetime_ms is None else lifetime_ms
        token = new_login_token(user_id)
        now_ms = self._clock.now_ms()
        await self._database.write(
            tokens.insert_login_token,
            hash_of(token),
            user_id,
            now_ms,
            now_ms + validity_ms,
        )
        return token

    async def _user_with_token(self, body: JsonObject) -> UserRecord:
        token = body.get("token")
        if token is None:
            raise MissingParam("Missing token")
        if not isinstance(token, str):
            raise BadJson("'token' must be a string")
        user_id = await self._database.write(
            tokens.consume_login_token, hash_of(token), self._clock.now_ms()
        )
        if user_id is None:
            raise Forbidden("The login token is invalid or has expired")
        return await self._active_user(UserID(user_id))

    async def _user_of_service(self, body: JsonObject, token: str | None) -> UserRecord:
        if token is None:
            raise MissingToken("Missing access token")
        requester = self._appservices.requester_of(token)
        if requester is None or requester.appservice_id is None:
            raise UnknownToken(
                "The access token is not one of an application service", soft_logout=False
            )
        user_id = (await self._identifiers.resolve(body)).user_id
        if user_id is None:
            raise Forbidden("No account has this third-party identifier")
        if not self._appservices.owns(requester.appservice_id, user_id):
            raise Exclusive("The user is not in the namespaces of the application service")
        return await self._active_user(user_id)

    async def _active_user(self, user_id: UserID) -> UserRecord:
        user = await self._database.read(users.find_user, user_id)
        if user is None:
            raise Forbidden("User not found")
        if user.is_deactivated:
            raise UserDeactivated("This account has been deactivated")
        return user
