"""Locking and suspending accounts, for server administrators."""

import attrs

from hs.apis.web.auth import ADMIN
from hs.apis.web.request import body, path
from hs.apis.web.route import route
from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.services.accounts.lifecycle.account_moderation import AccountModeration

SUSPEND = "/_matrix/client/v1/admin/suspend/{user_id}"
LOCK = "/_matrix/client/v1/admin/lock/{user_id}"
UNSTABLE = "/_matrix/client/unstable/uk.timedout.msc4323/admin/{action}/{{user_id}}"
UNSTABLE_SUSPEND = UNSTABLE.format(action="suspend")
UNSTABLE_LOCK = UNSTABLE.format(action="lock")


@attrs.frozen
class GetUserStatusRequest:
    """GET /admin/lock/{userId} and /admin/suspend/{userId}."""

    requester: Requester
    user_id: UserID = path()


@attrs.frozen
class LockUserRequest:
    """PUT /admin/lock/{userId}."""

    requester: Requester
    user_id: UserID = path()
    locked: bool = body()


@attrs.frozen
class SuspendUserRequest:
    """PUT /admin/suspend/{userId}."""

    requester: Requester
    user_id: UserID = path()
    suspended: bool = body()


@attrs.frozen
class AccountModerationApi:
    """Endpoints of account moderation."""

    moderation: AccountModeration

    @route("GET", LOCK, auth=ADMIN, extra_paths=[UNSTABLE_LOCK])
    async def get_lock(self, request: GetUserStatusRequest) -> dict[str, bool]:
        """Spec: client-server API, Server Administration."""
        user = await self.moderation.find(request.requester, request.user_id)
        return {"locked": user.is_locked}

    @route("PUT", LOCK, auth=ADMIN, extra_paths=[UNSTABLE_LOCK])
    async def set_lock(self, request: LockUserRequest) -> dict[str, bool]:
        """Spec: client-server API, Server Administration."""
        await self.moderation.lock(request.requester, request.user_id, request.locked)
        return {"locked": request.locked}

    @route("GET", SUSPEND, auth=ADMIN, extra_paths=[UNSTABLE_SUSPEND])
    async def get_suspension(self, request: GetUserStatusRequest) -> dict[str, bool]:
        """Spec: client-server API, Server Administration."""
        user = await self.moderation.find(request.requester, request.user_id)
        return {"suspended": user.is_suspended}

    @route("PUT", SUSPEND, auth=ADMIN, extra_paths=[UNSTABLE_SUSPEND])
    async def set_suspension(self, request: SuspendUserRequest) -> dict[str, bool]:
        """Spec: client-server API, Server Administration."""
        await self.moderation.suspend(request.requester, request.user_id, request.suspended)
        return {"suspended": request.suspended}
