"""New users with an e-mail address are mailed what they miss, until they say otherwise."""

import logging
from collections.abc import Sequence
from typing import Final

import attrs

from hs.core.errors import MatrixError, Unavailable
from hs.core.ids import UserID
from hs.services.accounts.registration.registration import Newcomers
from hs.services.push.pushers.pusher_table import PusherWish, PusherWriter
from hs.services.push.pushers.pushers import EMAIL, EMAIL_APP_ID
from hs.storage.accounts import threepids
from hs.storage.database import Database

APP_NAME: Final = "Email Notifications"

log = logging.getLogger(__name__)


@attrs.frozen(eq=False)
class MailForNewcomers:
    """Gives new users pushers for their addresses."""

    _database: Database
    _writer: PusherWriter

    async def arrived(self, user_id: UserID, *, is_guest: bool) -> None:
        """Set a pusher for each e-mail address of a new user; never fails."""
        try:
            for one in await self._database.read(threepids.of_user, user_id):
                if one.medium == EMAIL:
                    await self._writer.put(_wish(user_id, one.address))
        except (MatrixError, Unavailable) as error:
            log.warning("%s is not mailed what they miss: %s", user_id, error)


@attrs.frozen(eq=False)
class AllWelcomes:
    """Welcomes new users in several ways, one after the other."""

    _ways: Sequence[Newcomers]

    async def arrived(self, user_id: UserID, *, is_guest: bool) -> None:
        """Do for a new user what there is to do; never fails."""
        for way in self._ways:
            await way.arrived(user_id, is_guest=is_guest)


def _wish(user_id: UserID, address: str) -> PusherWish:
    return PusherWish(
        user_id=user_id,
        app_id=EMAIL_APP_ID,
        pushkey=address,
        kind=EMAIL,
        app_display_name=APP_NAME,
        device_display_name=address,
        profile_tag="",
        lang="en",
        data="{}",
        enabled=True,
        device_id="",
        keeps_device=False,
        is_alone=True,
    )
