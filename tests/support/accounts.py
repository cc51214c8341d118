"""The accounts part of a server, and a client of its endpoints that uses no sockets.

async with open_accounts(database) as accounts:
    alice = await accounts.user("alice")
    answer = await accounts.client.get("/_matrix/client/v3/devices", token=alice.access_token)
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from hs.apis.admin.register import AdminRegisterApi
from hs.apis.admin.whois import WhoisApi
from hs.apis.client.accounts.account import AccountApi
from hs.apis.client.accounts.account_data import AccountDataApi
from hs.apis.client.accounts.devices import DevicesApi
from hs.apis.client.accounts.filter import FilterApi
from hs.apis.client.accounts.login import LoginApi
from hs.apis.client.accounts.logout import LogoutApi
from hs.apis.client.accounts.moderation import AccountModerationApi
from hs.apis.client.accounts.openid import OpenIdApi
from hs.apis.client.accounts.password_policy import PasswordPolicyApi
from hs.apis.client.accounts.profiles import ProfilesApi
from hs.apis.client.accounts.register import RegisterApi
from hs.apis.client.appservices.thirdparty import ThirdPartyApi
from hs.apis.client.rooms.tags import TagsApi
from hs.apis.client.server.capabilities import CapabilitiesApi
from hs.apis.client.server.versions import VersionsApi
from hs.apis.client.server.voip import TurnServerApi
from hs.apis.client.server.wellknown import WellKnownApi, client_wellknown_content
from hs.apis.federation.openid import OpenIdUserInfoApi
from hs.apis.federation.version import ServerVersionApi
from hs.apis.web.app import Application
from hs.apis.web.route import collect
from hs.core.ids import ServerName, UserID
from hs.core.streams import ACCOUNT_DATA, CACHES, AccountDataRow, CacheRow
from hs.lib.clock import FixedClock
from hs.nursery.wiring.login import jwt_login
from hs.nursery.wiring.threepid_servers import ThreepidServers
from hs.nursery.wiring.threepids import ThreepidServices, threepid_endpoints, wire_threepids
from hs.repl.feed import Feed
from hs.repl.inproc import InProcHub, InProcTransport
from hs.repl.memory_writer import MemoryWriter, epoch_at
from hs.repl.writers import TableWriter
from hs.services.accounts.account_data.account_data import (
    AccountDataService,
    LocalAccountDataWriter,
)
from hs.services.accounts.account_data.filters import StoredFilters
from hs.services.accounts.lifecycle.account_lifecycle import AccountLifecycle
from hs.services.accounts.lifecycle.account_moderation import AccountModeration
from hs.services.accounts.lifecycle.erased_users import ErasedUsersCache
from hs.services.accounts.lifecycle.password_reset import PasswordReset
from hs.services.accounts.limits.appservice_users import NoAppservices
from hs.services.accounts.limits.rate_limits import LoginLimits, RequestRateLimits
from hs.services.accounts.login.login import Login
from hs.services.accounts.login.password_check import (
    PasswordCheck,
    PasswordStage,
    RegistrationTokenStage,
)
from hs.services.accounts.profiles.profile_changes import ProfileChanges
from hs.services.accounts.profiles.profile_visibility import ProfileVisibility
from hs.services.accounts.profiles.profiles import NoRemoteProfiles, Profiles
from hs.services.accounts.registration.registration import NewAccount, Registration
from hs.services.accounts.registration.shared_secret_registration import SharedSecretRegistration
from hs.services.accounts.sessions.authenticator import Revocations, TokenAuthenticator
from hs.services.accounts.sessions.device_management import DeviceManagement
from hs.services.accounts.sessions.interactive_auth import (
    DUMMY,
    PASSWORD,
    REGISTRATION_TOKEN,
    DummyStage,
    InteractiveAuth,
    UiaStage,
)
from hs.services.accounts.sessions.last_seen import LastSeen
from hs.services.accounts.sessions.openid_tokens import OpenIdTokens
from hs.services.accounts.sessions.passwords import Passwords
from hs.services.accounts.sessions.sessions import RequestedDevice, Session, Sessions
from hs.services.accounts.sessions.turn_credentials import TurnServers
from hs.services.appservices.appservice_client import AppserviceClient
from hs.services.appservices.appservice_identities import AppserviceIdentities
from hs.services.appservices.appservice_registry import AppserviceRegistry
from hs.services.appservices.third_party_networks import ThirdPartyNetworks
from hs.settings.sections.accounts import (
    PasswordSettings,
    ReauthSettings,
    RegistrationSettings,
    SessionSettings,
)
from hs.settings.sections.rate_limits import LoginRates, Rate, RateLimitSettings
from hs.settings.sections.server import ServerSettings
from hs.settings.settings import Settings
from hs.storage.database import Database
from tests.support.proving import KEY, FakeCaptcha, FakeIdentityServer, address_servers
from tests.support.sharing import SharedRooms
from tests.support.web import WebClient

SERVER = ServerName("test")
PLENTY = Rate(1000, 1000)
OPEN = RegistrationSettings(enable_registration=True, bcrypt_rounds=4)
UNLIMITED = RateLimitSettings(
    rc_registration=PLENTY,
    rc_registration_token_validity=PLENTY,
    rc_login=LoginRates(address=PLENTY, account=PLENTY, failed_attempts=PLENTY),
)
DEFAULTS = Settings(
    server=ServerSettings(server_name=SERVER, allow_guest_access=True),
    registration=OPEN,
    rate_limits=UNLIMITED,
)


class RecordingWatcher:
    """A DeviceWatcher, RoomDeparture and Newcomers that records all calls."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []
        self.arrivals: list[UserID] = []

    async def devices_changed(self, user_id: UserID, device_ids: list[str]) -> None:
        self.seen.append(("changed", user_id, sorted(device_ids)))

    async def devices_removed(self, user_id: UserID, device_ids: list[str]) -> None:
        self.seen.append(("removed", user_id, sorted(device_ids)))

    async def arrived(self, user_id: UserID, *, is_guest: bool) -> None:
        self.arrivals.append(user_id)

    async def depart(self, user_id: UserID) -> None:
        self.seen.append(("departed", user_id))


