"""Registration and log-in."""

from collections.abc import Sequence

import attrs

from hs.apis.client.accounts.login import LoginApi
from hs.apis.client.accounts.register import RegisterApi
from hs.apis.client.server.wellknown import client_wellknown_content
from hs.lib.json_web_tokens import JwtVerifier
from hs.nursery.part import Part
from hs.nursery.process_base import ProcessBase
from hs.nursery.wiring.accounts.accounts import AccountServices, SessionServices
from hs.services.accounts.login.jwt_login import JwtLogin
from hs.services.accounts.login.login import Login
from hs.services.accounts.registration.registration import NewUserListener, Registration
from hs.services.push.pushers.default_email_pushers import NewUserActions
from hs.settings.settings import Settings


@attrs.frozen(eq=False, kw_only=True)
class LoginServices:
    """Registration and log-in."""

    registration: Registration
    login: Login
    part: Part


def wire_login(
    base: ProcessBase,
    sessions: SessionServices,
    accounts: AccountServices,
    newcomers: Sequence[NewUserListener],
) -> LoginServices:
    """Build registration and log-in; each of `newcomers` is called with every new user."""
    settings = base.settings
    registration = Registration(
        database=base.database,
        clock=base.clock,
        requirements=sessions.threepids.requirements,
        server_name=settings.server.server_name,
        guests_allowed=settings.server.allow_guest_access,
        passwords=sessions.passwords,
        sessions=sessions.sessions,
        profiles=accounts.profiles,
        appservices=sessions.appservices,
        threepids=sessions.threepids.threepids,
        newcomers=NewUserActions(newcomers),
    )
    login = Login(
        database=base.database,
        clock=base.clock,
        settings=settings.passwords,
        existing=settings.existing_session,
        identifiers=sessions.threepids.identifiers,
        credentials=sessions.credentials,
        limits=sessions.limits,
        sessions=sessions.sessions,
        appservices=sessions.appservices,
        jwt=_jwt_login(settings, registration),
        blocking=settings.blocking,
    )
    return LoginServices(
        registration=registration,
        login=login,
        part=Part(endpoints=_endpoints(base, sessions, accounts, registration, login)),
    )


def _endpoints(
    base: ProcessBase,
    sessions: SessionServices,
    accounts: AccountServices,
    registration: Registration,
    login: Login,
) -> list[object]:
    settings = base.settings
    return [
        RegisterApi(
            registration,
            sessions.interactive,
            sessions.registration_tokens,
            sessions.appservices,
            sessions.rates,
        ),
        LoginApi(
            login=login,
            sessions=sessions.sessions,
            lifecycle=accounts.lifecycle,
            interactive=sessions.interactive,
            rates=sessions.rates,
            well_known=client_wellknown_content(settings.server, settings.proposals.matrix_rtc),
        ),
    ]


def _jwt_login(settings: Settings, registration: Registration) -> JwtLogin | None:
    """Build the log-in with JSON web tokens; None if it is disabled."""
    jwt = settings.jwt
    if not jwt.enabled:
        return None
    reader = JwtVerifier(
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
