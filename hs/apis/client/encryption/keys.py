"""Device keys: upload, query, claim, and the users whose keys have changed."""

from typing import Any

import attrs

from hs.apis.web.auth import USER_OR_GUEST
from hs.apis.web.limits import WorkClass
from hs.apis.web.request import body, path, query
from hs.apis.web.route import route
from hs.core.canonical_json import JsonObject
from hs.core.errors import InvalidParam
from hs.core.requester import Requester
from hs.services.devices.device_keys import KeyDirectory
from hs.services.devices.device_lists import DeviceLists
from hs.services.devices.one_time_keys import OneTimeKeys

DEFAULT_TIMEOUT_MS = 10_000
MAX_TIMEOUT_MS = 60_000


@attrs.frozen
class UploadKeysRequest:
    """POST /keys/upload, with the device in the path as older clients send it."""

    requester: Requester
    device_id: str | None = path(default=None)
    device_keys: JsonObject | None = body(default=None)
    one_time_keys: JsonObject | None = body(default=None)
    fallback_keys: JsonObject | None = body(default=None)


@attrs.frozen
class QueryKeysRequest:
    """POST /keys/query."""

    requester: Requester
    device_keys: dict[str, list[str]] = body()
    timeout: int = body(default=DEFAULT_TIMEOUT_MS)


@attrs.frozen
class ClaimKeysRequest:
    """POST /keys/claim."""

    requester: Requester
    one_time_keys: dict[str, dict[str, str]] = body()
    timeout: int = body(default=DEFAULT_TIMEOUT_MS)


@attrs.frozen
class GetKeyChangesRequest:
    """GET /keys/changes."""

    requester: Requester
    since: str = query(name="from")
    to: str = query()


@attrs.frozen
class KeysApi:
    """Endpoints of device keys."""

    directory: KeyDirectory
    one_time_keys: OneTimeKeys
    device_lists: DeviceLists

    @route(
        "POST",
        "/_matrix/client/v3/keys/upload",
        auth=USER_OR_GUEST,
        extra_paths=["/_matrix/client/v3/keys/upload/{device_id}"],
    )
    async def upload_keys(self, request: UploadKeysRequest) -> dict[str, Any]:
        """Spec: client-server API, Key management API."""
        if request.device_id not in (None, request.requester.device_id):
            raise InvalidParam("device_id must be the device that the access token belongs to")
        counts = await self.directory.upload(
            request.requester,
            request.device_keys,
            request.one_time_keys or {},
            request.fallback_keys or {},
        )
        return {"one_time_key_counts": dict(counts)}

    @route("POST", "/_matrix/client/v3/keys/query", auth=USER_OR_GUEST, work=WorkClass.KEYS)
    async def query_keys(self, request: QueryKeysRequest) -> dict[str, Any]:
        """Spec: client-server API, Key management API."""
        return await self.directory.query(
            request.requester.user_id, request.device_keys, _clamp_timeout(request.timeout)
        )

    @route("POST", "/_matrix/client/v3/keys/claim", auth=USER_OR_GUEST, work=WorkClass.KEYS)
    async def claim_keys(self, request: ClaimKeysRequest) -> dict[str, Any]:
        """Spec: client-server API, Key management API."""
        return await self.one_time_keys.claim(
            request.one_time_keys, _clamp_timeout(request.timeout)
        )

    @route("GET", "/_matrix/client/v3/keys/changes", auth=USER_OR_GUEST, work=WorkClass.KEYS)
    async def get_key_changes(self, request: GetKeyChangesRequest) -> dict[str, Any]:
        """Spec: client-server API, Key management API."""
        changes = await self.device_lists.between(
            request.requester.user_id, request.since, request.to
        )
        return {"changed": changes.changed, "left": changes.left}


def _clamp_timeout(timeout_ms: int) -> int:
    return max(0, min(timeout_ms, MAX_TIMEOUT_MS))
