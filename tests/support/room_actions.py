"""The services and endpoints by which clients act in rooms, over a World.

async with open_actions(database) as acts:
    client = acts.client()
    answer = await client.post("/_matrix/client/v3/createRoom", {}, token="alice")
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import attrs
import orjson
import trio

from hs.apis.client.directory.public_rooms import PublicRoomsApi
from hs.apis.client.directory.room_aliases import RoomAliasesApi
from hs.apis.client.rooms.create_room import CreateRoomApi
from hs.apis.client.rooms.delayed_events import DelayedEventsApi
from hs.apis.client.rooms.membership import MembershipApi
from hs.apis.client.rooms.send import SendApi
from hs.apis.client.rooms.upgrade import RoomUpgradeApi
from hs.apis.federation.third_party_binds import ThirdPartyBindsApi
from hs.core.events.event import Event
from hs.core.ids import EventID, RoomID, UserID
from hs.core.requester import Requester
from hs.core.signing.keys import Signer, SigningKey
from hs.core.streams import CACHES, CacheRow
from hs.lib.http_client import HttpResponse, HttpUnreachable
from hs.lib.limiter import RateLimiter
from hs.repl.inproc import local_transport
from hs.repl.leases import Leases
from hs.repl.memory_writer import MemoryWriter, epoch_at
from hs.services.accounts.limits.rate_limits import RequestRateLimits, bucket_of
from hs.services.accounts.threepids.identity_servers import IdentityServers
from hs.services.directory.aliases import LocalAliases, NoNamespaces
from hs.services.directory.public_rooms import PublicRooms
from hs.services.rooms.aliases.canonical_aliases import AliasResolver, CanonicalAliasCheck
from hs.services.rooms.aliases.room_aliases import RoomAliases
from hs.services.rooms.creation.create_with_third_party_invites import RoomCreationWithInvites
from hs.services.rooms.creation.room_creation import RoomCreation
from hs.services.rooms.creation.room_upgrade import RoomUpgrade
from hs.services.rooms.creation.upgrade_lock import UpgradeLock
from hs.services.rooms.membership.invite_permissions import InvitePermissions
from hs.services.rooms.membership.membership import RoomMembership
from hs.services.rooms.membership.membership_limits import MembershipLimits
from hs.services.rooms.membership.remote_rooms import NoRemoteRooms
from hs.services.rooms.membership.removal_with_redaction import RemovalWithRedaction
from hs.services.rooms.membership.restricted_joins import RestrictedJoins
from hs.services.rooms.membership.room_succession import RoomSuccession
from hs.services.rooms.membership.third_party_invites import ThirdPartyInvites
from hs.services.rooms.sending.delayed_events import DelayedEvents
from hs.services.rooms.sending.event_sending import EventSender
from hs.services.rooms.sending.relation_checks import RelationChecks
from hs.services.rooms.store.auth_state import AuthStateReader
from hs.services.rooms.store.memberships import Memberships
from hs.settings.sections.rate_limits import InviteRates, JoinRates, Rate, RateLimitSettings
from hs.settings.sections.rooms import RoomSettings
from hs.storage.database import Database
from tests.support.rooms import ALICE, BOB, CAROL, SERVER, World, open_world
from tests.support.web import Tokens, WebClient, client_for

PLENTY = Rate(1000, 1000)
LONGEST_DELAY_MS = 24 * 3600 * 1000
NO_LIMITS = RateLimitSettings(
    rc_message=PLENTY,
    rc_delayed_event_mgmt=PLENTY,
    rc_joins=JoinRates(local=PLENTY, remote=PLENTY),
    rc_joins_per_room=PLENTY,
    rc_invites=InviteRates(per_room=PLENTY, per_user=PLENTY, per_issuer=PLENTY),
)
DAVE = UserID(f"@dave:{SERVER}")
_numbers = count(1)
SIGNER = Signer(SERVER, SigningKey.from_seed("a", bytes(32)))


class UnreachableHttpClient:
    """An HttpClient that cannot reach any server."""

    async def send(self, method: str, url: str, **more: Any) -> HttpResponse:
        raise HttpUnreachable("there is no network")


@attrs.define
class FakeProfiles:
    """LocalProfiles over a dict."""

    known: dict[UserID, dict[str, str]] = attrs.Factory(dict)

    async def of_local(self, user_id: UserID) -> Mapping[str, Any]:
        return self.known.get(user_id, {})


@attrs.define(eq=False)
class FakeAccountData:
    """OwnData and RoomRules over dicts: account data, and the calls that copy push rules."""

    data: dict[tuple[UserID, RoomID | None, str], dict[str, Any]] = attrs.Factory(dict)
    copied: list[tuple[UserID, RoomID, RoomID]] = attrs.Factory(list)

    async def content(self, user_id: UserID, room_id: RoomID | None, type_: str) -> bytes | None:
        content = self.data.get((user_id, room_id, type_))
        return None if content is None else orjson.dumps(content)

    async def put(
        self, user_id: UserID, room_id: RoomID | None, type_: str, content: dict[str, Any]
    ) -> None:
        self.data[user_id, room_id, type_] = content

    async def copy_room_rules(
        self, user_ids: list[UserID], old_room_id: RoomID, new_room_id: RoomID
    ) -> None:
        self.copied += [(user_id, old_room_id, new_room_id) for user_id in user_ids]


@attrs.define(eq=False)
class Actions:
    """The services behind the clients' endpoints, over one world."""

    world: World
    profiles: FakeProfiles
    memberships: Memberships
    aliases: LocalAliases
    public_rooms: PublicRooms
    creation: RoomCreation
    membership: RoomMembership
    naming: RoomAliases
    sending: EventSender
    upgrades: RoomUpgrade
    own: FakeAccountData
    delayed: DelayedEvents
    removal: RemovalWithRedaction
    offers: ThirdPartyInvites
    tokens: Tokens = attrs.Factory(Tokens)

    def __attrs_post_init__(self) -> None:
        for user_id in (ALICE, BOB, CAROL, DAVE):
            self.user(user_id)

    def user(self, user_id: UserID, **more: Any) -> Requester:
        """Create an access token for a user, equal to the localpart, and return the requester."""
        name = user_id[1:].partition(":")[0]
        requester = Requester(user_id, **{"device_id": name.upper(), "token_id": 1, **more})
        self.tokens.requesters[name] = requester
        return requester

    def client(self, *more: object) -> WebClient:
        """Return a client of the room endpoints."""
        apis = (
            CreateRoomApi(RoomCreationWithInvites(self.creation, self.offers)),
            MembershipApi(self.membership, self.naming, self.removal, self.offers),
            ThirdPartyBindsApi(self.offers),
            SendApi(self.sending, self.delayed),
            DelayedEventsApi(self.delayed),
            RoomAliasesApi(self.naming, self.public_rooms),
            PublicRoomsApi(self.public_rooms, SERVER, open_to_all=False),
            RoomUpgradeApi(self.upgrades),
        )
        return client_for(*apis, *more, tokens=self.tokens)

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
    *,
    settings: RoomSettings | None = None,
    limits: RateLimitSettings = NO_LIMITS,
) -> AsyncIterator[Actions]:
    """Open a world and build the services over it."""
    async with open_world(database) as world:
        yield make_actions(world, settings or RoomSettings(), limits)


