"""Login, refreshing access tokens, and login tokens for other devices."""

from collections.abc import Mapping
from typing import Any

import attrs

from hs.apis.client.accounts.register import session_response
from hs.apis.web.auth import NONE
from hs.apis.web.request import body, remote_address, whole_body
from hs.apis.web.request import token as token_field
from hs.apis.web.route import route
from hs.core.canonical_json import JsonObject
from hs.core.errors import Unrecognized
from hs.core.requester import Requester
from hs.services.accounts.lifecycle.account_lifecycle import AccountLifecycle
from hs.services.accounts.limits.rate_limits import RequestRateLimits
from hs.services.accounts.login.login import Login
from hs.services.accounts.sessions.interactive_auth import InteractiveAuth
from hs.services.accounts.sessions.sessions import RequestedDevice, Sessions


@attrs.frozen
class LoginRequest:
    """POST /login.

    The credentials depend on the login type; the service reads them from `full_body`.
    """

    device_id: str | None = body(default=None)
    initial_device_display_name: str | None = body(default=None)
    refresh_token: bool = body(default=False)
    # Declared only so that NUL characters in them are rejected; they are read from `full_body`.
    type: str = body()
    user: str | None = body(default=None)
    password: str | None = body(default=None)
    token: str | None = body(default=None)
    identifier: JsonObject | None = body(default=None)
    full_body: JsonObject = whole_body()
    access_token: str | None = token_field()
    client_ip: str = remote_address()


@attrs.frozen
class RefreshRequest:
    """POST /refresh."""

    refresh_token: str = body()


@attrs.frozen
class GenerateLoginTokenRequest:
    """POST /login/get_token."""

    requester: Requester
    auth: JsonObject | None = body(default=None)


@attrs.frozen
class LoginApi:
    """Endpoints of login; `well_known` is the discovery information in the response."""

    login: Login
    sessions: Sessions
    lifecycle: AccountLifecycle
    interactive: InteractiveAuth
    rates: RequestRateLimits
    well_known: Mapping[str, Any] | None

    @route("GET", "/_matrix/client/v3/login", auth=NONE)
    async def get_login_flows(self) -> dict[str, Any]:
        """Spec: client-server API, Login."""
        return {"flows": self.login.flows()}

    @route("POST", "/_matrix/client/v3/login", auth=NONE)
    async def log_in(self, request: LoginRequest) -> dict[str, Any]:
        """Spec: client-server API, Login."""
        # Application services log many users in from one address, so their limit is not by address.
        service = self.login.appservice_requester(request.type, request.access_token)
        self.rates.check("login", service, request.client_ip)
        device = RequestedDevice(
            device_id=request.device_id or None,
            display_name=request.initial_device_display_name,
            wants_refresh=request.refresh_token,
        )
        session = await self.login.log_in(request.full_body, request.access_token, device)
        response = session_response(session.user_id, session)
        return response if self.well_known is None else {**response, "well_known": self.well_known}

    @route(
        "POST", "/_matrix/client/v3/refresh", auth=NONE, extra_paths=["/_matrix/client/v1/refresh"]
    )
    async def refresh(self, request: RefreshRequest) -> dict[str, Any]:
        """Spec: client-server API, Refreshing access tokens."""
        session = await self.sessions.refresh(request.refresh_token)
        response = session_response(session.user_id, session)
        keys = ("access_token", "refresh_token", "expires_in_ms")
        return {key: response[key] for key in keys if key in response}

    @route("POST", "/_matrix/client/v1/login/get_token", rate="login")
    async def generate_login_token(self, request: GenerateLoginTokenRequest) -> dict[str, Any]:
        """Spec: client-server API, Token-based login."""
        if not self.login.issues_tokens:
            raise Unrecognized("Login tokens are disabled on this server")
        if self.login.requires_uia_for_tokens:
            proof = await self.interactive.prove(
                "get_token", request.auth, self.lifecycle.flows(), request.requester, always=True
            )
            await self.interactive.finish(proof)
        login_token = await self.login.make_token(request.requester.user_id)
        return {"login_token": login_token, "expires_in_ms": self.login.token_lifetime_ms}
