"""All services of a process, built in the order in which they depend on each other."""

from collections.abc import Sequence
from typing import Protocol

import attrs

from hs.apis.web.drain import Drain
from hs.apis.web.limits import Admission
from hs.nursery.part import Part
from hs.nursery.process_base import ProcessBase
from hs.nursery.wiring.accounts.accounts import (
    AccountServices,
    SessionServices,
    wire_accounts,
    wire_sessions,
)
from hs.nursery.wiring.accounts.login import LoginServices, wire_login
from hs.nursery.wiring.accounts.threepid_servers import ThreepidServers, wire_threepid_servers
from hs.nursery.wiring.admin import AdminServices, wire_admin
from hs.nursery.wiring.admin_api import wire_admin_api
from hs.nursery.wiring.appservices import (
    AppserviceClients,
    wire_appservice_clients,
    wire_appservices,
)
from hs.nursery.wiring.devices import (
    DeviceServices,
    DeviceWriters,
    wire_device_writers,
    wire_devices,
)
from hs.nursery.wiring.directory import DirectoryServices, wire_user_directory
from hs.nursery.wiring.ephemeral import EphemeralServices, wire_ephemeral
from hs.nursery.wiring.federation.client import FederationClientServices, wire_federation_client
from hs.nursery.wiring.federation.federation import FederatedSubjects, wire_federation
from hs.nursery.wiring.federation.joining import wire_remote_rooms
from hs.nursery.wiring.federation.peers import (
    PeerNetwork,
    restrict_peer_network,
    wire_peer_network,
)
from hs.nursery.wiring.federation.remote_history import RemoteHistory, wire_remote_history
from hs.nursery.wiring.federation.remote_servers import (
    RemoteQueries,
    RemoteServers,
    wire_remote_queries,
)
from hs.nursery.wiring.http_clients import HttpClients, wire_http_clients
from hs.nursery.wiring.media import MediaServices, wire_media
from hs.nursery.wiring.previews import PreviewServices, wire_previews
from hs.nursery.wiring.push import PushServices, wire_push, wire_rules_writer
from hs.nursery.wiring.pushers import (
    PusherServices,
    newcomers_mail,
    wire_pusher_writer,
    wire_pushers,
)
from hs.nursery.wiring.rooms.aliases import AliasServices, wire_room_aliases
from hs.nursery.wiring.rooms.creation import CreationServices, wire_room_creation
from hs.nursery.wiring.rooms.membership import MembershipServices, wire_membership
from hs.nursery.wiring.rooms.profiles import ProfileServices, wire_profiles
from hs.nursery.wiring.rooms.reading import RoomReading, wire_reading
from hs.nursery.wiring.rooms.retention import RetentionServices, wire_retention
from hs.nursery.wiring.rooms.rooms import Rooms, wire_rooms
from hs.nursery.wiring.rooms.sending import SendingServices, wire_sending
from hs.nursery.wiring.rooms.threads import ThreadServices, wire_threads
from hs.nursery.wiring.search import SearchServices, wire_search
from hs.nursery.wiring.server_info import wire_server_info
from hs.nursery.wiring.sync import SyncServices, sync_sources, wire_sync
from hs.services.accounts.sessions.device_watchers import DeviceWatchers
from hs.services.federation_client.peer_transport import PeerTransport
from hs.services.push.pushers.pusher_cleanup import DevicePusherRemoval
from hs.services.push.pushers.pusher_table import PusherWriter
from hs.services.push.rules.push_rules import RulesWriter
from hs.services.rooms.membership.remote_rooms import RemoteRooms


@attrs.frozen(eq=False, kw_only=True)
class Network:
    """What tests put in place of the network.

    `http` replaces the HTTP clients, `peers` the way to other servers, `remote` all that is asked
    of other servers.
    """

    http: HttpClients | None = None
    peers: PeerTransport | None = None
    remote: RemoteServers | None = None


@attrs.frozen(eq=False, kw_only=True)
class CoreServices:
    """What most subjects are built on: HTTP clients, sessions, rooms, accounts, shared writers."""

    http: HttpClients
    peers: PeerNetwork
    federation: FederationClientServices
    queries: RemoteQueries
    remote_rooms: RemoteRooms
    remote_history: RemoteHistory
    appservices: AppserviceClients
    servers: ThreepidServers
    device_writers: DeviceWriters
    pusher_writer: PusherWriter
    rules_writer: RulesWriter
    sessions: SessionServices
    rooms: Rooms
    accounts: AccountServices


@attrs.frozen(eq=False, kw_only=True)
class Services:
    """The services of a process by subject; `others` are parts without services for others."""

    core: CoreServices
    login: LoginServices
    profiles: ProfileServices
    aliases: AliasServices
    members: MembershipServices
    creation: CreationServices
    sending: SendingServices
    reading: RoomReading
    retention: RetentionServices
    ephemeral: EphemeralServices
    push: PushServices
    pushers: PusherServices
    devices: DeviceServices
    media: MediaServices
    previews: PreviewServices
    directory: DirectoryServices
    search: SearchServices
    admin: AdminServices
    threads: ThreadServices
    planned_sync: SyncServices | None
    others: Sequence[Part]
    federation: Sequence[Part] = ()

    @property
    def sync(self) -> SyncServices:
        """Sync, in a process whose plan needs it."""
        assert self.planned_sync is not None
        return self.planned_sync

    @property
    def parts(self) -> list[Part]:
        """All parts, in the order of starting."""
        core = self.core
        doors = (core.http, core.peers, core.federation, core.remote_history)
        accounts = (core.rooms, core.accounts, self.login, self.profiles)
        rooms = (self.aliases, self.members, self.creation, self.sending, self.reading)
        users = (self.ephemeral, self.push, self.pushers, self.devices, self.media, self.previews)
        rest = (self.directory, self.search, self.retention, self.admin, self.threads)
        last = () if self.planned_sync is None else (self.planned_sync,)
        subjects: tuple[_Subject, ...] = (*doors, *accounts, *rooms, *users, *rest, *last)
        return [*self.others, *(subject.part for subject in subjects), *self.federation]


