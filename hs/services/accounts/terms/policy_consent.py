"""Consent to the terms of use: who has given it, and to which version."""

import attrs

from hs.core.ids import UserID
from hs.lib.clock import Clock
from hs.services.accounts.limits.consent_requirement import ConsentRule
from hs.services.accounts.sessions.authenticator import Revocations
from hs.storage.accounts import consents
from hs.storage.database import Database


@attrs.frozen(eq=False)
class Consent:
    """Keeps who has agreed to what."""

    _database: Database
    _clock: Clock
    _revocations: Revocations
    rule: ConsentRule

    async def agreed_to(self, user_id: UserID) -> str | None:
        """Give the version that a user has agreed to last."""
        return await self._database.read(consents.version_of, user_id)

    async def agree(self, user_id: UserID, version: str) -> bool:
        """Note that a user has agreed; False: there is no such user.

        Every process lets them act from now on.
        """
        agreed = await self._database.write(consents.put, user_id, version, self._clock.now_ms())
        if agreed:
            self._revocations.users(user_id)
        return agreed
