"""Invites to people who are known by an address alone."""

from hs.nursery.process_base import Foundation
from hs.nursery.wiring.identity_servers import AddressServers
from hs.nursery.wiring.room_actions import RoomActions
from hs.nursery.wiring.rooms import Rooms
from hs.services.accounts.limits.rate_limits import bucket_of
from hs.services.rooms.membership.third_party_invites import ThirdPartyInvites


def wire_offers(
    ground: Foundation, rooms: Rooms, actions: RoomActions, servers: AddressServers
) -> ThirdPartyInvites:
    """Build what invites people by their addresses."""
    settings = ground.settings
    return ThirdPartyInvites(
        servers=servers.identity_servers,
        appender=rooms.appender,
        deciding=actions.membership.deciding,
        membership=actions.membership,
        limiter=ground.limiters(
            "third_party_invite", bucket_of(settings.rate_limits.rc_third_party_invite)
        ),
        looks_up=settings.lookups.enable_3pid_lookup,
    )
