"""Registration, and checks of user names and registration tokens."""

from typing import Any, Literal

import attrs

from hs.apis.web.auth import NONE
from hs.apis.web.request import parse_body_as, query, remote_address, token, whole_body
from hs.apis.web.route import route
from hs.core.canonical_json import JsonObject
from hs.core.errors import InvalidUsername, MissingParam, MissingToken, UnknownToken
from hs.core.ids import UserID
from hs.services.accounts.limits.appservice_users import Appservices
from hs.services.accounts.limits.rate_limits import RequestRateLimits
from hs.services.accounts.login.password_check import RegistrationTokenStage
from hs.services.accounts.registration.registration import NewAccount, Registration
from hs.services.accounts.registration.registration_flow import (
    RegistrationLimits,
    RegistrationRequest,
    register,
)
from hs.services.accounts.sessions.interactive_auth import InteractiveAuth
from hs.services.accounts.sessions.sessions import RequestedDevice, Session

APPSERVICE = "m.login.application_service"
MAX_NAME_CHARS = 512


@attrs.frozen
class RegisterRequest:
    """POST /register; the fields of the body depend on `kind`."""

    kind: Literal["user", "guest"] = query(default="user")
    content: JsonObject = whole_body(factory=dict)
    access_token: str | None = token()
    client_ip: str = remote_address()


@attrs.frozen
class GuestBody:
    """Body of the registration of a guest; other keys are ignored."""

    initial_device_display_name: str | None = None


@attrs.frozen
class AccountBody:
    """Body of the registration of a user, also by an application service."""

    auth: JsonObject | None = None
    username: str | None = None
    password: str | None = None
    device_id: str | None = None
    initial_device_display_name: str | None = None
    inhibit_login: bool | None = None
    refresh_token: bool | None = None
    guest_access_token: str | None = None
    type: str | None = None

    @property
    def requested_account(self) -> RegistrationRequest:
        """The requested account, as the service takes it."""
        return RegistrationRequest(
            username=None if self.username is None else _check_length(self.username),
            password=self.password,
            device_id=self.device_id,
            device_name=self.initial_device_display_name,
            inhibit_login=self.inhibit_login,
            wants_refresh=self.refresh_token,
        )


@attrs.frozen
class UsernameAvailabilityRequest:
    """GET /register/available."""

    username: str = query()


@attrs.frozen
class RegistrationTokenValidityRequest:
    """GET /register/m.login.registration_token/validity."""

    token: str = query()


@attrs.frozen
class RegisterApi:
    """Endpoints of registration."""

    registration: Registration
    interactive: InteractiveAuth
    tokens: RegistrationTokenStage
    appservices: Appservices
    rates: RequestRateLimits

    @route(
        "POST",
        "/_matrix/client/v3/register",
        auth=NONE,
        extra_paths=["/_matrix/client/v1/register"],
    )
    async def register(self, request: RegisterRequest) -> dict[str, Any]:
        """Spec: client-server API, Account registration."""
        if request.kind == "guest":
            return await self._register_guest(request)
        account = parse_body_as(AccountBody, request.content)
        if account.type == APPSERVICE:
            return await self._register_for_appservice(account, request.access_token)
        self.rates.check("uia_without_token", None, request.client_ip)
        requested = account.requested_account
        if account.guest_access_token is not None:
            guest = await self.registration.guest_by_token(
                account.guest_access_token, requested.username or ""
            )
            requested = attrs.evolve(requested, guest=guest)
        user_id, session = await register(
            self.registration,
            self.interactive,
            requested,
            account.auth,
            RegistrationLimits(rates=self.rates, client_ip=request.client_ip),
        )
        return session_response(user_id, session)

    @route(
        "GET",
        "/_matrix/client/v3/register/available",
        auth=NONE,
        rate="username_availability",
    )
    async def check_username_availability(
        self, request: UsernameAvailabilityRequest
    ) -> dict[str, bool]:
        """Spec: client-server API, Account registration."""
        self.registration.requirements.check_is_enabled()
        await self.registration.check_name(_check_length(request.username))
        return {"available": True}

    @route(
        "GET",
        "/_matrix/client/v1/register/m.login.registration_token/validity",
        auth=NONE,
        rate="registration_token_validity",
    )
    async def check_registration_token_validity(
        self, request: RegistrationTokenValidityRequest
    ) -> dict[str, bool]:
        """Spec: client-server API, Token-authenticated registration."""
        self.registration.requirements.check_is_enabled()
        return {"valid": await self.tokens.is_valid(request.token)}

    async def _register_guest(self, request: RegisterRequest) -> dict[str, Any]:
        self.rates.check("registration", None, request.client_ip)
        guest = parse_body_as(GuestBody, request.content)
        device = RequestedDevice(display_name=guest.initial_device_display_name)
        session = await self.registration.register_guest(device)
        return session_response(session.user_id, session)

    async def _register_for_appservice(
        self, account: AccountBody, access_token: str | None
    ) -> dict[str, Any]:
        if access_token is None:
            raise MissingToken("Missing access token")
        requester = self.appservices.requester_of(access_token)
        if requester is None or requester.appservice_id is None:
            raise UnknownToken("This is not the token of an application service", soft_logout=False)
        if account.username is None:
            raise MissingParam("Missing username")
        user_id = self.registration.check_appservice_name(
            _check_length(account.username), requester.appservice_id
        )
        new_account = NewAccount(
            user_id=user_id,
            appservice_id=requester.appservice_id,
            device=account.requested_account.device,
        )
        return session_response(user_id, await self.registration.register(new_account))


def session_response(user_id: UserID, session: Session | None) -> dict[str, Any]:
    """Return the response to a registration or login; without a session if inhibit_login."""
    response: dict[str, Any] = {
        "user_id": user_id,
        "home_server": user_id[user_id.index(":") + 1 :],
    }
    if session is None:
        return response
    response["access_token"] = session.access_token
    response["device_id"] = session.device_id
    if session.refresh_token is not None:
        response["refresh_token"] = session.refresh_token
    if session.expires_in_ms is not None:
        response["expires_in_ms"] = session.expires_in_ms
    return response


def _check_length(username: str) -> str:
    """Return the user name. Raises: InvalidUsername."""
    if len(username) > MAX_NAME_CHARS:
        raise InvalidUsername(f"username must not be longer than {MAX_NAME_CHARS} characters")
    return username
