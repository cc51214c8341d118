"""Blocking the whole server: nobody but administrators is let in."""

import attrs

from hs.core.errors import ResourceLimitExceeded
from hs.core.requester import Requester
from hs.services.accounts.sessions.authenticator import TokenAuthenticator
from hs.settings.sections.retention import BlockingSettings


@attrs.frozen(eq=False)
class BlockedServer:
    """An authenticator that refuses all but administrators."""

    _inner: TokenAuthenticator
    _settings: BlockingSettings

    def authenticate_nowait(self, token: str, client_ip: str, user_agent: str) -> Requester | None:
        """Give the requester if they are known. Raises: ResourceLimitExceeded."""
        known = self._inner.authenticate_nowait(token, client_ip, user_agent)
        return None if known is None else self._checked(known)

    async def requester_for(self, token: str, client_ip: str, user_agent: str) -> Requester:
        """Give the requester. Raises: ResourceLimitExceeded, UnknownToken."""
        return self._checked(await self._inner.requester_for(token, client_ip, user_agent))

    async def acting_as(
        self, requester: Requester, user_id: str | None, device_id: str | None
    ) -> Requester:
        """Give the user an application service speaks for."""
        return await self._inner.acting_as(requester, user_id, device_id)

    def note_use(self, requester: Requester, client_ip: str, user_agent: str) -> None:
        """Note that an application service uses a device, if that is wanted."""
        self._inner.note_use(requester, client_ip, user_agent)

    def _checked(self, requester: Requester) -> Requester:
        if requester.is_admin:
            return requester
        contact = self._settings.admin_contact
        more = {} if contact is None else {"admin_contact": contact}
        raise ResourceLimitExceeded(
            self._settings.hs_disabled_message, limit_type="hs_disabled", **more
        )


def unless_blocked(
    authenticator: TokenAuthenticator, settings: BlockingSettings
) -> TokenAuthenticator | BlockedServer:
    """Give what lets users in as the settings say."""
    return BlockedServer(authenticator, settings) if settings.hs_disabled else authenticator
