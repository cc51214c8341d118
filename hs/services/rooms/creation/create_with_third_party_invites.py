"""Create rooms with invites to e-mail addresses and phone numbers."""

from collections.abc import Sequence

import attrs

from hs.core.ids import RoomID
from hs.core.requester import Requester
from hs.services.rooms.creation.initial_events import NewRoomRequest
from hs.services.rooms.creation.room_creation import RoomCreation, check_invite_count
from hs.services.rooms.membership.third_party_invites import InvitedAddress, ThirdPartyInvites


@attrs.frozen(eq=False)
class RoomCreationWithInvites:
    """Creates rooms with third-party invites.

    Users whose addresses are known are invited when the room is created; the other addresses get
    third-party invites afterwards.
    """

    _creation: RoomCreation
    _offers: ThirdPartyInvites

    async def create(
        self,
        requester: Requester,
        request: NewRoomRequest,
        addresses: Sequence[InvitedAddress] = (),
    ) -> RoomID:
        """Create a room. All addresses are looked up first, so most errors occur before it exists.

        Raises: as RoomCreation and ThirdPartyInvites do.
        """
        check_invite_count(requester, len(addresses) + len(request.invite))
        unknown, invited = [], list(request.invite)
        for address in addresses:
            user_id = await self._offers.user_of(requester, address)
            if user_id is None:
                unknown.append(address)
            elif user_id != requester.user_id:
                invited.append(user_id)
        request = attrs.evolve(request, invite=invited)
        room_id = await self._creation.create(requester, request)
        for address in unknown:
            await self._offers.offer(requester, room_id, address)
        return room_id
