"""What the users of a composed process do in rooms.

async with open_actions(database) as acts:
    answer = await acts.client().post("/_matrix/client/v3/createRoom", {}, token="alice")
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
import orjson

from hs.core.events.event import Event
from hs.core.ids import EventID, RoomID, UserID
from hs.core.requester import Requester
from hs.lib.clock import FixedClock
from hs.lib.http_client import HttpClient
from hs.nursery.services import Services
from hs.services.directory.aliases import LocalAliases
from hs.services.directory.public_rooms import PublicRooms
from hs.services.rooms.creation.room_creation import RoomCreation
from hs.services.rooms.creation.room_upgrade import RoomUpgrade
from hs.services.rooms.membership.membership import RoomMembership
from hs.services.rooms.sending.delayed_events import DelayedEvents
from hs.services.rooms.store.memberships import Memberships
from hs.settings.sections.proposals import ProposalSettings
from hs.settings.sections.rooms import RoomSettings
from hs.settings.settings import Settings
from hs.storage.database import Database
from tests.support.composition import SERVER, SETTINGS, Neighbourhood, open_process
from tests.support.rooms import ALICE, BOB, CAROL, World
from tests.support.web import Tokens, WebClient

DAVE = UserID(f"@dave:{SERVER}")
DELAYED_EVENTS = attrs.evolve(
    SETTINGS, proposals=ProposalSettings(max_event_delay_duration=24 * 3600 * 1000)
)


@attrs.define(eq=False)
class Actions:
    """The services by which users act in the rooms of a process."""

    world: World
    tokens: Tokens = attrs.Factory(Tokens)
    _client: WebClient | None = None

    def __attrs_post_init__(self) -> None:
        for user_id in (ALICE, BOB, CAROL, DAVE):
            self.user(user_id)

    @property
    def services(self) -> Services:
        """All services of the process."""
        return self.world.process.services

    @property
    def memberships(self) -> Memberships:
        """The memberships."""
        return self.world.memberships

    @property
    def aliases(self) -> LocalAliases:
        """The aliases of this server."""
        return self.services.aliases.aliases

    @property
    def public_rooms(self) -> PublicRooms:
        """The room directory."""
        return self.services.aliases.public_rooms

    @property
    def creation(self) -> RoomCreation:
        """The creation of rooms."""
        return self.services.creation.creation

    @property
    def upgrades(self) -> RoomUpgrade:
        """The upgrade of rooms."""
        return self.services.creation.upgrades

    @property
    def membership(self) -> RoomMembership:
        """Joining, leaving and inviting."""
        return self.services.members.membership

    @property
    def delayed(self) -> DelayedEvents:
        """Delayed events."""
        return self.services.sending.delayed

    def user(self, user_id: UserID, **more: Any) -> Requester:
        """Create an access token for a user, equal to the localpart, and return the requester."""
        name = user_id[1:].partition(":")[0]
        requester = Requester(user_id, **{"device_id": name.upper(), "token_id": 1, **more})
        self.tokens.requesters[name] = requester
        return requester

    def client(self) -> WebClient:
        """Return a client of all endpoints."""
        if self._client is None:
            self._client = self.world.process.client(self.tokens)
        return self._client

    async def set_profile(self, user_id: UserID, **fields: str) -> None:
        """Set fields of a user's profile."""
        profiles = self.services.core.accounts.profiles
        for field, value in fields.items():
            await profiles.set_field(Requester(user_id), user_id, field, value)

    async def set_account_data(
        self, user_id: UserID, room_id: RoomID | None, type_: str, content: dict[str, Any]
    ) -> None:
        """Set account data of a user."""
        await self.services.core.accounts.account_data.put(user_id, room_id, type_, content)

    async def account_data(self, user_id: UserID, room_id: RoomID | None, type_: str) -> Any:
        """Return account data of a user, or None."""
        content = await self.services.core.accounts.account_data.content(user_id, room_id, type_)
        return None if content is None else orjson.loads(content)

    async def state(self, room_id: RoomID, event_type: str, key: str = "") -> Mapping[str, Any]:
        """Return the content of an entry of a room's current state."""
        stored = await self.world.states.current_event(room_id, event_type, key)
        return {} if stored is None else stored.event.content

    async def events_of(self, room_id: RoomID) -> list[Event]:
        """Return a room's events in the order in which they were written."""
        ids = [EventID(row.event_id) for _, row in self.world.seen if row.room_id == room_id]
        return [stored.event for stored in (await self.world.events.get(ids)).values()]


@asynccontextmanager
async def open_actions(
    database: Database,
    settings: Settings = SETTINGS,
    *,
    clock: FixedClock | None = None,
    neighbours: Neighbourhood | None = None,
    http: HttpClient | None = None,
) -> AsyncIterator[Actions]:
    """Compose a process; its users need no accounts to be authenticated."""
    async with open_process(
        database, settings, clock=clock, neighbours=neighbours, http=http
    ) as process:
        yield Actions(World(process))


def room_settings(**changes: Any) -> Settings:
    """Return settings in which these of rooms are changed."""
    return attrs.evolve(SETTINGS, rooms=RoomSettings(**changes))
