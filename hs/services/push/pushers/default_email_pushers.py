"""E-mail pushers that new users have by default."""

import logging
from collections.abc import Sequence
from typing import Final

import attrs

from hs.core.errors import MatrixError, Unavailable
from hs.core.ids import UserID
from hs.services.accounts.registration.registration import NewUserListener
from hs.services.push.pushers.pusher_table import PusherRequest, PusherWriter
from hs.services.push.pushers.pushers import EMAIL, EMAIL_APP_ID
from hs.storage.accounts import threepids
from hs.storage.database import Database

APP_NAME: Final = "Email Notifications"

log = logging.getLogger(__name__)


@attrs.frozen(eq=False)
class DefaultEmailPushers:
    """Sets e-mail pushers for new users."""

    _database: Database
    _writer: PusherWriter

    async def on_new_user(self, user_id: UserID, *, is_guest: bool) -> None:
        """Set a pusher for each e-mail address of a new user; errors are logged only."""
        try:
            for threepid in await self._database.read(threepids.list_of_user, user_id):
                if threepid.medium == EMAIL:
                    await self._writer.put(_default_pusher(user_id, threepid.address))
        except (MatrixError, Unavailable) as error:
            log.warning("default e-mail pushers of %s could not be set: %s", user_id, error)


@attrs.frozen(eq=False)
class NewUserActions:
    """Several actions for new users, in their order."""

    _actions: Sequence[NewUserListener]

    async def on_new_user(self, user_id: UserID, *, is_guest: bool) -> None:
        """Run all actions for a new user."""
        for action in self._actions:
            await action.on_new_user(user_id, is_guest=is_guest)


def _default_pusher(user_id: UserID, address: str) -> PusherRequest:
    return PusherRequest(
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
