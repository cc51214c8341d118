"""Logging in, refreshing, and tokens to log another device in."""

from collections.abc import Mapping
from typing import Any

import attrs

from hs.apis.client.accounts.register import Rates, rendered_session
from hs.apis.web.auth import NONE
from hs.apis.web.request import body, peer, whole_body
from hs.apis.web.request import token as sent_token
from hs.apis.web.route import route
from hs.core.canonical_json import JsonObject
from hs.core.errors import Unrecognized
from hs.core.requester import Requester
from hs.services.accounts.lifecycle.account_lifecycle import Lifecycle
from hs.services.accounts.login.login import Login
from hs.services.accounts.sessions.interactive_auth import InteractiveAuth
from hs.services.accounts.sessions.sessions import DeviceWish, Sessions


@attrs.frozen
class LoginRequest:
    """Body of `/login`; what proves who it is depends on the type and is read by the service."""

    device_id: str | None = body(default=None)
    initial_device_display_name: str | None = body(default=None)
    refresh_token: bool = body(default=False)
    # These are read from the whole body below; here they are only checked for what text may hold.
    type: str = body()
    user: str | None = body(default=None)
    password: str | None = body(default=None)
    token: str | None = body(default=None)
    identifier: JsonObject | None = body(default=None)
    whole: JsonObject = whole_body()
    access_token: str | None = sent_token()
    client_ip: str = peer()


@attrs.frozen
class RefreshRequest:
    """Body of `/refresh`."""

    refresh_token: str = body()


@attrs.frozen
class LoginTokenRequest:
    """Body of `/login/get_token`."""

    requester: Requester
    auth: JsonObject | None = body(default=None)


@attrs.frozen
class LoginApi:
    """`/login` and `/refresh`; `well_known` is what clients should know of the server."""

    login: Login
    sessions: Sessions
    lifecycle: Lifecycle
    interactive: InteractiveAuth
    rates: Rates
    well_known: Mapping[str, Any] | None

    @route("GET", "/_matrix/client/v3/login", auth=NONE)
    async def flows(self) -> dict[str, Any]:
        """Spec: client-server API, Login."""
        return {"flows": self.login.flows()}

    @route("POST", "/_matrix/client/v3/login", auth=NONE)
    async def log_in(self, request: LoginRequest) -> dict[str, Any]:
        """Spec: client-server API, Login."""
        # Application services log many users in, all from one address.
        service = self.login.service_asking(request.type, request.access_token)
        self.rates.check("login", service, request.client_ip)
        wish = DeviceWish(
            device_id=request.device_id or None,
            display_name=request.initial_device_display_name,
            wants_refresh=request.refresh_token,
        )
        session = await self.login.log_in(request.whole, request.access_token, wish)
        answer = rendered_session(session.user_id, session)
        return answer if self.well_known is None else {**answer, "well_known": self.well_known}

    @route("POST", "/_matrix/client/v3/refresh", auth=NONE, also=["/_matrix/client/v1/refresh"])
    async def refresh(self, request: RefreshRequest) -> dict[str, Any]:
        """Spec: client-server API, Refreshing access tokens."""
        session = await self.sessions.refresh(request.refresh_token)
        answer = rendered_session(session.user_id, session)
        kept = ("access_token", "refresh_token", "expires_in_ms")
        return {name: answer[name] for name in kept if name in answer}

    @route("POST", "/_matrix/client/v1/login/get_token", rate="login")
    async def make_token(self, request: LoginTokenRequest) -> dict[str, Any]:
        """Spec: client-server API, Token-based login."""
        if not self.login.issues_tokens:
            raise Unrecognized("This server gives no login tokens")
        if self.login.asks_before_tokens:
            proof = await self.interactive.prove(
                "get_token", request.auth, self.lifecycle.flows(), request.requester, always=True
            )
            await self.interactive.finish(proof)
        login_token = await self.login.make_token(request.requester.user_id)
        return {"login_token": login_token, "expires_in_ms": self.login.token_lifetime_ms}
