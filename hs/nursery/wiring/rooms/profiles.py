"""Profiles: changing them, who may see them, and bringing changes into rooms."""

import attrs

from hs.apis.client.accounts.profiles import ProfilesApi
from hs.lib.tasks import Duty
from hs.nursery.part import Part
from hs.nursery.plan import BACKGROUND
from hs.nursery.process_base import ProcessBase
from hs.nursery.wiring.accounts.accounts import AccountServices
from hs.nursery.wiring.rooms.rooms import Rooms
from hs.services.accounts.profiles.avatar_rules import AvatarRules
from hs.services.accounts.profiles.profile_changes import ProfileChanges
from hs.services.accounts.profiles.profile_visibility import ProfileVisibility
from hs.services.rooms.profiles.profile_propagation import RoomProfiles


@attrs.frozen(eq=False, kw_only=True)
class ProfileServices:
    """The rules for avatars, which also hold for member events, and the update of member events.

    `propagation` is None in a process that does not update member events.
    """

    avatars: AvatarRules
    propagation: RoomProfiles | None
    part: Part


def wire_profiles(base: ProcessBase, rooms: Rooms, accounts: AccountServices) -> ProfileServices:
    """Build the endpoint of profiles and the duty that updates member events."""
    settings = base.settings
    avatars = AvatarRules(
        base.database,
        settings.server.server_name,
        settings.rooms.max_avatar_size,
        settings.rooms.allowed_avatar_mimetypes,
    )
    audience = ProfileVisibility(
        rooms.memberships,
        settings.server.require_auth_for_profile_requests,
        settings.server.limit_profile_requests_to_users_who_share_rooms,
    )
    api = ProfilesApi(accounts.profiles, ProfileChanges(accounts.profiles, avatars), audience)
    propagation = base.planned(
        BACKGROUND, lambda: RoomProfiles(base.database, base.feed, rooms.appender)
    )
    duties = [] if propagation is None else [_duty(propagation)]
    return ProfileServices(
        avatars=avatars, propagation=propagation, part=Part(endpoints=[api], duties=duties)
    )


def _duty(propagation: RoomProfiles) -> Duty:
    return Duty("profile updates in rooms", propagation.run, plan_duty=BACKGROUND)
