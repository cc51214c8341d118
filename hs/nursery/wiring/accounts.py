"""Accounts: tokens, sessions, registration, login, profiles, devices."""

import attrs

from hs.lib.tasks import Duty
from hs.nursery.foundation import Foundation
from hs.repl.streams import CACHES
from hs.services.accounts.appservices import NoAppservices
from hs.services.accounts.credentials import Credentials, PasswordStage, RegistrationTokenStage
from hs.services.accounts.last_seen import LastSeen
from hs.services.accounts.lifecycle import Lifecycle, NoRooms
from hs.services.accounts.login import Login
from hs.services.accounts.passwords import Passwords
from hs.services.accounts.profiles import NoRemoteProfiles, Profiles
from hs.services.accounts.rate_limits import ConfiguredRates, LoginLimits
from hs.services.accounts.registration import Registration
from hs.services.accounts.sessions import NobodyWatches, Sessions
from hs.services.accounts.tokens import Revocations, TokenAuthenticator
from hs.services.accounts.uia import Dummy, InteractiveAuth, Stage


@attrs.frozen(eq=False, kw_only=True)
class Accounts:
    """What other services and the endpoints need of accounts."""

    rates: ConfiguredRates
    authenticator: TokenAuthenticator
    revocations: Revocations
    last_seen: LastSeen
    passwords: Passwords
    sessions: Sessions
    profiles: Profiles
    registration: Registration
    credentials: Credentials
    login: Login
    lifecycle: Lifecycle
    interactive: InteractiveAuth
    registration_tokens: RegistrationTokenStage
    appservices: NoAppservices

    @property
    def duties(self) -> list[Duty]:
        """Give what runs in every process."""
        return [Duty("last seen", self.last_seen.run)]


def wire_accounts(ground: Foundation) -> Accounts:
    """Build the services of accounts."""
    settings, database, clock = ground.settings, ground.database, ground.clock
    server_name = settings.server.server_name
    caches = ground.memory(CACHES)
    appservices = NoAppservices()
    last_seen = LastSeen(database, clock)
    revocations = Revocations(caches)
    authenticator = TokenAuthenticator(
        database, ground.feed, clock, appservices, last_seen, revocations
    )
    passwords = Passwords(
        settings.passwords.pepper or "",
        settings.registration.bcrypt_rounds,
        settings.passwords.policy,
    )
    sessions = Sessions(database, clock, settings.sessions, revocations, NobodyWatches())
    profiles = Profiles(
        database, ground.feed, caches, server_name, settings.registration, NoRemoteProfiles()
    )
    registration = Registration(
        database,
        clock,
        settings.registration,
        server_name,
        settings.server.allow_guest_access,
        passwords,
        sessions,
        profiles,
        appservices,
    )
    limits = LoginLimits(settings.rate_limits)
    credentials = Credentials(database, passwords, limits, settings.passwords, server_name)
    login = Login(
        database,
        clock,
        settings.passwords,
        server_name,
        credentials,
        limits,
        sessions,
        appservices,
    )
    registration_tokens = RegistrationTokenStage(database, clock)
    lifecycle = Lifecycle(
        database,
        passwords,
        settings.passwords,
        sessions,
        profiles,
        revocations,
        NoRooms(),
    )
    stages: dict[str, Stage] = {
        "m.login.dummy": Dummy(),
        "m.login.password": PasswordStage(credentials),
        "m.login.registration_token": registration_tokens,
    }
    return Accounts(
        rates=ConfiguredRates(settings.rate_limits),
        authenticator=authenticator,
        revocations=revocations,
        last_seen=last_seen,
        passwords=passwords,
        sessions=sessions,
        profiles=profiles,
        registration=registration,
        credentials=credentials,
        login=login,
        interactive=InteractiveAuth(database, clock, settings.reauth, stages),
        lifecycle=lifecycle,
        registration_tokens=registration_tokens,
        appservices=appservices,
    )