@attrs.define(eq=False)
class Accounts:
    """The services of the accounts part, and a client."""

    database: Database
    feed: Feed
    clock: FixedClock
    settings: Settings
    watcher: RecordingWatcher
    authenticator: TokenAuthenticator
    last_seen: LastSeen
    sessions: Sessions
    profiles: Profiles
    registration: Registration
    login: Login
    lifecycle: AccountLifecycle
    revocations: Revocations
    interactive: InteractiveAuth
    services: AppserviceIdentities
    account_data: AccountDataService
    account_data_stream: TableWriter[AccountDataRow]
    filters: StoredFilters
    openid: OpenIdTokens
    erased: ErasedUsersCache
    rates: RequestRateLimits
    tokens: RegistrationTokenStage
    devices: DeviceManagement
    proving: ThreepidServices
    world: FakeIdentityServer
    puzzles: FakeCaptcha
    client: WebClient = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        application = Application(collect(*apis_of(self)), self.authenticator, rates=self.rates)
        self.client = WebClient(application)

    async def user(
        self, name: str, *, password: str | None = None, device_id: str | None = None, **more: Any
    ) -> Session:
        """Register a user with a device and return the session.

        Without a password no hash is computed, which is faster.
        """
        account = NewAccount(
            user_id=UserID(f"@{name}:{SERVER}"),
            password=password,
            device=RequestedDevice(device_id=device_id or name.upper()),
            **more,
        )
        session = await self.registration.register(account)
        assert session is not None
        return session

    async def log_in(self, name: str, password: str, **more: Any) -> Any:
        """Log in with a password over HTTP and return the response body."""
        body = {"type": "m.login.password", "user": name, "password": password, **more}
        response = await self.client.post("/_matrix/client/v3/login", body)
        assert response.status == 200, response.body
        return response.json


