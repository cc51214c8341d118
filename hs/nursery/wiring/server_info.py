"""What the server says about itself: versions, capabilities, well-known files."""

from hs.apis.client.server.capabilities import CapabilitiesApi
from hs.apis.client.server.home_page import HomePageApi
from hs.apis.client.server.rtc import RtcTransportsApi
from hs.apis.client.server.versions import VersionsApi
from hs.apis.client.server.wellknown import WellKnownApi
from hs.nursery.part import Part
from hs.nursery.process_base import ProcessBase
from hs.nursery.wiring.accounts.accounts import AccountServices, SessionServices
from hs.nursery.wiring.mail import wire_pages
from hs.services.accounts.login.login import Login


def wire_server_info(
    base: ProcessBase, sessions: SessionServices, accounts: AccountServices, login: Login
) -> Part:
    """Build the endpoints."""
    settings, proposals = base.settings, base.settings.proposals
    capabilities = CapabilitiesApi(
        lifecycle=accounts.lifecycle,
        login=login,
        registration=settings.registration,
        default_room_version=settings.rooms.default_room_version,
        may_change_threepids=sessions.threepids.threepids.may_change,
        forgets_left_rooms=settings.rooms.forget_rooms_on_leave,
        longest_delay_ms=proposals.max_event_delay_duration,
    )
    return Part(
        endpoints=[
            VersionsApi(proposals, settings.rooms),
            WellKnownApi(settings.server, proposals.matrix_rtc),
            capabilities,
            RtcTransportsApi(proposals.matrix_rtc),
            HomePageApi(wire_pages(settings), settings.server.server_name),
        ]
    )
