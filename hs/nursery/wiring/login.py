"""How users come: registering and logging in."""

from collections.abc import Sequence

import attrs

from hs.lib.json_web_tokens import SignedTokenReader
from hs.nursery.process_base import Foundation
from hs.nursery.wiring.accounts import Accounts, Identity
from hs.nursery.wiring.room_actions import RoomActions
from hs.nursery.wiring.rooms import Rooms
from hs.services.accounts.login.jwt_login import JwtLogin
from hs.services.accounts.login.login import Login
from hs.services.accounts.profiles.profiles import Profiles
from hs.services.accounts.registration.registration import Newcomers, Registration
from hs.services.accounts.registration.shared_secret_registration import SharedSecret
from hs.services.push.pushers.default_email_pushers import AllWelcomes
from hs.services.rooms.creation.auto_join_rooms import AutoJoin
from hs.settings.settings import Settings


@attrs.frozen(eq=False, kw_only=True)
class Arrivals:
    """The services."""

    registration: Registration
    login: Login
    shared_secret: SharedSecret


def wire_arrivals(
    ground: Foundation,
    rooms: Rooms,
    accounts: Accounts,
    actions: RoomActions,
    welcomes: Sequence[Newcomers],
) -> Arrivals:
    """Build the services; `welcomes` is what else new users meet with."""
    identity = accounts.identity
    joining = AutoJoin(
        settings=ground.settings.rooms,
        server_name=ground.settings.server.server_name,
        database=ground.database,
        naming=actions.naming,
        creation=actions.creation,
        membership=actions.membership,
        memberships=rooms.memberships,
    )
    newcomers = AllWelcomes((joining, *welcomes))
    registration = _registration(ground, identity, accounts.profiles, newcomers)
    secret = ground.settings.registration.registration_shared_secret
    return Arrivals(
        registration=registration,
        login=_login(ground, identity, registration),
        shared_secret=SharedSecret(ground.database, ground.clock, secret),
    )


def _registration(
    ground: Foundation, identity: Identity, profiles: Profiles, newcomers: Newcomers
) -> Registration:
    settings = ground.settings
    return Registration(
        ground.database,
        ground.clock,
        identity.proving.requirements,
        settings.server.server_name,
        settings.server.allow_guest_access,
        identity.passwords,
        identity.sessions,
        profiles,
        identity.appservices,
        identity.proving.threepids,
        newcomers,
    )


def _login(ground: Foundation, identity: Identity, registration: Registration) -> Login:
    settings = ground.settings
    return Login(
        ground.database,
        ground.clock,
        settings.passwords,
        settings.existing_session,
        identity.proving.identifiers,
        identity.credentials,
        identity.limits,
        identity.sessions,
        identity.appservices,
        jwt_login(settings, registration),
    )


def jwt_login(settings: Settings, registration: Registration) -> JwtLogin | None:
    """Build what takes JSON web tokens, if they are taken."""
    jwt = settings.jwt
    if not jwt.enabled:
        return None
    reader = SignedTokenReader(
        key=jwt.secret or "",
        algorithm=jwt.algorithm or "",
        issuer=jwt.issuer,
        audiences=jwt.audiences,
    )
    return JwtLogin(
        reader=reader,
        registration=registration,
        server_name=settings.server.server_name,
        subject_claim=jwt.subject_claim,
        display_name_claim=jwt.display_name_claim,
    )
