"""Third-party identifiers of accounts: ownership, and which identifiers are allowed."""

import re
from typing import Final

import attrs

from hs.core.errors import ThreepidDenied, ThreepidInUse, TooLarge
from hs.core.ids import UserID
from hs.core.threepids import MSISDN
from hs.lib.clock import Clock
from hs.settings.sections.threepids import ThreepidSettings
from hs.storage.accounts import threepids
from hs.storage.accounts.threepids import ThreepidRecord
from hs.storage.database import Database

MAX_THREEPIDS: Final = 100  # of one user


@attrs.frozen
class ValidatedThreepid:
    """A validated third-party identifier.

    UIA sessions store it as JSON under its field names.
    """

    medium: str
    address: str
    validated_ms: int


@attrs.frozen(eq=False)
class Threepids:
    """The third-party identifiers of local users."""

    _database: Database
    _clock: Clock
    _settings: ThreepidSettings

    @property
    def may_change(self) -> bool:
        """Whether users may add and remove identifiers."""
        return self._settings.enable_3pid_changes

    async def of_user(self, user_id: UserID) -> list[ThreepidRecord]:
        """Return a user's identifiers, oldest first."""
        return await self._database.read(threepids.list_of_user, user_id)

    async def owner(self, medium: str, address: str) -> UserID | None:
        """Return the user with an identifier, which must be in canonical form."""
        record = await self._database.read(threepids.find, medium, address)
        return None if record is None else UserID(record.user_id)

    async def add(self, user_id: UserID, threepid: ValidatedThreepid) -> None:
        """Add a validated identifier to an account. Idempotent.

        Raises: ThreepidInUse, ThreepidDenied, TooLarge.
        """
        self.check_allowed(threepid.medium, threepid.address)
        stored = {(record.medium, record.address) for record in await self.of_user(user_id)}
        if len(stored) >= MAX_THREEPIDS and (threepid.medium, threepid.address) not in stored:
            raise TooLarge(f"A user must not have more than {MAX_THREEPIDS} identifiers")
        record = threepid_record(user_id, threepid, self._clock.now_ms())
        if not await self._database.write(threepids.insert, record):
            raise ThreepidInUse("Another account has this third-party identifier")

    async def remove(self, user_id: UserID, medium: str, address: str) -> bool:
        """Remove an identifier from an account; return whether the account had it."""
        return await self._database.write(threepids.delete, user_id, medium, address)

    def check_allowed(self, medium: str, address: str, *, registering: bool = False) -> None:
        """Reject an identifier that the settings do not allow. Raises: ThreepidDenied."""
        if registering and medium == MSISDN and self._settings.disable_msisdn_registration:
            raise ThreepidDenied("Registration with a phone number is disabled")
        patterns = self._settings.allowed_local_3pids
        if patterns is not None and not any(
            allowed.medium == medium and re.match(allowed.pattern, address) for allowed in patterns
        ):
            raise ThreepidDenied("This third-party identifier is not allowed on this server")


def threepid_record(user_id: UserID, threepid: ValidatedThreepid, now_ms: int) -> ThreepidRecord:
    """Return the database record of a validated identifier."""
    return ThreepidRecord(threepid.medium, threepid.address, user_id, threepid.validated_ms, now_ms)