@attrs.frozen
class _Parts:
    """Dependencies that several services share."""

    world: World
    profiles: FakeProfiles
    memberships: Memberships
    deciding: AuthStateReader
    aliases: LocalAliases
    public_rooms: PublicRooms
    resolver: AliasResolver
    limits: MembershipLimits
    settings: RoomSettings
    remote: NoRemoteRooms = attrs.Factory(NoRemoteRooms)
    own: FakeAccountData = attrs.Factory(FakeAccountData)

    @property
    def succession(self) -> RoomSuccession:
        return RoomSuccession(self.memberships, self.own, self.own)


def make_actions(world: World, settings: RoomSettings, limits: RateLimitSettings) -> Actions:
    """Build the services."""
    aliases = LocalAliases(world.database, SERVER, settings, world.clock, NoNamespaces())
    parts = _Parts(
        world=world,
        profiles=FakeProfiles(),
        memberships=Memberships(world.database, world.feed, SERVER),
        deciding=AuthStateReader(world.states, world.events),
        aliases=aliases,
        public_rooms=PublicRooms(world.database, settings),
        resolver=AliasResolver(aliases, NoRemoteRooms()),
        limits=MembershipLimits(limits, world.clock),
        settings=settings,
    )
    drops = _drops(world)
    membership = _membership(parts, drops)
    sending = EventSender(
        appender=world.appender,
        events=world.events,
        relations=RelationChecks(world.database, world.events),
        canonical_aliases=CanonicalAliasCheck(parts.resolver, world.states),
        membership=membership,
    )
    return Actions(
        world=world,
        profiles=parts.profiles,
        memberships=parts.memberships,
        aliases=aliases,
        public_rooms=parts.public_rooms,
        creation=_creation(parts),
        membership=membership,
        naming=_naming(parts),
        sending=sending,
        removal=RemovalWithRedaction(world.database, world.events, world.appender, membership),
        offers=_offers(parts, membership),
        delayed=DelayedEvents(
            database=world.database,
            clock=world.clock,
            sending=sending,
            rates=RequestRateLimits(limits),
            announcements=drops,
            longest_ms=LONGEST_DELAY_MS,
        ),
        upgrades=RoomUpgrade(
            appender=world.appender,
            auth_states=parts.deciding,
            states=world.states,
            events=world.events,
            aliases=aliases,
            profiles=parts.profiles,
            succession=parts.succession,
            database=world.database,
            lock=turns_of(world),
        ),
        own=parts.own,
    )


