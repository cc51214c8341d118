"""Accounts: who users are, how they log in, and what the server keeps for them."""

import attrs

from hs.lib.tasks import Duty, every
from hs.nursery.process_base import Foundation
from hs.nursery.wiring.identity_servers import AddressServers
from hs.nursery.wiring.threepids import Proving, wire_proving
from hs.repl.streams import ACCOUNT_DATA, CACHES
from hs.services.accounts.account_data.account_data import (
    AccountData,
    AccountDataWriter,
    LocalAccountDataWriter,
)
from hs.services.accounts.account_data.filters import Filters
from hs.services.accounts.lifecycle.account_lifecycle import Lifecycle, RoomDeparture
from hs.services.accounts.lifecycle.account_moderation import Moderation
from hs.services.accounts.lifecycle.erased_users import ErasedUsers
from hs.services.accounts.limits.appservice_users import AbsentUsers, Appservices
from hs.services.accounts.limits.rate_limits import ConfiguredRates, LoginLimits
from hs.services.accounts.login.password_check import (
    Credentials,
    PasswordStage,
    RegistrationTokenStage,
)
from hs.services.accounts.profiles.profiles import NoRemoteProfiles, Profiles
from hs.services.accounts.sessions.authenticator import Revocations, TokenAuthenticator
from hs.services.accounts.sessions.device_management import Devices
from hs.services.accounts.sessions.interactive_auth import Dummy, InteractiveAuth, Stage
from hs.services.accounts.sessions.last_seen import LastSeen
from hs.services.accounts.sessions.openid_tokens import OpenId
from hs.services.accounts.sessions.passwords import Passwords
from hs.services.accounts.sessions.sessions import DeviceWatcher, Sessions
from hs.services.accounts.sessions.turn_credentials import TurnServers

FORGET_EVERY_S = 3600.0


@attrs.frozen(eq=False, kw_only=True)
class Identity:
    """Tokens, sessions and passwords: what proves who somebody is."""

    rates: ConfiguredRates
    limits: LoginLimits
    appservices: Appservices
    revocations: Revocations
    last_seen: LastSeen
    authenticator: TokenAuthenticator
    passwords: Passwords
    sessions: Sessions
    watcher: DeviceWatcher
    credentials: Credentials
    registration_tokens: RegistrationTokenStage
    interactive: InteractiveAuth
    proving: Proving


@attrs.frozen(eq=False, kw_only=True)
class Accounts:
    """What other services and the endpoints need of accounts."""

    identity: Identity
    profiles: Profiles
    lifecycle: Lifecycle
    moderation: Moderation
    devices: Devices
    account_data: AccountData
    filters: Filters
    openid: OpenId
    erased: ErasedUsers
    turn: TurnServers

    @property
    def duties(self) -> list[Duty]:
        """Give what runs in every process."""
        return [Duty("last seen", self.identity.last_seen.run)]

    @property
    def chores(self) -> list[Duty]:
        """Give what one process does now and then."""

        async def forget_once() -> None:
            await self.identity.interactive.forget_old()
            await self.identity.proving.proofs.forget_old()
            await self.identity.last_seen.forget_old()

        async def forget() -> None:
            await every(FORGET_EVERY_S, forget_once)

        return [Duty("forgetting old sessions", forget)]


def wire_identity(
    ground: Foundation,
    watcher: DeviceWatcher,
    appservices: Appservices,
    servers: AddressServers,
) -> Identity:
    """Build what proves who somebody is."""
    settings, database, clock = ground.settings, ground.database, ground.clock
    last_seen = LastSeen(database, clock, settings.server.user_ips_max_age)
    revocations = Revocations(ground.memory(CACHES))
    limits = LoginLimits(settings.rate_limits, ground.limiters)
    passwords = Passwords(
        settings.passwords.pepper or "",
        settings.registration.bcrypt_rounds,
        settings.passwords.policy,
        settings.passwords.scheme,
    )
    proving = wire_proving(settings, database, clock, ground.signer.key, servers, revocations)
    credentials = Credentials(database, passwords, limits, settings.passwords, proving.identifiers)
    registration_tokens = RegistrationTokenStage(database, clock)
    stages: dict[str, Stage] = {
        "m.login.dummy": Dummy(),
        "m.login.password": PasswordStage(credentials),
        "m.login.registration_token": registration_tokens,
        **proving.stages,
    }
    return Identity(
        rates=ConfiguredRates(settings.rate_limits, ground.limiters),
        limits=limits,
        appservices=appservices,
        revocations=revocations,
        last_seen=last_seen,
        authenticator=TokenAuthenticator(
            database,
            ground.feed,
            clock,
            appservices,
            last_seen,
            revocations,
            proving.consent.rule,
            hears_others=ground.hears_others,
            tracks_services=settings.appservices.track_ips,
        ),
        passwords=passwords,
        sessions=Sessions(database, clock, settings.sessions, revocations, watcher),
        watcher=watcher,
        credentials=credentials,
        registration_tokens=registration_tokens,
        interactive=InteractiveAuth(database, clock, settings.reauth, stages),
        proving=proving,
    )


def wire_accounts(
    ground: Foundation, identity: Identity, departure: RoomDeparture, absent: AbsentUsers
) -> Accounts:
    """Build the services of accounts."""
    settings, database, clock, feed = (
        ground.settings,
        ground.database,
        ground.clock,
        ground.feed,
    )
    server_name = settings.server.server_name
    sessions = identity.sessions
    profiles = Profiles(
        database,
        feed,
        ground.memory(CACHES),
        server_name,
        settings.registration,
        NoRemoteProfiles(),
        absent,
        is_shared=ground.plan.shared,
    )
    writer = ground.owned(
        AccountDataWriter,
        ACCOUNT_DATA,
        lambda: LocalAccountDataWriter(ground.table(ACCOUNT_DATA)),
    )
    return Accounts(
        identity=identity,
        profiles=profiles,
        lifecycle=_lifecycle(ground, identity, profiles, departure),
        moderation=Moderation(database, identity.revocations, server_name),
        devices=Devices(database, clock, sessions, identity.last_seen, identity.watcher),
        account_data=AccountData(database, feed, writer),
        filters=Filters(database),
        openid=OpenId(database, clock, server_name),
        erased=ErasedUsers(database, feed),
        turn=TurnServers(settings.turn, clock),
    )


def _lifecycle(
    ground: Foundation, identity: Identity, profiles: Profiles, departure: RoomDeparture
) -> Lifecycle:
    return Lifecycle(
        ground.database,
        identity.passwords,
        ground.settings.passwords,
        identity.sessions,
        profiles,
        identity.revocations,
        departure,
        identity.proving.servers.identity_servers,
    )
