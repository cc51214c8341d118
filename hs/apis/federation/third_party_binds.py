"""Notifications from identity servers: a user has bound an address that has pending invites."""

from typing import Any

import attrs

from hs.apis.web.auth import NONE
from hs.apis.web.limits import WorkClass
from hs.apis.web.render import Empty
from hs.apis.web.request import body
from hs.apis.web.route import route
from hs.core.ids import UserID, parse_user_id
from hs.services.rooms.membership.third_party_invites import ThirdPartyInvites


@attrs.frozen
class OnBindRequest:
    """PUT /3pid/onbind: the user, and the invites that were pending for the address."""

    mxid: UserID = body(parse=parse_user_id)
    invites: list[dict[str, Any]] = body(factory=list)


@attrs.frozen
class ThirdPartyBindsApi:
    """The endpoint of binds. It needs no authentication, because each invite has its own proof."""

    third_party_invites: ThirdPartyInvites

    # Some identity servers still use POST, which predates the specification.
    @route("PUT", "/_matrix/federation/v1/3pid/onbind", auth=NONE, work=WorkClass.OTHERS)
    @route("POST", "/_matrix/federation/v1/3pid/onbind", auth=NONE, work=WorkClass.OTHERS)
    async def on_bind(self, request: OnBindRequest) -> Empty:
        """Spec: server-server API, Third-party invites."""
        await self.third_party_invites.accept_bound(request.mxid, request.invites)
        return Empty()
