"""Profiles of users."""

from typing import Any

import attrs

from hs.apis.web.auth import OPTIONAL, USER_OR_GUEST
from hs.apis.web.limits import WorkClass
from hs.apis.web.render import Empty
from hs.apis.web.request import path, whole_body
from hs.apis.web.route import route
from hs.core.canonical_json import JsonObject
from hs.core.errors import MissingParam
from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.services.accounts.profiles.profile_changes import ProfileChanges
from hs.services.accounts.profiles.profile_visibility import ProfileVisibility
from hs.services.accounts.profiles.profiles import Profiles, check_key

PROFILE = "/_matrix/client/v3/profile/{user_id}"
FIELD = PROFILE + "/{key_name}"
UNSTABLE_PROFILE = "/_matrix/client/unstable/uk.tcpip.msc4133/profile/{user_id}"
UNSTABLE_FIELD = UNSTABLE_PROFILE + "/{key_name}"


@attrs.frozen
class GetProfileRequest:
    """GET /profile/{userId}."""

    requester: Requester | None
    user_id: UserID = path()


@attrs.frozen
class GetProfileFieldRequest:
    """GET /profile/{userId}/{keyName}."""

    requester: Requester | None
    user_id: UserID = path()
    key_name: str = path()


@attrs.frozen
class SetProfileFieldRequest:
    """PUT /profile/{userId}/{keyName}."""

    requester: Requester
    user_id: UserID = path()
    key_name: str = path()
    content: JsonObject = whole_body()


@attrs.frozen
class DeleteProfileFieldRequest:
    """DELETE /profile/{userId}/{keyName}."""

    requester: Requester
    user_id: UserID = path()
    key_name: str = path()


@attrs.frozen
class ProfilesApi:
    """Endpoints of profiles."""

    profiles: Profiles
    changes: ProfileChanges
    audience: ProfileVisibility

    @route(
        "GET",
        PROFILE,
        auth=OPTIONAL,
        work=WorkClass.OTHERS,
        cancel_on_disconnect=True,
        extra_paths=[UNSTABLE_PROFILE],
    )
    async def get_profile(self, request: GetProfileRequest) -> dict[str, Any]:
        """Spec: client-server API, Profiles."""
        await self.audience.check(request.requester, request.user_id)
        return dict(await self.profiles.get(request.user_id))

    @route(
        "GET",
        FIELD,
        auth=OPTIONAL,
        work=WorkClass.OTHERS,
        cancel_on_disconnect=True,
        extra_paths=[UNSTABLE_FIELD],
    )
    async def get_profile_field(self, request: GetProfileFieldRequest) -> dict[str, Any]:
        """Spec: client-server API, Profiles."""
        await self.audience.check(request.requester, request.user_id)
        return await self.profiles.get_field(request.user_id, request.key_name)

    @route("PUT", FIELD, auth=USER_OR_GUEST, rate="profile", extra_paths=[UNSTABLE_FIELD])
    async def set_profile_field(self, request: SetProfileFieldRequest) -> Empty:
        """Spec: client-server API, Profiles."""
        check_key(request.key_name)
        if request.key_name not in request.content:
            raise MissingParam(f"Missing {request.key_name}")
        value = request.content[request.key_name]
        await self.changes.set_field(request.requester, request.user_id, request.key_name, value)
        return Empty()

    @route("DELETE", FIELD, auth=USER_OR_GUEST, rate="profile", extra_paths=[UNSTABLE_FIELD])
    async def delete_profile_field(self, request: DeleteProfileFieldRequest) -> Empty:
        """Spec: client-server API, Profiles."""
        await self.changes.delete_field(request.requester, request.user_id, request.key_name)
        return Empty()