@asynccontextmanager
async def open_accounts(
    database: Database,
    *,
    settings: Settings = DEFAULTS,
    sessions: SessionSettings | None = None,
    registration: RegistrationSettings | None = None,
    passwords: PasswordSettings | None = None,
    reauth: ReauthSettings | None = None,
    rate_limits: RateLimitSettings | None = None,
    hub: InProcHub | None = None,
    instance: str = "main",
    clock: FixedClock | None = None,
) -> AsyncIterator[Accounts]:
    """Start the accounts part of a server."""
    overrides: dict[str, Any] = {
        "sessions": sessions,
        "registration": registration,
        "passwords": passwords,
        "reauth": reauth,
        "rate_limits": rate_limits,
    }
    settings = attrs.evolve(
        settings, **{name: value for name, value in overrides.items() if value is not None}
    )
    accounts = make_accounts(
        database, settings, hub or InProcHub(), instance, clock or FixedClock()
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(accounts.account_data_stream.run)
        yield accounts
        nursery.cancel_scope.cancel()


@attrs.frozen(eq=False)
class _Base:
    """The dependencies that several services share."""

    database: Database
    settings: Settings
    clock: FixedClock
    feed: Feed
    transport: InProcTransport
    caches: MemoryWriter[CacheRow]
    instance: str
    watching: RecordingWatcher
    world: FakeIdentityServer
    puzzles: FakeCaptcha
    services: AppserviceIdentities


def make_accounts(
    database: Database,
    settings: Settings,
    hub: InProcHub,
    instance: str,
    clock: FixedClock,
) -> Accounts:
    """Build the services."""
    feed = Feed()
    transport = hub.join(feed)
    caches: MemoryWriter[CacheRow] = MemoryWriter(
        CACHES, instance, transport, epoch_at(clock.now_ms())
    )
    caches.attach()
    registry = AppserviceRegistry(settings.appservices.registrations, SERVER)
    return _build(
        _Base(
            database=database,
            settings=settings,
            clock=clock,
            feed=feed,
            transport=transport,
            caches=caches,
            instance=instance,
            watching=RecordingWatcher(),
            world=FakeIdentityServer(),
            puzzles=FakeCaptcha(),
            services=AppserviceIdentities(registry, database, feed),
        )
    )


def _build(base: _Base) -> Accounts:
    database, settings, clock, feed = base.database, base.settings, base.clock, base.feed
    revocations, last_seen = Revocations(base.caches), LastSeen(database, clock)
    limits = LoginLimits(settings.rate_limits)
    servers = address_servers(settings, database, base.world, base.puzzles)
    proving = wire_threepids(settings, database, clock, KEY, servers, revocations)
    authenticator = TokenAuthenticator(
        database=database,
        feed=feed,
        clock=clock,
        appservices=base.services,
        last_seen=last_seen,
        revocations=revocations,
        consent=proving.consent.rule,
    )
    hasher = _hasher(settings)
    sessions = Sessions(database, clock, settings.sessions, revocations, base.watching)
    profiles = Profiles(
        database=database,
        feed=feed,
        caches=base.caches,
        server_name=SERVER,
        settings=settings.registration,
        remote=NoRemoteProfiles(),
        absent=NoAppservices(),
    )
    credentials = PasswordCheck(database, hasher, limits, settings.passwords, proving.identifiers)
    tokens = RegistrationTokenStage(database, clock)
    registration = _registration(base, hasher, sessions, profiles, proving)
    stream = TableWriter(ACCOUNT_DATA, base.instance, database, base.transport, clock.now_ms)
    return Accounts(
        database=database,
        feed=feed,
        clock=clock,
        settings=settings,
        watcher=base.watching,
        authenticator=authenticator,
        last_seen=last_seen,
        sessions=sessions,
        profiles=profiles,
        registration=registration,
        login=_login(base, credentials, limits, sessions, proving, registration),
        lifecycle=_lifecycle(base, hasher, sessions, profiles, revocations, servers),
        services=base.services,
        proving=proving,
        world=base.world,
        puzzles=base.puzzles,
        revocations=revocations,
        interactive=InteractiveAuth(
            database, clock, settings.reauth, _stages(credentials, tokens, proving)
        ),
        account_data=AccountDataService(database, feed, LocalAccountDataWriter(stream)),
        account_data_stream=stream,
        filters=StoredFilters(database),
        openid=OpenIdTokens(database, clock, SERVER),
        erased=ErasedUsersCache(database, feed),
        rates=RequestRateLimits(settings.rate_limits),
        tokens=tokens,
        devices=DeviceManagement(database, clock, sessions, last_seen, base.watching),
    )


def _stages(
    credentials: PasswordCheck, tokens: RegistrationTokenStage, proving: ThreepidServices
) -> dict[str, UiaStage]:
    return {
        DUMMY: DummyStage(),
        PASSWORD: PasswordStage(credentials),
        REGISTRATION_TOKEN: tokens,
        **proving.stages,
    }


def _hasher(settings: Settings) -> Passwords:
    passwords = settings.passwords
    rounds = settings.registration.bcrypt_rounds
    return Passwords(passwords.pepper, rounds, passwords.policy, passwords.scheme)


def _lifecycle(
    base: _Base,
    hasher: Passwords,
    sessions: Sessions,
    profiles: Profiles,
    revocations: Revocations,
    servers: ThreepidServers,
) -> AccountLifecycle:
    return AccountLifecycle(
        database=base.database,
        passwords=hasher,
        password_settings=base.settings.passwords,
        sessions=sessions,
        profiles=profiles,
        revocations=revocations,
        departure=base.watching,
        published=servers.identity_servers,
    )


def _registration(
    base: _Base,
    hasher: Passwords,
    sessions: Sessions,
    profiles: Profiles,
    proving: ThreepidServices,
) -> Registration:
    settings = base.settings
    return Registration(
        database=base.database,
        clock=base.clock,
        requirements=proving.requirements,
        server_name=SERVER,
        guests_allowed=settings.server.allow_guest_access,
        passwords=hasher,
        sessions=sessions,
        profiles=profiles,
        appservices=base.services,
        threepids=proving.threepids,
        newcomers=base.watching,
    )


def _login(
    base: _Base,
    credentials: PasswordCheck,
    limits: LoginLimits,
    sessions: Sessions,
    proving: ThreepidServices,
    registration: Registration,
) -> Login:
    return Login(
        database=base.database,
        clock=base.clock,
        settings=base.settings.passwords,
        existing=base.settings.existing_session,
        identifiers=proving.identifiers,
        credentials=credentials,
        limits=limits,
        sessions=sessions,
        appservices=base.services,
        jwt=jwt_login(base.settings, registration),
    )


def apis_of(accounts: Accounts) -> list[object]:
    """Return the objects that declare the endpoints."""
    settings, interactive, lifecycle = accounts.settings, accounts.interactive, accounts.lifecycle
    registration, sessions = accounts.registration, accounts.sessions
    secret = settings.registration.registration_shared_secret
    proving = accounts.proving
    registry = AppserviceRegistry(settings.appservices.registrations, SERVER)
    return [
        RegisterApi(registration, interactive, accounts.tokens, accounts.services, accounts.rates),
        AdminRegisterApi(
            SharedSecretRegistration(accounts.database, accounts.clock, secret), registration
        ),
        LoginApi(
            login=accounts.login,
            sessions=sessions,
            lifecycle=lifecycle,
            interactive=interactive,
            rates=accounts.rates,
            well_known=client_wellknown_content(settings.server, settings.proposals.matrix_rtc),
        ),
        LogoutApi(sessions),
        AccountApi(
            lifecycle, interactive, PasswordReset(lifecycle, proving.threepids, proving.proofs)
        ),
        *threepid_endpoints(settings, proving, lifecycle, interactive),
        PasswordPolicyApi(settings.passwords.policy),
        AccountModerationApi(AccountModeration(accounts.database, accounts.revocations, SERVER)),
        DevicesApi(accounts.devices, lifecycle, interactive),
        ProfilesApi(
            accounts.profiles,
            ProfileChanges(accounts.profiles),
            ProfileVisibility(
                SharedRooms(),
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
        ThirdPartyApi(ThirdPartyNetworks(registry, AppserviceClient(accounts.world, False))),
        TurnServerApi(TurnServers(settings.turn, accounts.clock)),
        VersionsApi(settings.proposals, settings.rooms),
        CapabilitiesApi(
            lifecycle=lifecycle,
            login=accounts.login,
            registration=settings.registration,
            default_room_version="11",
            may_change_threepids=proving.threepids.may_change,
            forgets_left_rooms=settings.rooms.forget_rooms_on_leave,
        ),
        WellKnownApi(settings.server),
    ]
