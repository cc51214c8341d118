"""A small server's accounts without HTTP, and a client of their endpoints, for tests.

async with open_accounts(database) as accounts:
    alice = await accounts.user("alice")
    answer = await accounts.client.get("/_matrix/client/v3/devices", token=alice.access_token)
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from hs.apis.client.account import AccountApi
from hs.apis.client.account_data import AccountDataApi
from hs.apis.client.admin_register import AdminRegisterApi
from hs.apis.client.capabilities import CapabilitiesApi
from hs.apis.client.devices import DevicesApi
from hs.apis.client.filter import FilterApi
from hs.apis.client.login import LoginApi
from hs.apis.client.logout import LogoutApi
from hs.apis.client.openid import OpenIdApi
from hs.apis.client.profile import ProfileApi
from hs.apis.client.register import RegisterApi
from hs.apis.client.tags import TagsApi
from hs.apis.client.thirdparty import ThirdPartyApi
from hs.apis.client.versions import VersionsApi
from hs.apis.client.voip import VoipApi
from hs.apis.client.wellknown import WellKnownApi
from hs.apis.web.app import Application
from hs.apis.web.route import collect
from hs.core.ids import ServerName, UserID
from hs.core.requester import Requester
from hs.lib.clock import FixedClock
from hs.repl.feed import Feed
from hs.repl.inproc import InProcHub
from hs.repl.memory_writer import MemoryWriter, epoch_at
from hs.repl.rows import AccountDataRow, CacheRow
from hs.repl.streams import ACCOUNT_DATA, CACHES
from hs.repl.writers import TableWriter
from hs.services.accounts.account_data import AccountData, LocalAccountDataWriter
from hs.services.accounts.appservices import NoAppservices
from hs.services.accounts.credentials import Credentials, PasswordStage, RegistrationTokenStage
from hs.services.accounts.devices import Devices
from hs.services.accounts.erasure import ErasedUsers
from hs.services.accounts.filters import Filters
from hs.services.accounts.last_seen import LastSeen
from hs.services.accounts.lifecycle import Lifecycle
from hs.services.accounts.login import Login
from hs.services.accounts.openid import OpenId
from hs.services.accounts.passwords import Passwords
from hs.services.accounts.profile_changes import ProfileChanges
from hs.services.accounts.profiles import NoRemoteProfiles, Profiles
from hs.services.accounts.rate_limits import ConfiguredRates, LoginLimits
from hs.services.accounts.registration import NewAccount, Registration
from hs.services.accounts.sessions import DeviceWish, Session, Sessions
from hs.services.accounts.shared_secret import SharedSecret
from hs.services.accounts.tokens import Revocations, TokenAuthenticator
from hs.services.accounts.turn import TurnServers
from hs.services.accounts.uia import DUMMY, PASSWORD, REGISTRATION_TOKEN, Dummy, InteractiveAuth
from hs.settings.accounts import (
    PasswordSettings,
    ReauthSettings,
    RegistrationSettings,
    SessionSettings,
)
from hs.settings.limits import LoginRates, Rate, RateLimitSettings
from hs.settings.server import ServerSettings
from hs.settings.settings import Settings
from hs.storage.database import Database
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


class Watching:
    """A DeviceWatcher, RoomDeparture and ProfilePropagation that remembers."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    async def devices_changed(self, user_id: UserID, device_ids: list[str]) -> None:
        self.seen.append(("changed", user_id, sorted(device_ids)))

    async def devices_removed(self, user_id: UserID, device_ids: list[str]) -> None:
        self.seen.append(("removed", user_id, sorted(device_ids)))

    async def depart(self, user_id: UserID) -> None:
        self.seen.append(("departed", user_id))

    async def profile_changed(self, requester: Requester, profile: Mapping[str, Any]) -> None:
        self.seen.append(("profile", requester.user_id, dict(profile)))


