"""Making rooms to which people are invited by address as well."""

from collections.abc import Sequence

import attrs

from hs.core.ids import RoomID
from hs.core.requester import Requester
from hs.services.rooms.creation.initial_events import NewRoomRequest
from hs.services.rooms.creation.room_creation import RoomCreation, check_invite_count
from hs.services.rooms.membership.third_party_invites import InvitedAddress, ThirdPartyInvites


@attrs.frozen(eq=False)
class InvitingCreation:
    """Makes a room; whose addresses are known are invited with it, the others after it."""

    _creation: RoomCreation
    _offers: ThirdPartyInvites

    async def create(
        self, requester: Requester, asked: NewRoomRequest, addresses: Sequence[InvitedAddress] = ()
    ) -> RoomID:
        """Make a room. What an identity server refuses is found before there is one, if it can be.

        Raises: as RoomCreation and ThirdPartyInvites do.
        """
        check_invite_count(requester, len(addresses) + len(asked.invite))
        unknown, invited = [], list(asked.invite)
        for address in addresses:
            found = await self._offers.user_of(requester, address)
            if found is None:
                unknown.append(address)
            elif found != requester.user_id:
                invited.append(found)
        asked = attrs.evolve(asked, invite=invited)
        room_id = await self._creation.create(requester, asked)
        for address in unknown:
            await self._offers.offer(requester, room_id, address)
        return room_id
