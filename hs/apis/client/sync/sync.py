"""/sync."""

from typing import Final, Literal

import attrs

from hs.apis.web.auth import USER_OR_GUEST
from hs.apis.web.request import query
from hs.apis.web.route import route
from hs.core.requester import Requester
from hs.services.sync.sync_context import SyncRequest
from hs.services.sync.sync_service import SyncService

_STATE_AFTER: Final = "state_after"
_MSC4222: Final = "org.matrix.msc4222."


@attrs.frozen
class GetSync:
    requester: Requester
    filter: str | None = query(default=None)
    since: str | None = query(default=None)
    full_state: bool = query(default=False)
    set_presence: Literal["offline", "online", "unavailable"] = query(default="online")
    timeout: int = query(default=0)
    use_state_after: bool = query(default=False)
    use_state_after_unstable: bool = query(default=False, name=f"{_MSC4222}use_state_after")


def _begins(request: GetSync) -> bool:
    # Who has a token waits for what it has seen; who has none may have seen anything.
    return not request.since


@attrs.frozen
class SyncApi:
    """Waits for news."""

    sync: SyncService

    @route("GET", "/_matrix/client/v3/sync", auth=USER_OR_GUEST, waits=True, fresh=_begins)
    async def get_sync(self, request: GetSync) -> bytes:
        """Spec: client-server API, Syncing."""
        return await self.sync.sync(
            SyncRequest(
                request.requester,
                request.since or None,
                max(0, request.timeout),
                request.filter,
                request.full_state,
                request.set_presence,
                _state_name(request),
            )
        )


def _state_name(request: GetSync) -> str | None:
    if request.use_state_after:
        return _STATE_AFTER
    return f"{_MSC4222}{_STATE_AFTER}" if request.use_state_after_unstable else None
