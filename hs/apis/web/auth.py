"""Authentication: from an access token to a requester, from a signed request to its origin."""

import enum
from typing import Protocol

from hs.apis.web.http_request import HttpRequest, access_token_of
from hs.core.errors import Forbidden, GuestForbidden, MissingToken, Unauthorized, UserLocked
from hs.core.ids import ServerName
from hs.core.requester import Requester
from hs.core.signing.requests import SignedRequest
from hs.lib.client_sources import source_of
from hs.lib.fairness.turns import Turns


class Auth(enum.Enum):
    """The authentication that an endpoint requires."""

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
        """Return the requester if it is cached, else None."""
        ...

    async def requester_for(self, token: str, client_ip: str, user_agent: str) -> Requester:
        """Return the requester. Raises: UnknownToken."""
        ...

    async def acting_as(
        self, requester: Requester, user_id: str | None, device_id: str | None
    ) -> Requester:
        """Return the user that an application service acts as. Raises: Forbidden, Exclusive.

        Spec: application service API, Identity assertion.
        """
        ...

    def note_use(self, requester: Requester, client_ip: str, user_agent: str) -> None:
        """Record that an application service uses a device, if this is configured."""
        ...


class OriginAuthenticator(Protocol):
    """Checks the signatures of requests from other servers."""

    async def origin_of(self, request: SignedRequest) -> ServerName:
        """Return the server that signed the request.

        Raises: Unauthorized, Forbidden, InvalidParam, NotJson, BadJson.
        """
        ...


class NoFederation:
    """The OriginAuthenticator of a server without federation: rejects every request."""

    async def origin_of(self, request: SignedRequest) -> ServerName:
        """Raise Unauthorized."""
        raise Unauthorized("Federation is disabled on this server")


async def authenticate(
    authenticator: Authenticator,
    turns: Turns[str],
    http_request: HttpRequest,
    auth: Auth,
    allow_locked: bool,
) -> None:
    """Set the requester of a client's request, and check it against the endpoint's requirements.

    The request takes a turn of its user, or of its address if the token is not cached.

    Raises: MissingToken, UnknownToken, GuestForbidden, UserLocked, Forbidden.
    """
    token = access_token_of(http_request)
    client_ip, user_agent = http_request.client_ip, http_request.header(b"user-agent") or ""
    requester = None
    if token is not None:
        requester = authenticator.authenticate_nowait(token, client_ip, user_agent)
    key = source_of(client_ip) if requester is None else requester.user_id
    if not turns.take_nowait(key):
        await turns.wait(key)
        if token is not None:  # It may have been revoked meanwhile.
            requester = authenticator.authenticate_nowait(token, client_ip, user_agent)
    if token is None:
        if auth is Auth.OPTIONAL:
            return
        raise MissingToken("Missing access token")
    if requester is None:
        requester = await authenticator.requester_for(token, client_ip, user_agent)
    if requester.appservice_id is not None and http_request.query_string:
        requester = await _with_asserted_identity(authenticator, http_request, requester)
        authenticator.note_use(requester, client_ip, user_agent)
    if requester.is_guest and auth in (Auth.USER, Auth.ADMIN):
        raise GuestForbidden("Guest access is not allowed for this request")
    if requester.locked and not allow_locked:
        raise UserLocked("This account is locked", soft_logout=True)
    if auth is Auth.ADMIN and not requester.is_admin:
        raise Forbidden("You are not a server admin")
    http_request.requester = requester


async def _with_asserted_identity(
    authenticator: Authenticator, http_request: HttpRequest, requester: Requester
) -> Requester:
    user_id = http_request.query_value("user_id")
    device_id = http_request.query_value("device_id")
    device_id = device_id or http_request.query_value("org.matrix.msc3202.device_id")
    if user_id is None and device_id is None:
        return requester
    return await authenticator.acting_as(requester, user_id, device_id)


async def authenticate_origin(
    authenticator: OriginAuthenticator, http_request: HttpRequest
) -> None:
    """Set the origin of a federation request, whose body has been read.

    Raises: Unauthorized, Forbidden, NotJson, BadJson.
    """
    uri = http_request.raw_path
    if http_request.query_string:
        uri = f"{uri}?{http_request.query_string.decode('latin-1')}"
    authorization = tuple(http_request.header_values(b"authorization"))
    request = SignedRequest(http_request.method, uri, authorization, http_request.body)
    http_request.origin = await authenticator.origin_of(request)
