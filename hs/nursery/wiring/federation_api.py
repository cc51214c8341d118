"""The endpoints for other servers and for identity servers."""

from hs.apis.federation.openid_userinfo import OpenIdUserInfoApi
from hs.apis.federation.third_party_binds import ThirdPartyBindsApi
from hs.apis.federation.version import ServerVersionApi
from hs.nursery.part import Part
from hs.nursery.wiring.accounts.accounts import AccountServices
from hs.nursery.wiring.rooms.membership import MembershipServices


def wire_federation_api(accounts: AccountServices, members: MembershipServices) -> Part:
    """Build the endpoints."""
    return Part(
        endpoints=[
            OpenIdUserInfoApi(accounts.openid),
            ThirdPartyBindsApi(members.third_party_invites),
            ServerVersionApi(),
        ]
    )
