"""Accounts: authentication, profiles, devices, account data, and their lifecycle."""

import attrs

from hs.apis.client.accounts.account import AccountApi
from hs.apis.client.accounts.account_data import AccountDataApi
from hs.apis.client.accounts.devices import DevicesApi
from hs.apis.client.accounts.filter import FilterApi
from hs.apis.client.accounts.logout import LogoutApi
from hs.apis.client.accounts.moderation import AccountModerationApi
from hs.apis.client.accounts.openid_tokens import OpenIdApi
from hs.apis.client.accounts.password_policy import PasswordPolicyApi
from hs.apis.client.rooms.tags import TagsApi
from hs.apis.client.server.voip import TurnServerApi
from hs.core.streams import ACCOUNT_DATA, CACHES, PROFILE_UPDATES
from hs.lib.tasks import Duty
from hs.nursery.part import Part
from hs.nursery.plan import BACKGROUND
from hs.nursery.process_base import ProcessBase
from hs.nursery.wiring.accounts.threepid_servers import ThreepidServers
from hs.nursery.wiring.accounts.threepids import (
    ThreepidServices,
    threepid_endpoints,
    wire_threepids,
)
from hs.services.accounts.account_data.account_data import AccountDataService
from hs.services.accounts.account_data.account_data_writer import (
    AccountDataWriter,
    LocalAccountDataWriter,
)
from hs.services.accounts.account_data.filters import StoredFilters
from hs.services.accounts.lifecycle.account_lifecycle import AccountLifecycle, RoomDeparture
from hs.services.accounts.lifecycle.account_moderation import AccountModeration
from hs.services.accounts.lifecycle.erased_users import ErasedUsersCache
from hs.services.accounts.lifecycle.password_reset import PasswordReset
from hs.services.accounts.lifecycle.stale_devices import EVERY_S as STALE_EVERY_S
from hs.services.accounts.lifecycle.stale_devices import StaleDeviceCleanup
from hs.services.accounts.limits.appservice_users import Appservices, UserQueries
from hs.services.accounts.limits.rate_limits import LoginLimits, RequestRateLimits
from hs.services.accounts.login.password_check import (
    PasswordCheck,
    PasswordStage,
    RegistrationTokenStage,
)
from hs.services.accounts.profiles.profile_writer import ProfileWriter
from hs.services.accounts.profiles.profiles import Profiles, RemoteProfiles
from hs.services.accounts.sessions.authenticator import Revocations, TokenAuthenticator
from hs.services.accounts.sessions.device_management import DeviceManagement
from hs.services.accounts.sessions.interactive_auth import DummyStage, InteractiveAuth, UiaStage
from hs.services.accounts.sessions.last_seen import LastSeen
from hs.services.accounts.sessions.openid_tokens import OpenIdTokens
from hs.services.accounts.sessions.passwords import Passwords
from hs.services.accounts.sessions.sessions import DeviceWatcher, Sessions
from hs.services.accounts.sessions.turn_credentials import TurnServers

CLEANUP_EVERY_S = 3600.0


@attrs.frozen(eq=False, kw_only=True)
class SessionServices:
    """Tokens, sessions, passwords and UIA: everything that authenticates a user."""

    rates: RequestRateLimits
    limits: LoginLimits
    appservices: Appservices
    revocations: Revocations
    last_seen: LastSeen
    authenticator: TokenAuthenticator
    passwords: Passwords
    sessions: Sessions
    watcher: DeviceWatcher
    credentials: PasswordCheck
    registration_tokens: RegistrationTokenStage
    interactive: InteractiveAuth
    threepids: ThreepidServices


@attrs.frozen(eq=False, kw_only=True)
class AccountServices:
    """What other subjects and the endpoints need of accounts."""

    profiles: Profiles
    lifecycle: AccountLifecycle
    devices: DeviceManagement
    account_data: AccountDataService
    filters: StoredFilters
    erased: ErasedUsersCache
    openid: OpenIdTokens
    part: Part


