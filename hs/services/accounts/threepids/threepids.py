"""The addresses of users: whose they are, and which may be used here."""

import re

import attrs

from hs.core.errors import ThreepidDenied, ThreepidInUse
from hs.core.ids import UserID
from hs.core.threepids import MSISDN
from hs.lib.clock import Clock
from hs.settings.sections.threepids import ThreepidSettings
from hs.storage.accounts import threepids
from hs.storage.accounts.threepids import ThreepidRecord
from hs.storage.database import Database


@attrs.frozen
class Validated:
    """An address that somebody has proved to hold."""

    medium: str
    address: str
    validated_ms: int


@attrs.frozen(eq=False)
class Threepids:
    """Keeps users' addresses."""

    _database: Database
    _clock: Clock
    _settings: ThreepidSettings

    @property
    def may_change(self) -> bool:
        """Tell whether users may change their addresses."""
        return self._settings.enable_3pid_changes

    async def of_user(self, user_id: UserID) -> list[ThreepidRecord]:
        """List a user's addresses, oldest first."""
        return await self._database.read(threepids.of_user, user_id)

    async def owner(self, medium: str, address: str) -> UserID | None:
        """Give the user who has an address, in its canonical form."""
        found = await self._database.read(threepids.find, medium, address)
        return None if found is None else UserID(found.user_id)

    async def add(self, user_id: UserID, proved: Validated) -> None:
        """Give a user an address that they have proved to hold; twice is fine.

        Raises: ThreepidInUse, ThreepidDenied.
        """
        self.check_allowed(proved.medium, proved.address)
        record = record_of(user_id, proved, self._clock.now_ms())
        if not await self._database.write(threepids.insert, record):
            raise ThreepidInUse("Another account has this address")

    async def remove(self, user_id: UserID, medium: str, address: str) -> bool:
        """Take an address from a user; tell whether they had it."""
        return await self._database.write(threepids.delete, user_id, medium, address)

    def check_allowed(self, medium: str, address: str, *, registering: bool = False) -> None:
        """Refuse an address that this server does not want. Raises: ThreepidDenied."""
        if registering and medium == MSISDN and self._settings.disable_msisdn_registration:
            raise ThreepidDenied("Nobody registers with a telephone number here")
        patterns = self._settings.allowed_local_3pids
        if patterns is not None and not any(
            one.medium == medium and re.match(one.pattern, address) for one in patterns
        ):
            raise ThreepidDenied("This address may not be used on this server")


def record_of(user_id: UserID, proved: Validated, now_ms: int) -> ThreepidRecord:
    """Give what is stored of a proved address."""
    return ThreepidRecord(proved.medium, proved.address, user_id, proved.validated_ms, now_ms)
