"""The accounts of a composed process: users with real sessions, and a client of all endpoints.

async with open_accounts(database) as accounts:
    alice = await accounts.user("alice")
    answer = await accounts.client.get("/_matrix/client/v3/devices", token=alice.access_token)
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs

from hs.core.ids import ServerName, UserID
from hs.core.streams import ACCOUNT_DATA, DEVICE_LISTS, AccountDataRow, DeviceListRow
from hs.lib.clock import FixedClock
from hs.nursery.wiring.accounts.accounts import AccountServices, SessionServices
from hs.nursery.wiring.accounts.threepids import ThreepidServices
from hs.repl.writers import TableWriter
from hs.services.accounts.account_data.account_data import AccountDataService
from hs.services.accounts.lifecycle.account_lifecycle import AccountLifecycle
from hs.services.accounts.profiles.profiles import Profiles
from hs.services.accounts.registration.registration import NewAccount
from hs.services.accounts.sessions.authenticator import TokenAuthenticator
from hs.services.accounts.sessions.last_seen import LastSeen
from hs.services.accounts.sessions.sessions import RequestedDevice, Session, Sessions
from hs.settings.sections.server import ServerSettings
from hs.settings.settings import Settings
from hs.storage.database import Database
from tests.support.composition import (
    NO_LIMITS,
    SETTINGS,
    ComposedProcess,
    Neighbourhood,
    open_process,
    worker_settings,
)
from tests.support.proving import FakeServers
from tests.support.web import WebClient

SERVER = ServerName("test")
OPEN = SETTINGS.registration
UNLIMITED = NO_LIMITS
DEFAULTS = attrs.evolve(
    SETTINGS, server=ServerSettings(server_name=SERVER, allow_guest_access=True)
)
MAIN = worker_settings(DEFAULTS, "main", "worker")
WORKER = worker_settings(DEFAULTS, "worker", "main")


@attrs.define(eq=False)
class Accounts:
    """The accounts of a process; `device_changes` are the rows of the device lists in order."""

    process: ComposedProcess
    servers: FakeServers
    client: WebClient = attrs.field(init=False)
    device_changes: list[DeviceListRow] = attrs.Factory(list)

    def __attrs_post_init__(self) -> None:
        self.client = self.process.client()
        self.process.base.feed.subscribe(
            DEVICE_LISTS, lambda batch: self.device_changes.extend(row for _, row in batch.rows)
        )

    @property
    def database(self) -> Database:
        """The database."""
        return self.process.base.database

    @property
    def clock(self) -> FixedClock:
        """The clock, which a test may advance."""
        return self.process.clock

    @property
    def session_services(self) -> SessionServices:
        """The services that authenticate users."""
        return self.process.services.core.sessions

    @property
    def authenticator(self) -> TokenAuthenticator:
        """The authenticator."""
        return self.session_services.authenticator

    @property
    def last_seen(self) -> LastSeen:
        """The last uses of devices."""
        return self.session_services.last_seen

    @property
    def sessions(self) -> Sessions:
        """The sessions."""
        return self.session_services.sessions

    @property
    def threepids(self) -> ThreepidServices:
        """Third-party identifiers and terms of use."""
        return self.session_services.threepids

    @property
    def services(self) -> AccountServices:
        """Profiles, devices, filters and the like."""
        return self.process.services.core.accounts

    @property
    def profiles(self) -> Profiles:
        """The profiles."""
        return self.services.profiles

    @property
    def lifecycle(self) -> AccountLifecycle:
        """Password changes, deactivation and reactivation."""
        return self.services.lifecycle

    @property
    def account_data(self) -> AccountDataService:
        """The account data."""
        return self.services.account_data

    @property
    def account_data_stream(self) -> TableWriter[AccountDataRow]:
        """The writer of account data."""
        return self.process.base.table(ACCOUNT_DATA)

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
        session = await self.process.services.login.registration.register(account)
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
    settings: Settings = DEFAULTS,
    *,
    neighbours: Neighbourhood | None = None,
    **sections: Any,
) -> AsyncIterator[Accounts]:
    """Start a process; `sections` replace sections of its settings."""
    settings = attrs.evolve(settings, **sections)
    servers = FakeServers()
    async with open_process(database, settings, neighbours=neighbours, http=servers) as process:
        yield Accounts(process, servers)


@asynccontextmanager
async def open_pair(database: Database) -> AsyncIterator[tuple[Accounts, Accounts]]:
    """Start the main process and a worker."""
    neighbours = Neighbourhood()
    async with (
        open_accounts(database, MAIN, neighbours=neighbours) as main,
        open_accounts(database, WORKER, neighbours=neighbours) as worker,
    ):
        yield main, worker