def wire_sessions(
    base: ProcessBase,
    watcher: DeviceWatcher,
    appservices: Appservices,
    servers: ThreepidServers,
) -> SessionServices:
    """Build the services that authenticate users."""
    settings, database, clock = base.settings, base.database, base.clock
    last_seen = LastSeen(database, clock, settings.server.user_ips_max_age)
    revocations = Revocations(base.memory(CACHES))
    limits = LoginLimits(settings.rate_limits, base.limiters)
    passwords = Passwords(
        settings.passwords.pepper or "",
        settings.registration.bcrypt_rounds,
        settings.passwords.policy,
        settings.passwords.scheme,
    )
    threepids = wire_threepids(base, servers, revocations)
    credentials = PasswordCheck(
        database, passwords, limits, settings.passwords, threepids.identifiers
    )
    rates = RequestRateLimits(settings.rate_limits, base.limiters)
    registration_tokens = RegistrationTokenStage(database, clock, rates)
    stages: dict[str, UiaStage] = {
        "m.login.dummy": DummyStage(),
        "m.login.password": PasswordStage(credentials),
        "m.login.registration_token": registration_tokens,
        **threepids.stages,
    }
    return SessionServices(
        rates=rates,
        limits=limits,
        appservices=appservices,
        revocations=revocations,
        last_seen=last_seen,
        authenticator=TokenAuthenticator(
            database=database,
            feed=base.feed,
            clock=clock,
            appservices=appservices,
            last_seen=last_seen,
            revocations=revocations,
            consent=threepids.consent.rule,
            hears_others=base.is_connected,
            tracks_services=settings.appservices.track_ips,
        ),
        passwords=passwords,
        sessions=Sessions(database, clock, settings.sessions, revocations, watcher),
        watcher=watcher,
        credentials=credentials,
        registration_tokens=registration_tokens,
        interactive=InteractiveAuth(database, clock, settings.reauth, stages),
        threepids=threepids,
    )


def wire_accounts(
    base: ProcessBase,
    sessions: SessionServices,
    departure: RoomDeparture,
    absent: UserQueries,
    remote: RemoteProfiles,
) -> AccountServices:
    """Build profiles, devices, account data and the lifecycle of accounts."""
    settings, database, feed = base.settings, base.database, base.feed
    profiles = _profiles(base, absent, remote)
    writer = base.sharded(
        AccountDataWriter,
        ACCOUNT_DATA,
        lambda: LocalAccountDataWriter(base.table(ACCOUNT_DATA)),
    )
    account_data = AccountDataService(database, feed, writer)
    filters = StoredFilters(database)
    devices = DeviceManagement(
        database, base.clock, sessions.sessions, sessions.last_seen, sessions.watcher
    )
    lifecycle = AccountLifecycle(
        database=database,
        passwords=sessions.passwords,
        password_settings=settings.passwords,
        sessions=sessions.sessions,
        profiles=profiles,
        revocations=sessions.revocations,
        departure=departure,
        published=sessions.threepids.servers.identity_servers,
    )
    openid = OpenIdTokens(database, base.clock, settings.server.server_name)
    endpoints = [
        *_account_endpoints(base, sessions, lifecycle, devices),
        *threepid_endpoints(settings, sessions.threepids, lifecycle, sessions.interactive),
        AccountDataApi(account_data),
        TagsApi(account_data),
        FilterApi(filters),
        OpenIdApi(openid),
    ]
    return AccountServices(
        profiles=profiles,
        lifecycle=lifecycle,
        devices=devices,
        account_data=account_data,
        filters=filters,
        erased=ErasedUsersCache(database, feed),
        openid=openid,
        part=Part(endpoints=endpoints, duties=_duties(base, sessions)),
    )


def _profiles(base: ProcessBase, absent: UserQueries, remote: RemoteProfiles) -> Profiles:
    settings = base.settings
    return Profiles(
        database=base.database,
        feed=base.feed,
        caches=base.memory(CACHES),
        writer=ProfileWriter(base.shared(PROFILE_UPDATES)),
        server_name=settings.server.server_name,
        settings=settings.registration,
        remote=remote,
        absent=absent,
        is_shared=base.plan.shared,
    )


def _account_endpoints(
    base: ProcessBase,
    sessions: SessionServices,
    lifecycle: AccountLifecycle,
    devices: DeviceManagement,
) -> list[object]:
    settings, threepids = base.settings, sessions.threepids
    reset = PasswordReset(lifecycle, threepids.threepids, threepids.proofs)
    return [
        LogoutApi(sessions.sessions),
        AccountApi(lifecycle, sessions.interactive, reset, sessions.rates),
        PasswordPolicyApi(settings.passwords.policy),
        AccountModerationApi(
            AccountModeration(base.database, sessions.revocations, settings.server.server_name)
        ),
        DevicesApi(devices, lifecycle, sessions.interactive),
        TurnServerApi(TurnServers(settings.turn, base.clock)),
    ]


def _duties(base: ProcessBase, sessions: SessionServices) -> list[Duty]:
    async def forget() -> None:
        await sessions.interactive.delete_expired_sessions()
        await sessions.threepids.proofs.delete_expired()
        await sessions.last_seen.clear_old_addresses()

    duties = [
        Duty("last seen", sessions.last_seen.run),
        Duty(
            "session cleanup",
            forget,
            plan_duty=BACKGROUND,
            period_s=CLEANUP_EVERY_S,
            at_start=False,
        ),
    ]
    period_ms = base.settings.server.delete_stale_devices_after
    if period_ms is not None:
        stale = StaleDeviceCleanup(base.database, base.clock, sessions.sessions, period_ms)
        duties.append(
            Duty(
                "stale device deletion", stale.delete, plan_duty=BACKGROUND, period_s=STALE_EVERY_S
            )
        )
    return duties
