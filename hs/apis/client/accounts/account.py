"""The requester's account: whoami, password changes and resets, deactivation."""

from typing import Any

import attrs

from hs.apis.web.auth import OPTIONAL, USER_OR_GUEST
from hs.apis.web.render import Empty
from hs.apis.web.request import body, remote_address
from hs.apis.web.route import route
from hs.core.canonical_json import JsonObject
from hs.core.errors import Forbidden, GuestForbidden, MissingParam, MissingToken
from hs.core.requester import Requester
from hs.services.accounts.lifecycle.account_lifecycle import AccountLifecycle
from hs.services.accounts.lifecycle.password_reset import PasswordReset
from hs.services.accounts.limits.rate_limits import RequestRateLimits
from hs.services.accounts.sessions.interactive_auth import InteractiveAuth


@attrs.frozen
class WhoamiRequest:
    """GET /account/whoami."""

    requester: Requester


@attrs.frozen
class ChangePasswordRequest:
    """POST /account/password."""

    requester: Requester | None
    auth: JsonObject | None = body(default=None)
    new_password: str | None = body(default=None)
    logout_devices: bool = body(default=True)
    client_ip: str = remote_address()


@attrs.frozen
class DeactivateAccountRequest:
    """POST /account/deactivate."""

    requester: Requester | None
    auth: JsonObject | None = body(default=None)
    erase: bool = body(default=False)
    id_server: str | None = body(default=None)


@attrs.frozen
class AccountApi:
    """Endpoints of the requester's account."""

    lifecycle: AccountLifecycle
    interactive: InteractiveAuth
    password_reset: PasswordReset
    rates: RequestRateLimits

    @route("GET", "/_matrix/client/v3/account/whoami", auth=USER_OR_GUEST)
    async def whoami(self, request: WhoamiRequest) -> dict[str, Any]:
        """Spec: client-server API, Current account information."""
        requester = request.requester
        response: dict[str, Any] = {"user_id": requester.user_id, "is_guest": requester.is_guest}
        if requester.device_id is not None:
            response["device_id"] = requester.device_id
        return response

    @route("POST", "/_matrix/client/v3/account/password", auth=OPTIONAL)
    async def change_password(self, request: ChangePasswordRequest) -> Empty:
        """Spec: client-server API, Password management."""
        if not self.lifecycle.may_change_password:
            raise Forbidden("Changing passwords is disabled on this server")
        if request.new_password is not None:
            self.lifecycle.check_new_password(request.new_password)
        if request.requester is None:
            return await self._reset_password(request)
        requester = _require_user(request.requester)
        proof = await self.interactive.prove(
            "password", request.auth, self.lifecycle.flows(), requester
        )
        if request.new_password is None:
            raise MissingParam("Missing new_password")
        await self.lifecycle.change_password(
            requester, request.new_password, logout_devices=request.logout_devices
        )
        await self.interactive.finish(proof)
        return Empty()

    @route("POST", "/_matrix/client/v3/account/deactivate", auth=OPTIONAL)
    async def deactivate_account(self, request: DeactivateAccountRequest) -> dict[str, str]:
        """Spec: client-server API, Account deactivation."""
        requester = _require_user(request.requester)
        if requester.appservice_id is None:
            proof = await self.interactive.prove(
                "deactivate", request.auth, self.lifecycle.flows(), requester
            )
            await self.interactive.finish(proof)
        is_unbound = await self.lifecycle.deactivate(requester.user_id, erase=request.erase)
        return {"id_server_unbind_result": "success" if is_unbound else "no-support"}

    async def _reset_password(self, request: ChangePasswordRequest) -> Empty:
        """Set a new password for an account whose e-mail address or number was validated.

        Raises: LimitExceeded, AuthenticationNeeded, MissingParam, MissingToken.
        """
        flows = self.password_reset.flows()
        if not flows:
            raise MissingToken("Missing access token")
        self.rates.check("uia_without_token", None, request.client_ip)
        proof = await self.interactive.prove(
            "password", request.auth, flows, client_ip=request.client_ip
        )
        if request.new_password is None:
            raise MissingParam("Missing new_password")
        await self.password_reset.reset(
            proof, request.new_password, logout_devices=request.logout_devices
        )
        await self.interactive.finish(proof)
        return Empty()


def _require_user(requester: Requester | None) -> Requester:
    """Return the requester. Raises: MissingToken, GuestForbidden."""
    if requester is None:
        raise MissingToken("Missing access token")
    if requester.is_guest:
        raise GuestForbidden("Guest access is not allowed for this request")
    return requester
