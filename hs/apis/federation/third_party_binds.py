"""What identity servers tell: somebody has proved an address, to which invites were sent."""

from typing import Any

import attrs

from hs.apis.web.auth import NONE
from hs.apis.web.render import Empty
from hs.apis.web.request import body
from hs.apis.web.route import route
from hs.core.ids import UserID, parse_user_id
from hs.services.rooms.membership.third_party_invites import ThirdPartyInvites


@attrs.frozen
class Bound:
    """Whose address it is now, and the invites that were waiting."""

    mxid: UserID = body(parse=parse_user_id)
    invites: list[dict[str, Any]] = body(factory=list)


@attrs.frozen
class ThirdPartyBindsApi:
    """`/3pid/onbind`; anybody may call it, as each invite carries its proof."""

    offers: ThirdPartyInvites

    # Identity servers use POST as well, as they did before there was a specification.
    @route("PUT", "/_matrix/federation/v1/3pid/onbind", auth=NONE)
    @route("POST", "/_matrix/federation/v1/3pid/onbind", auth=NONE)
    async def on_bind(self, request: Bound) -> Empty:
        """Spec: server-server API, Third-party invites."""
        await self.offers.bound(request.mxid, request.invites)
        return Empty()
