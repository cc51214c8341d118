"""Locking and suspending accounts."""

import attrs

from hs.apis.web.auth import ADMIN
from hs.apis.web.request import body, path
from hs.apis.web.route import route
from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.services.accounts.lifecycle.account_moderation import Moderation

SUSPEND = "/_matrix/client/v1/admin/suspend/{user_id}"
LOCK = "/_matrix/client/v1/admin/lock/{user_id}"
UNSTABLE = "/_matrix/client/unstable/uk.timedout.msc4323/admin/{action}/{{user_id}}"
SUSPEND_AS_WELL = UNSTABLE.format(action="suspend")
LOCK_AS_WELL = UNSTABLE.format(action="lock")


@attrs.frozen
class LookRequest:
    """Who asks about whom."""

    requester: Requester
    user_id: UserID = path()


@attrs.frozen
class LockRequest:
    """Who locks whom."""

    requester: Requester
    user_id: UserID = path()
    locked: bool = body()


@attrs.frozen
class SuspendRequest:
    """Who suspends whom."""

    requester: Requester
    user_id: UserID = path()
    suspended: bool = body()


@attrs.frozen
class ModerationApi:
    """`/admin/lock` and `/admin/suspend`."""

    moderation: Moderation

    @route("GET", LOCK, auth=ADMIN, also=[LOCK_AS_WELL])
    async def is_locked(self, request: LookRequest) -> dict[str, bool]:
        """Spec: client-server API, Server Administration."""
        user = await self.moderation.find(request.requester, request.user_id)
        return {"locked": user.is_locked}

    @route("PUT", LOCK, auth=ADMIN, also=[LOCK_AS_WELL])
    async def lock(self, request: LockRequest) -> dict[str, bool]:
        """Spec: client-server API, Server Administration."""
        await self.moderation.lock(request.requester, request.user_id, request.locked)
        return {"locked": request.locked}

    @route("GET", SUSPEND, auth=ADMIN, also=[SUSPEND_AS_WELL])
    async def is_suspended(self, request: LookRequest) -> dict[str, bool]:
        """Spec: client-server API, Server Administration."""
        user = await self.moderation.find(request.requester, request.user_id)
        return {"suspended": user.is_suspended}

    @route("PUT", SUSPEND, auth=ADMIN, also=[SUSPEND_AS_WELL])
    async def suspend(self, request: SuspendRequest) -> dict[str, bool]:
        """Spec: client-server API, Server Administration."""
        await self.moderation.suspend(request.requester, request.user_id, request.suspended)
        return {"suspended": request.suspended}
