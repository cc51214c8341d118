"""Policy consent: which version of the terms each user has agreed to."""

import attrs

from hs.core.ids import UserID
from hs.lib.clock import Clock
from hs.services.accounts.limits.consent_requirement import ConsentRequirement
from hs.services.accounts.sessions.authenticator import Revocations
from hs.storage.accounts import consents
from hs.storage.database import Database


@attrs.frozen(eq=False)
class PolicyConsent:
    """The record of the users' consent."""

    _database: Database
    _clock: Clock
    _revocations: Revocations
    rule: ConsentRequirement

    async def agreed_version(self, user_id: UserID) -> str | None:
        """Return the version of the terms that a user has last agreed to, or None."""
        return await self._database.read(consents.accepted_version, user_id)

    async def agree(self, user_id: UserID, version: str) -> bool:
        """Record a user's consent and lift the restriction in all processes.

        Return False if the user does not exist.
        """
        user_exists = await self._database.write(
            consents.record_consent, user_id, version, self._clock.now_ms()
        )
        if user_exists:
            self._revocations.announce_users(user_id)
        return user_exists
