"""The endpoints of a process: every class that declares some, given its services."""

from hs.apis.admin.register import AdminRegisterApi
from hs.apis.client.accounts.account import AccountApi
from hs.apis.client.accounts.account_data import AccountDataApi
from hs.apis.client.accounts.auth_pages import AuthPagesApi
from hs.apis.client.accounts.consent import ConsentApi
from hs.apis.client.accounts.devices import DevicesApi
from hs.apis.client.accounts.filter import FilterApi
from hs.apis.client.accounts.login import LoginApi
from hs.apis.client.accounts.login_page import LoginPageApi
from hs.apis.client.accounts.logout import LogoutApi
from hs.apis.client.accounts.moderation import ModerationApi
from hs.apis.client.accounts.openid import OpenIdApi
from hs.apis.client.accounts.password_policy import PasswordPolicyApi
from hs.apis.client.accounts.profiles import ProfileApi
from hs.apis.client.accounts.register import RegisterApi
from hs.apis.client.accounts.threepid_pages import AddressPagesApi
from hs.apis.client.accounts.threepid_tokens import AddressTokensApi
from hs.apis.client.accounts.threepids import ThreepidsApi
from hs.apis.client.accounts.whois import WhoisApi
from hs.apis.client.directory.public_rooms import PublicRoomsApi
from hs.apis.client.directory.room_aliases import DirectoryApi
from hs.apis.client.ephemeral.presence import PresenceApi
from hs.apis.client.ephemeral.receipts import ReceiptsApi
from hs.apis.client.ephemeral.typing_notifications import TypingApi
from hs.apis.client.rooms.create_room import CreateRoomApi
from hs.apis.client.rooms.membership import MembershipApi
from hs.apis.client.rooms.send import SendApi
from hs.apis.client.rooms.tags import TagsApi
from hs.apis.client.rooms.upgrade import UpgradeApi
from hs.apis.client.server.capabilities import CapabilitiesApi
from hs.apis.client.server.versions import VersionsApi
from hs.apis.client.server.voip import VoipApi
from hs.apis.client.server.wellknown import WellKnownApi, told_to_clients
from hs.apis.federation.openid import OpenIdUserInfoApi
from hs.apis.federation.third_party_binds import ThirdPartyBindsApi
from hs.apis.federation.version import ServerVersionApi
from hs.nursery.wiring.accounts import Accounts
from hs.nursery.wiring.delayed_events import delayed_apis
from hs.nursery.wiring.ephemeral import Ephemeral
from hs.nursery.wiring.login import Arrivals
from hs.nursery.wiring.room_actions import RoomActions
from hs.nursery.wiring.threepids import Proving, base_url_of
from hs.services.accounts.lifecycle.account_lifecycle import Lifecycle
from hs.services.accounts.lifecycle.password_reset import PasswordReset
from hs.services.accounts.profiles.profile_visibility import ProfileAudience
from hs.services.accounts.sessions.interactive_auth import InteractiveAuth
from hs.services.rooms.creation.create_with_third_party_invites import InvitingCreation
from hs.services.rooms.membership.third_party_invites import ThirdPartyInvites
from hs.settings.settings import Settings


def account_apis(
    settings: Settings, accounts: Accounts, arrivals: Arrivals, actions: RoomActions
) -> list[object]:
    """Give the endpoints of accounts."""
    identity = accounts.identity
    interactive = identity.interactive
    return [
        VersionsApi(settings.proposals, settings.rooms),
        WellKnownApi(settings.server, settings.proposals.matrix_rtc),
        CapabilitiesApi(
            accounts.lifecycle,
            arrivals.login,
            settings.registration,
            settings.rooms.default_room_version,
            identity.proving.threepids.may_change,
            settings.rooms.forget_rooms_on_leave,
            settings.proposals.max_event_delay_duration,
        ),
        RegisterApi(
            arrivals.registration,
            interactive,
            identity.registration_tokens,
            identity.appservices,
            identity.rates,
        ),
        AdminRegisterApi(arrivals.shared_secret, arrivals.registration),
        _login_api(settings, accounts, arrivals),
        LogoutApi(identity.sessions),
        AccountApi(
            accounts.lifecycle,
            interactive,
            PasswordReset(accounts.lifecycle, identity.proving.threepids, identity.proving.proofs),
        ),
        PasswordPolicyApi(settings.passwords.policy),
        ModerationApi(accounts.moderation),
        *proving_apis(settings, identity.proving, accounts.lifecycle, interactive),
        DevicesApi(accounts.devices, accounts.lifecycle, interactive),
        ProfileApi(
            accounts.profiles,
            actions.profile_changes,
            ProfileAudience(
                actions.membership.memberships,
                settings.server.require_auth_for_profile_requests,
                settings.server.limit_profile_requests_to_users_who_share_rooms,
            ),
        ),
        AccountDataApi(accounts.account_data),
        TagsApi(accounts.account_data),
        FilterApi(accounts.filters),
        OpenIdApi(accounts.openid),
        OpenIdUserInfoApi(accounts.openid),
        ServerVersionApi(),
        WhoisApi(accounts.devices),
        VoipApi(accounts.turn),
    ]


def _login_api(settings: Settings, accounts: Accounts, arrivals: Arrivals) -> LoginApi:
    identity = accounts.identity
    return LoginApi(
        arrivals.login,
        identity.sessions,
        accounts.lifecycle,
        identity.interactive,
        identity.rates,
        told_to_clients(settings.server, settings.proposals.matrix_rtc),
    )


def proving_apis(
    settings: Settings, proving: Proving, lifecycle: Lifecycle, interactive: InteractiveAuth
) -> list[object]:
    """Give the endpoints and pages with which users prove addresses, and agree to the terms."""
    return [
        AddressTokensApi(proving.proof_requests),
        AddressPagesApi(proving.proofs, proving.pages),
        ThreepidsApi(
            proving.threepids,
            proving.proofs,
            proving.servers.identity_servers,
            lifecycle,
            interactive,
        ),
        AuthPagesApi(interactive, proving.requirements, proving.pages, base_url_of(settings)),
        LoginPageApi(proving.pages, settings.server.server_name),
        ConsentApi(proving.consent, proving.terms, proving.pages, settings.server.server_name),
    ]


def action_apis(
    settings: Settings, actions: RoomActions, offers: ThirdPartyInvites
) -> list[object]:
    """Give the endpoints that change rooms, and find them."""
    return [
        CreateRoomApi(InvitingCreation(actions.creation, offers)),
        MembershipApi(actions.membership, actions.naming, actions.removal, offers),
        ThirdPartyBindsApi(offers),
        SendApi(actions.sending, actions.delayed.events),
        *delayed_apis(actions.delayed),
        DirectoryApi(actions.naming, actions.public_rooms),
        PublicRoomsApi(
            actions.public_rooms,
            settings.server.server_name,
            settings.server.allow_public_rooms_without_auth,
        ),
        UpgradeApi(actions.upgrades),
    ]


def ephemeral_apis(ephemeral: Ephemeral) -> list[object]:
    """Give the endpoints of what passes."""
    return [
        TypingApi(ephemeral.typing),
        ReceiptsApi(ephemeral.reading),
        PresenceApi(ephemeral.presence),
    ]
