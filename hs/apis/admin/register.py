"""Registration with the shared secret, as administrators' tools do it."""

from typing import Any

import attrs

from hs.apis.client.accounts.register import rendered_session
from hs.apis.web.auth import NONE
from hs.apis.web.request import body
from hs.apis.web.route import route
from hs.core.errors import InvalidUsername
from hs.services.accounts.registration.registration import NewAccount, Registration
from hs.services.accounts.registration.shared_secret_registration import SharedSecret, SignedWish
from hs.services.accounts.sessions.sessions import DeviceWish

PATH = "/_synapse/admin/v1/register"
MAX_NAME_CHARS = 512


@attrs.frozen
class AdminRegisterRequest:
    """Body of the request."""

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
    """`/_synapse/admin/v1/register`."""

    secret: SharedSecret
    registration: Registration

    @route("GET", PATH, auth=NONE)
    async def nonce(self) -> dict[str, str]:
        """Give a nonce that serves once, within a minute."""
        return {"nonce": await self.secret.new_nonce()}

    @route("POST", PATH, auth=NONE)
    async def register(self, request: AdminRegisterRequest) -> dict[str, Any]:
        """Make an account for somebody who knows the secret."""
        if len(request.username) > MAX_NAME_CHARS:
            raise InvalidUsername("The user name is too long")
        wish = SignedWish(
            nonce=request.nonce,
            username=request.username,
            password=request.password,
            is_admin=request.admin,
            user_type=request.user_type,
            mac=request.mac,
        )
        await self.secret.check(wish)
        user_id = await self.registration.check_any_name(request.username)
        account = NewAccount(
            user_id=user_id,
            password=request.password,
            is_admin=request.admin,
            user_type=request.user_type,
            display_name=request.displayname,
            device=None if request.inhibit_login else DeviceWish(),
        )
        return rendered_session(user_id, await self.registration.register(account))
