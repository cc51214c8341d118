"""What other servers ask about the users of this server."""

from typing import Any

import attrs

from hs.apis.web.auth import FEDERATION
from hs.apis.web.limits import WorkClass
from hs.apis.web.request import body, path, query
from hs.apis.web.route import route
from hs.core.ids import UserID
from hs.services.federation.users.served_users import ServedUsers


@attrs.frozen
class QueryProfileRequest:
    """GET /query/profile."""

    user_id: UserID = query()
    field: str | None = query(default=None)


@attrs.frozen
class GetUserDevicesRequest:
    """GET /user/devices/{userId}."""

    user_id: UserID = path()


@attrs.frozen
class QueryUserKeysRequest:
    """POST /user/keys/query."""

    device_keys: dict[str, list[str]] = body()


@attrs.frozen
class ClaimUserKeysRequest:
    """POST /user/keys/claim."""

    one_time_keys: dict[str, dict[str, str]] = body()


@attrs.frozen
class ServedUsersApi:
    """Endpoints of profiles, devices and keys."""

    users: ServedUsers

    @route(
        "GET",
        "/_matrix/federation/v1/query/profile",
        auth=FEDERATION,
        work=WorkClass.FEDERATION,
    )
    async def query_profile(self, request: QueryProfileRequest) -> dict[str, Any]:
        """Spec: server-server API, Querying for information."""
        return dict(await self.users.profile(request.user_id, request.field))

    @route(
        "GET",
        "/_matrix/federation/v1/user/devices/{user_id}",
        auth=FEDERATION,
        work=WorkClass.FEDERATION,
    )
    async def get_user_devices(self, request: GetUserDevicesRequest) -> dict[str, Any]:
        """Spec: server-server API, Device Management."""
        return await self.users.devices(request.user_id)

    @route(
        "POST",
        "/_matrix/federation/v1/user/keys/query",
        auth=FEDERATION,
        work=WorkClass.FEDERATION,
    )
    async def query_user_keys(self, request: QueryUserKeysRequest) -> dict[str, Any]:
        """Spec: server-server API, End-to-End Encryption."""
        return await self.users.query_keys(request.device_keys)

    @route(
        "POST",
        "/_matrix/federation/v1/user/keys/claim",
        auth=FEDERATION,
        work=WorkClass.FEDERATION,
    )
    async def claim_user_keys(self, request: ClaimUserKeysRequest) -> dict[str, Any]:
        """Spec: server-server API, End-to-End Encryption."""
        return {"one_time_keys": await self.users.claim_keys(request.one_time_keys)}
