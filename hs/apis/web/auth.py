"""Who asks: from an access token or a signed request to a Requester or an origin."""

import enum
from typing import Any, Protocol

import attrs

from hs.apis.web.http_request import Call, token_of
from hs.core.errors import Forbidden, GuestForbidden, MissingToken, Unauthorized, UserLocked
from hs.core.ids import ServerName
from hs.core.requester import Requester


class Auth(enum.Enum):
    """What an endpoint asks of its caller."""

    NONE = "none"
    OPTIONAL = "optional"
    USER = "user"
    USER_OR_GUEST = "user or guest"
    ADMIN = "admin"
    FEDERATION = "federation"


NONE = Auth.NONE
OPTIONAL = Auth.OPTIONAL
USER = Auth.USER
USER_OR_GUEST = Auth.USER_OR_GUEST
ADMIN = Auth.ADMIN
FEDERATION = Auth.FEDERATION


class Authenticator(Protocol):
    """Turns access tokens into requesters."""

    def authenticate_nowait(self, token: str, client_ip: str, user_agent: str) -> Requester | None:
        """Give the requester if it is known without asking anybody; None means ask."""
        ...

    async def requester_for(self, token: str, client_ip: str, user_agent: str) -> Requester:
        """Give the requester. Raises: UnknownToken."""
        ...

    async def acting_as(
        self, requester: Requester, user_id: str | None, device_id: str | None
    ) -> Requester:
        """Give the user an application service speaks for. Raises: Forbidden, Exclusive.

        Spec: application service API, Identity assertion.
        """
        ...

    def note_use(self, requester: Requester, client_ip: str, user_agent: str) -> None:
        """Note that an application service uses a device, if that is wanted."""
        ...


@attrs.frozen
class SignedRequest:
    """What another server signed.

    Spec: server-server API, Request Authentication.
    """

    method: str
    uri: str
    authorization: tuple[str, ...]
    content: Any | None


class OriginAuthenticator(Protocol):
    """Checks the signatures of other servers' requests."""

    async def origin_of(self, request: SignedRequest) -> ServerName:
        """Give the server that signed the request. Raises: Unauthorized, Forbidden."""
        ...


class NoOrigins:
    """The answer of a server without federation: nobody is let in."""

    async def origin_of(self, request: SignedRequest) -> ServerName:
        """Refuse."""
        raise Unauthorized("This server takes no requests from other servers")


async def authenticate(
    authenticator: Authenticator, call: Call, auth: Auth, locked_may: bool
) -> None:
    """Find the requester of a client's call and check it against what the endpoint asks.

    Raises: MissingToken, UnknownToken, GuestForbidden, UserLocked, Forbidden.
    """
    token = token_of(call)
    if token is None:
        if auth is Auth.OPTIONAL:
            return
        raise MissingToken("Missing access token")
    user_agent = call.header(b"user-agent") or ""
    requester = authenticator.authenticate_nowait(token, call.client_ip, user_agent)
    if requester is None:
        requester = await authenticator.requester_for(token, call.client_ip, user_agent)
    if requester.appservice_id is not None and call.query_string:
        requester = await _asserted(authenticator, call, requester)
        authenticator.note_use(requester, call.client_ip, user_agent)
    if requester.is_guest and auth in (Auth.USER, Auth.ADMIN):
        raise GuestForbidden("Guests may not do this")
    if requester.locked and not locked_may:
        raise UserLocked("This account is locked", soft_logout=True)
    if auth is Auth.ADMIN and not requester.is_admin:
        raise Forbidden("You are not a server admin")
    call.requester = requester


async def _asserted(authenticator: Authenticator, call: Call, requester: Requester) -> Requester:
    user_id = call.query_value("user_id")
    device_id = call.query_value("device_id") or call.query_value("org.matrix.msc3202.device_id")
    if user_id is None and device_id is None:
        return requester
    return await authenticator.acting_as(requester, user_id, device_id)


async def authenticate_origin(
    authenticator: OriginAuthenticator, call: Call, content: Any | None
) -> None:
    """Find the server that signed a federation call. Raises: Unauthorized, Forbidden."""
    uri = call.target
    if call.query_string:
        uri = f"{uri}?{call.query_string.decode('latin-1')}"
    request = SignedRequest(call.method, uri, tuple(call.header_values(b"authorization")), content)
    call.origin = await authenticator.origin_of(request)
