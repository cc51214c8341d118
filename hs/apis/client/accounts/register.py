"""Registering, and asking whether one may."""

from typing import Any, Literal, Protocol

import attrs

from hs.apis.web.auth import NONE
from hs.apis.web.request import peer, query, read_body, token, whole_body
from hs.apis.web.route import route
from hs.core.canonical_json import JsonObject
from hs.core.errors import InvalidUsername, MissingParam, MissingToken, UnknownToken
from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.services.accounts.limits.appservice_users import Appservices
from hs.services.accounts.login.password_check import RegistrationTokenStage
from hs.services.accounts.registration.registration import NewAccount, Registration
from hs.services.accounts.registration.registration_flow import Wish, register
from hs.services.accounts.sessions.interactive_auth import InteractiveAuth
from hs.services.accounts.sessions.sessions import DeviceWish, Session

APPSERVICE = "m.login.application_service"
MAX_NAME_CHARS = 512


class Rates(Protocol):
    """Counts requests."""

    def check(self, rate: str, requester: Requester | None, client_ip: str) -> None:
        """Count one. Raises: LimitExceeded."""
        ...


@attrs.frozen
class RegisterRequest:
    """A request to `/register`; whose body it is depends on the kind."""

    kind: Literal["user", "guest"] = query(default="user")
    content: JsonObject = whole_body(factory=dict)
    access_token: str | None = token()
    client_ip: str = peer()


@attrs.frozen
class GuestBody:
    """What is read of a guest's body; all else in it is ignored."""

    initial_device_display_name: str | None = None


@attrs.frozen
class AccountBody:
    """The body of a user, or of an application service for one."""

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
    def wish(self) -> Wish:
        return Wish(
            username=None if self.username is None else _short(self.username),
            password=self.password,
            device_id=self.device_id,
            device_name=self.initial_device_display_name,
            inhibit_login=self.inhibit_login,
            wants_refresh=self.refresh_token,
        )


@attrs.frozen
class AvailableRequest:
    """Query of `/register/available`."""

    username: str = query()


@attrs.frozen
class TokenValidityRequest:
    """Query of the check of registration tokens."""

    token: str = query()


@attrs.frozen
class RegisterApi:
    """`/register` and what belongs to it."""

    registration: Registration
    interactive: InteractiveAuth
    tokens: RegistrationTokenStage
    appservices: Appservices
    rates: Rates

    @route("POST", "/_matrix/client/v3/register", auth=NONE, also=["/_matrix/client/v1/register"])
    async def register(self, request: RegisterRequest) -> dict[str, Any]:
        """Spec: client-server API, Account registration."""
        if request.kind == "guest":
            return await self._register_guest(request)
        account = read_body(AccountBody, request.content)
        if account.type == APPSERVICE:
            return await self._register_for_service(account, request.access_token)
        wish = account.wish
        if account.guest_access_token is not None:
            guest = await self.registration.guest_with(
                account.guest_access_token, wish.username or ""
            )
            wish = attrs.evolve(wish, guest=guest)

        def count() -> None:
            self.rates.check("registration", None, request.client_ip)

        user_id, session = await register(
            self.registration, self.interactive, wish, account.auth, count, request.client_ip
        )
        return rendered_session(user_id, session)

    @route(
        "GET",
        "/_matrix/client/v3/register/available",
        auth=NONE,
        rate="username_availability",
    )
    async def available(self, request: AvailableRequest) -> dict[str, bool]:
        """Spec: client-server API, Account registration."""
        self.registration.requirements.check_is_open()
        await self.registration.check_name(_short(request.username))
        return {"available": True}

    @route(
        "GET",
        "/_matrix/client/v1/register/m.login.registration_token/validity",
        auth=NONE,
        rate="registration_token_validity",
    )
    async def token_validity(self, request: TokenValidityRequest) -> dict[str, bool]:
        """Spec: client-server API, Token-authenticated registration."""
        self.registration.requirements.check_is_open()
        return {"valid": await self.tokens.is_good(request.token)}

    async def _register_guest(self, request: RegisterRequest) -> dict[str, Any]:
        self.rates.check("registration", None, request.client_ip)
        guest = read_body(GuestBody, request.content)
        device = DeviceWish(display_name=guest.initial_device_display_name)
        session = await self.registration.register_guest(device)
        return rendered_session(session.user_id, session)

    async def _register_for_service(
        self, account: AccountBody, access_token: str | None
    ) -> dict[str, Any]:
        if access_token is None:
            raise MissingToken("Missing access token")
        requester = self.appservices.requester_of(access_token)
        if requester is None or requester.appservice_id is None:
            raise UnknownToken("Not the token of an application service", soft_logout=False)
        if account.username is None:
            raise MissingParam("Missing username")
        user_id = self.registration.check_appservice_name(
            _short(account.username), requester.appservice_id
        )
        made = NewAccount(
            user_id=user_id, appservice_id=requester.appservice_id, device=account.wish.device
        )
        return rendered_session(user_id, await self.registration.register(made))


def rendered_session(user_id: UserID, session: Session | None) -> dict[str, Any]:
    """Write what somebody gets who registered or logged in."""
    answer: dict[str, Any] = {
        "user_id": user_id,
        "home_server": user_id[user_id.index(":") + 1 :],
    }
    if session is None:
        return answer
    answer["access_token"] = session.access_token
    answer["device_id"] = session.device_id
    if session.refresh_token is not None:
        answer["refresh_token"] = session.refresh_token
    if session.expires_in_ms is not None:
        answer["expires_in_ms"] = session.expires_in_ms
    return answer


def _short(username: str) -> str:
    if len(username) > MAX_NAME_CHARS:
        raise InvalidUsername("The user name is too long")
    return username
