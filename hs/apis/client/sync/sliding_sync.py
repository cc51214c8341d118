"""Simplified sliding sync (MSC4186) at the unstable path, which clients use today."""

from typing import Final, Literal

import attrs
import msgspec

from hs.apis.web.auth import USER_OR_GUEST
from hs.apis.web.request import body, query
from hs.apis.web.route import route
from hs.core.ids import RoomID
from hs.core.requester import Requester
from hs.services.sync.sliding.profile_extension import PROFILES_EXTENSION as PROFILES
from hs.services.sync.sliding.request import (
    ProfileExtensionRequest,
    RoomSubscriptionRequest,
    ScopedExtensionRequest,
    SlidingExtensionsRequest,
    SlidingListRequest,
    SlidingRequest,
    StickyExtensionRequest,
    ThreadExtensionRequest,
    ToDeviceExtensionRequest,
)
from hs.services.sync.sliding.sliding_sync import SlidingSync
from hs.services.sync.sliding.sticky_extension import STICKY_EXTENSION as STICKY
from hs.services.sync.sliding.thread_extension import THREADS_EXTENSION as THREADS

MAX_BODY_BYTES: Final = 2 * 1024 * 1024


class ExtensionsBody(
    msgspec.Struct,
    frozen=True,
    rename={"threads": THREADS, "profiles": PROFILES, "sticky": STICKY},
):
    """The extensions of a request, with their names in the body."""

    account_data: ScopedExtensionRequest = ScopedExtensionRequest()
    receipts: ScopedExtensionRequest = ScopedExtensionRequest()
    typing: ScopedExtensionRequest = ScopedExtensionRequest()
    to_device: ToDeviceExtensionRequest = ToDeviceExtensionRequest()
    e2ee: ScopedExtensionRequest = ScopedExtensionRequest()
    threads: ThreadExtensionRequest = ThreadExtensionRequest()
    profiles: ProfileExtensionRequest = ProfileExtensionRequest()
    sticky: StickyExtensionRequest = StickyExtensionRequest()

    def to_service(self) -> SlidingExtensionsRequest:
        """Return the extensions as the service takes them."""
        return SlidingExtensionsRequest(
            account_data=self.account_data,
            receipts=self.receipts,
            typing=self.typing,
            to_device=self.to_device,
            e2ee=self.e2ee,
            threads=self.threads,
            profiles=self.profiles,
            sticky=self.sticky,
        )


@attrs.frozen
class UnstableSlidingSyncRequest:
    """POST /sync of MSC4186 at the unstable path."""

    requester: Requester
    pos: str = query(default="")
    timeout: int = query(default=0)
    set_presence: Literal["online", "unavailable", "offline"] = query(default="online")
    conn_id: str = body(default="")
    lists: dict[str, SlidingListRequest] = body(factory=dict)
    room_subscriptions: dict[str, RoomSubscriptionRequest] = body(factory=dict)
    extensions: ExtensionsBody = body(factory=ExtensionsBody)


def _is_initial(request: UnstableSlidingSyncRequest) -> bool:
    return not request.pos


@attrs.frozen
class UnstableSlidingSyncApi:
    """The endpoint of sliding sync at the unstable path."""

    sliding: SlidingSync

    @route(
        "POST",
        "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync",
        auth=USER_OR_GUEST,
        cancel_on_disconnect=True,
        fresh=_is_initial,
        max_body_bytes=MAX_BODY_BYTES,
    )
    async def sliding_sync(self, request: UnstableSlidingSyncRequest) -> bytes:
        """Spec: MSC4186."""
        return await self.sliding.sync(
            request.requester,
            SlidingRequest(
                conn_id=request.conn_id,
                pos=request.pos or None,
                timeout_ms=request.timeout,
                set_presence=request.set_presence,
                lists=request.lists,
                room_subscriptions={
                    RoomID(room_id): subscription
                    for room_id, subscription in request.room_subscriptions.items()
                },
                extensions=request.extensions.to_service(),
            ),
        )