class _Subject(Protocol):
    @property
    def part(self) -> Part: ...


def build_services(
    base: ProcessBase,
    admission: Admission,
    drain: Drain,
    network: Network | None = None,
) -> Services:
    """Build all services. Nothing starts, waits or connects here. Raises: SettingsError."""
    core = _build_core(base, network or Network())
    sessions, rooms, accounts = core.sessions, core.rooms, core.accounts
    remote_rooms, directories = core.remote_rooms, core.remote_history.directories
    aliases = wire_room_aliases(base, rooms, remote_rooms, directories, core.appservices.aliases)
    profiles = wire_profiles(base, rooms, accounts)
    members = wire_membership(
        base, rooms, remote_rooms, accounts, profiles, aliases, core.rules_writer, core.servers
    )
    creation = wire_room_creation(base, rooms, remote_rooms, accounts, aliases, members)
    newcomers = (creation.auto_join, *newcomers_mail(base, core.pusher_writer))
    login = wire_login(base, sessions, accounts, newcomers)
    reading = wire_reading(base, rooms, core.appservices.identities, accounts, core.remote_history)
    ephemeral = wire_ephemeral(base, accounts, rooms)
    push = wire_push(base, rooms, reading, ephemeral, core.rules_writer)
    writers, keys = core.device_writers, core.appservices.keys
    devices = wire_devices(base, writers, rooms, sessions, accounts, core.queries.devices, keys)
    media = wire_media(base, core.queries.media, drain)
    threads = wire_threads(base, reading)
    sources = sync_sources(accounts, push, ephemeral, devices)
    services = Services(
        core=core,
        login=login,
        profiles=profiles,
        aliases=aliases,
        members=members,
        creation=creation,
        sending=wire_sending(base, rooms, sessions, aliases, members),
        reading=reading,
        retention=wire_retention(base, rooms, reading),
        ephemeral=ephemeral,
        push=push,
        pushers=wire_pushers(base, core.pusher_writer, rooms, push, core.http),
        devices=devices,
        media=media,
        previews=wire_previews(base, core.http, media),
        directory=wire_user_directory(base),
        search=wire_search(base, rooms, reading),
        admin=wire_admin(base, rooms, sessions, accounts),
        threads=threads,
        others=[
            base.part,
            wire_appservices(base, core.appservices, rooms, reading, aliases.public_rooms),
            wire_server_info(base, sessions, accounts, login.login),
            wire_admin_api(base, accounts, login, core.federation),
        ],
        # Last, so that its notifier wakes clients once all other subscribers are up to date.
        planned_sync=wire_sync(
            base, rooms, reading, sources, threads, admission=admission, drain=drain
        )
        if base.plan.needs_sync
        else None,
    )
    return attrs.evolve(services, federation=_build_federation(base, services, admission, drain))


def _build_federation(
    base: ProcessBase, services: Services, admission: Admission, drain: Drain
) -> list[Part]:
    core = services.core
    subjects = FederatedSubjects(
        client=core.federation,
        rooms=core.rooms,
        reading=services.reading,
        aliases=services.aliases,
        members=services.members,
        accounts=core.accounts,
        devices=services.devices,
        ephemeral=services.ephemeral,
        media=services.media,
        appservices=core.appservices,
        lists=core.queries.lists,
        admission=admission,
        drain=drain,
    )
    return wire_federation(base, subjects)


def _build_core(base: ProcessBase, network: Network) -> CoreServices:
    http, remote = network.http or wire_http_clients(base), network.remote
    peers = (
        wire_peer_network(base) if network.peers is None else PeerNetwork(transport=network.peers)
    )
    peers = restrict_peer_network(base, peers)
    federation = wire_federation_client(base, peers.transport)
    queries = remote or wire_remote_queries(base, federation, http)
    device_writers = wire_device_writers(base)
    appservices = wire_appservice_clients(base, http)
    pusher_writer = wire_pusher_writer(base)
    watchers = DeviceWatchers((device_writers.updates, DevicePusherRemoval(pusher_writer)))
    servers = wire_threepid_servers(base, http)
    sessions = wire_sessions(base, watchers, appservices.identities, servers)
    rooms = wire_rooms(base, federation.keys, queries.policies)
    accounts = wire_accounts(
        base, sessions, rooms.departures, appservices.queries, queries.profiles
    )
    remote_rooms = remote.rooms if remote else wire_remote_rooms(base, federation, rooms)
    return CoreServices(
        http=http,
        peers=peers,
        federation=federation,
        queries=queries,
        remote_rooms=remote_rooms,
        remote_history=wire_remote_history(base, federation, rooms, remote_rooms),
        appservices=appservices,
        servers=servers,
        device_writers=device_writers,
        pusher_writer=pusher_writer,
        rules_writer=wire_rules_writer(base),
        sessions=sessions,
        rooms=rooms,
        accounts=accounts,
    )