@attrs.define(eq=False)
class Accounts:
    """The pieces, and a client."""

    database: Database
    feed: Feed
    clock: FixedClock
    settings: Settings
    watching: Watching
    authenticator: TokenAuthenticator
    last_seen: LastSeen
    sessions: Sessions
    profiles: Profiles
    registration: Registration
    login: Login
    lifecycle: Lifecycle
    revocations: Revocations
    interactive: InteractiveAuth
    account_data: AccountData
    account_data_stream: TableWriter[AccountDataRow]
    filters: Filters
    openid: OpenId
    erased: ErasedUsers
    client: WebClient

    async def user(
        self, name: str, *, password: str | None = None, device_id: str | None = None, **more: Any
    ) -> Session:
        """Make a user, logged in; without a password there is no hashing to wait for."""
        account = NewAccount(
            user_id=UserID(f"@{name}:{SERVER}"),
            password=password,
            device=DeviceWish(device_id=device_id or name.upper()),
            **more,
        )
        session = await self.registration.register(account)
        assert session is not None
        return session

    async def log_in(self, name: str, password: str, **more: Any) -> Any:
        """Log in over HTTP and give the body of the answer."""
        body = {"type": "m.login.password", "user": name, "password": password, **more}
        answer = await self.client.post("/_matrix/client/v3/login", body)
        assert answer.status == 200, answer.body
        return answer.json


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
    issues_tokens: bool = False,
) -> AsyncIterator[Accounts]:
    """Start the accounts' part of a server."""
    given: dict[str, Any] = {
        "sessions": sessions,
        "registration": registration,
        "passwords": passwords,
        "reauth": reauth,
        "rate_limits": rate_limits,
    }
    settings = attrs.evolve(settings, **{k: v for k, v in given.items() if v is not None})
    accounts = make_accounts(
        database, settings, hub or InProcHub(), instance, clock or FixedClock(), issues_tokens
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(accounts.account_data_stream.run)
        yield accounts
        nursery.cancel_scope.cancel()


def make_accounts(
    database: Database,
    settings: Settings,
    hub: InProcHub,
    instance: str,
    clock: FixedClock,
    issues_tokens: bool,
) -> Accounts:
    """Build the pieces."""
    feed = Feed()
    transport = hub.join(feed)
    caches: MemoryWriter[CacheRow] = MemoryWriter(
        CACHES, instance, transport, epoch_at(clock.now_ms())
    )
    caches.attach()
    watching = Watching()
    appservices = NoAppservices()
    limits = LoginLimits(settings.rate_limits)
    rates = ConfiguredRates(settings.rate_limits)
    revocations = Revocations(caches)
    last_seen = LastSeen(database, clock)
    authenticator = TokenAuthenticator(database, feed, clock, appservices, last_seen, revocations)
    hasher = Passwords(
        settings.passwords.pepper, settings.registration.bcrypt_rounds, settings.passwords.policy
    )
    session_service = Sessions(database, clock, settings.sessions, revocations, watching)
    profiles = Profiles(database, feed, caches, SERVER, settings.registration, NoRemoteProfiles())
    credentials = Credentials(database, hasher, limits, settings.passwords, SERVER)
    token_stage = RegistrationTokenStage(database, clock)
    interactive = InteractiveAuth(
        database,
        clock,
        settings.reauth,
        {DUMMY: Dummy(), PASSWORD: PasswordStage(credentials), REGISTRATION_TOKEN: token_stage},
    )
    registration = Registration(
        database,
        clock,
        settings.registration,
        SERVER,
        settings.server.allow_guest_access,
        hasher,
        session_service,
        profiles,
        appservices,
    )
    login = Login(
        database,
        clock,
        settings.passwords,
        SERVER,
        credentials,
        limits,
        session_service,
        appservices,
        issues_tokens,
    )
    lifecycle = Lifecycle(
        database, hasher, settings.passwords, session_service, profiles, revocations, watching
    )
    stream = TableWriter(ACCOUNT_DATA, instance, database, transport, clock.now_ms)
    account_data = AccountData(database, feed, LocalAccountDataWriter(stream))
    devices = Devices(database, clock, session_service, last_seen, watching)
    filters = Filters(database)
    openid = OpenId(database, clock, SERVER)
    secret = SharedSecret(database, clock, settings.registration.registration_shared_secret)
    endpoints = collect(
        RegisterApi(registration, interactive, token_stage, appservices, rates),
        AdminRegisterApi(secret, registration),
        LoginApi(login, session_service, lifecycle, interactive),
        LogoutApi(session_service),
        AccountApi(lifecycle, interactive),
        DevicesApi(devices, lifecycle, interactive),
        ProfileApi(
            profiles,
            ProfileChanges(profiles, watching),
            settings.server.require_auth_for_profile_requests,
        ),
        AccountDataApi(account_data),
        TagsApi(account_data),
        FilterApi(filters),
        OpenIdApi(openid),
        ThirdPartyApi(),
        VoipApi(TurnServers(settings.turn, clock)),
        VersionsApi(),
        CapabilitiesApi(lifecycle, login, settings.registration, "11"),
        WellKnownApi(settings.server),
    )
    return Accounts(
        database=database,
        feed=feed,
        clock=clock,
        settings=settings,
        watching=watching,
        authenticator=authenticator,
        last_seen=last_seen,
        sessions=session_service,
        profiles=profiles,
        registration=registration,
        login=login,
        lifecycle=lifecycle,
        revocations=revocations,
        interactive=interactive,
        account_data=account_data,
        account_data_stream=stream,
        filters=filters,
        openid=openid,
        erased=ErasedUsers(database, feed),
        client=WebClient(Application(endpoints, authenticator, rates=rates)),
    )
