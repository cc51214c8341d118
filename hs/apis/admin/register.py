"""Registration with the shared secret, used by administrators' tools."""

from typing import Any

import attrs

from hs.apis.client.accounts.register import session_response
from hs.apis.web.auth import NONE
from hs.apis.web.request import body
from hs.apis.web.route import route
from hs.core.errors import InvalidUsername
from hs.services.accounts.registration.registration import NewAccount, Registration
from hs.services.accounts.registration.shared_secret_registration import (
    SharedSecretRegistration,
    SharedSecretRequest,
)
from hs.services.accounts.sessions.sessions import RequestedDevice

PATH = "/_synapse/admin/v1/register"
MAX_NAME_CHARS = 512


@attrs.frozen
class AdminRegisterRequest:
    """POST /_synapse/admin/v1/register; `mac` proves knowledge of the shared secret."""

    nonce: str = body()
    username: str = body()
    password: str = body()
    mac: str = body()
    admin: bool = body(default=False)
    user_type: str | None = body(default=None)
    displayname: str | None = body(default=None)
    inhibit_login: bool = body(default=False)


@attrs.frozen
class AdminRegisterApi:
    """Endpoints of registration with the shared secret."""

    secret: SharedSecretRegistration
    registration: Registration

    @route("GET", PATH, auth=NONE)
    async def get_nonce(self) -> dict[str, str]:
        """Return a nonce, which is valid for one registration within a minute."""
        return {"nonce": self.secret.new_nonce()}

    @route("POST", PATH, auth=NONE)
    async def register(self, request: AdminRegisterRequest) -> dict[str, Any]:
        """Register an account for a caller that knows the secret."""
        if len(request.username) > MAX_NAME_CHARS:
            raise InvalidUsername(f"username must not be longer than {MAX_NAME_CHARS} characters")
        signed_request = SharedSecretRequest(
            nonce=request.nonce,
            username=request.username,
            password=request.password,
            is_admin=request.admin,
            user_type=request.user_type,
            mac=request.mac,
        )
        await self.secret.check(signed_request)
        user_id = await self.registration.check_any_name(request.username)
        account = NewAccount(
            user_id=user_id,
            password=request.password,
            is_admin=request.admin,
            user_type=request.user_type,
            display_name=request.displayname,
            device=None if request.inhibit_login else RequestedDevice(),
        )
        return session_response(user_id, await self.registration.register(account))