def turns_of(world: World) -> UpgradeLock:
    """Return the lock that serializes room upgrades; each call stands for another process."""
    leases = Leases(world.database, f"process {next(_numbers)}", lambda: now_ms(world))
    return UpgradeLock(leases)


def now_ms(world: World) -> int:
    """Return a time that advances while a test waits."""
    return world.clock.now_ms() + int(trio.current_time() * 1000)


def _offers(parts: _Parts, membership: RoomMembership) -> ThirdPartyInvites:
    world = parts.world
    servers = IdentityServers(world.database, UnreachableHttpClient(), SIGNER)
    return ThirdPartyInvites(
        servers=servers,
        appender=world.appender,
        auth_states=parts.deciding,
        membership=membership,
        limiter=RateLimiter(bucket_of(PLENTY)),
    )


def _drops(world: World) -> MemoryWriter[CacheRow]:
    drops: MemoryWriter[CacheRow] = MemoryWriter(
        CACHES, "main", local_transport(world.feed), epoch_at(world.clock.now_ms())
    )
    drops.attach()
    return drops


def _membership(parts: _Parts, drops: MemoryWriter[CacheRow]) -> RoomMembership:
    world = parts.world
    return RoomMembership(
        appender=world.appender,
        auth_states=parts.deciding,
        memberships=parts.memberships,
        restricted=RestrictedJoins(parts.memberships),
        profiles=parts.profiles,
        remote=parts.remote,
        succession=parts.succession,
        limits=parts.limits,
        invites=InvitePermissions(parts.own),
        database=world.database,
        cache_drops=drops,
    )


def _creation(parts: _Parts) -> RoomCreation:
    return RoomCreation(
        appender=parts.world.appender,
        aliases=parts.aliases,
        public_rooms=parts.public_rooms,
        profiles=parts.profiles,
        remote=parts.remote,
        limits=parts.limits,
        invites=InvitePermissions(parts.own),
        settings=parts.settings,
        server_name=SERVER,
    )


def _naming(parts: _Parts) -> RoomAliases:
    return RoomAliases(
        aliases=parts.aliases,
        public_rooms=parts.public_rooms,
        resolver=parts.resolver,
        auth_states=parts.deciding,
        memberships=parts.memberships,
        appender=parts.world.appender,
        server_name=SERVER,
    )
