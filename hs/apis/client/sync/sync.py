"""The /sync endpoint."""

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
class GetSyncRequest:
    """GET /sync."""

    requester: Requester
    filter: str | None = query(default=None)
    since: str | None = query(default=None)
    full_state: bool = query(default=False)
    set_presence: Literal["offline", "online", "unavailable"] = query(default="online")
    timeout: int = query(default=0)
    use_state_after: bool = query(default=False)
    use_state_after_unstable: bool = query(default=False, name=f"{_MSC4222}use_state_after")


def _is_initial(request: GetSyncRequest) -> bool:
    # The service waits for the positions in a sync token anyway. A client without a token may have
    # seen anything at any process, so this process must have received all that was committed.
    return not request.since


@attrs.frozen
class SyncApi:
    """The endpoint of /sync."""

    sync: SyncService

    @route(
        "GET",
        "/_matrix/client/v3/sync",
        auth=USER_OR_GUEST,
        cancel_on_disconnect=True,
        fresh=_is_initial,
    )
    async def get_sync(self, request: GetSyncRequest) -> bytes:
        """Spec: client-server API, Syncing."""
        return await self.sync.sync(
            SyncRequest(
                requester=request.requester,
                since=request.since or None,
                timeout_ms=max(0, request.timeout),
                filter=request.filter,
                full_state=request.full_state,
                set_presence=request.set_presence,
                state_after=_state_after_key(request),
            )
        )


def _state_after_key(request: GetSyncRequest) -> str | None:
    """Return the key of the state after the timeline in the response; None for state before it."""
    if request.use_state_after:
        return _STATE_AFTER
    return f"{_MSC4222}{_STATE_AFTER}" if request.use_state_after_unstable else None
