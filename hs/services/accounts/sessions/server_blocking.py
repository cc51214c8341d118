"""Blocking of the whole server for everyone but administrators (`hs_disabled`)."""

import attrs

from hs.core.errors import ResourceLimitExceeded
from hs.core.requester import Requester
from hs.services.accounts.sessions.authenticator import TokenAuthenticator
from hs.settings.sections.retention import BlockingSettings


@attrs.frozen(eq=False)
class BlockingAuthenticator:
    """An authenticator that rejects all users but administrators."""

    _inner: TokenAuthenticator
    _settings: BlockingSettings

    def authenticate_nowait(self, token: str, client_ip: str, user_agent: str) -> Requester | None:
        """Return the requester if the token is cached and that of an administrator."""
        requester = self._inner.authenticate_nowait(token, client_ip, user_agent)
        return requester if requester is not None and requester.is_admin else None

    async def requester_for(self, token: str, client_ip: str, user_agent: str) -> Requester:
        """Return the requester of a token. Raises: ResourceLimitExceeded, UnknownToken."""
        return self._checked(await self._inner.requester_for(token, client_ip, user_agent))

    async def acting_as(
        self, requester: Requester, user_id: str | None, device_id: str | None
    ) -> Requester:
        """Return the requester that an application service acts as."""
        return await self._inner.acting_as(requester, user_id, device_id)

    def note_use(self, requester: Requester, client_ip: str, user_agent: str) -> None:
        """Record the use of a device by an application service, if configured."""
        self._inner.note_use(requester, client_ip, user_agent)

    def _checked(self, requester: Requester) -> Requester:
        check_is_open(self._settings, is_admin=requester.is_admin)
        return requester


def check_is_open(settings: BlockingSettings, *, is_admin: bool) -> None:
    """Reject everyone but administrators if the server is disabled. Raises: ResourceLimitExceeded.

    Spec: client-server API, Server Notices, for the contact of the administrator.
    """
    if is_admin or not settings.hs_disabled:
        return
    contact = settings.admin_contact
    extra = {} if contact is None else {"admin_contact": contact}
    raise ResourceLimitExceeded(settings.hs_disabled_message, limit_type="hs_disabled", **extra)


def with_server_blocking(
    authenticator: TokenAuthenticator, settings: BlockingSettings
) -> TokenAuthenticator | BlockingAuthenticator:
    """Return the authenticator, wrapped if the server is blocked."""
    return BlockingAuthenticator(authenticator, settings) if settings.hs_disabled else authenticator
