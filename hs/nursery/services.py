"""All services of a process, built in the order in which they depend on each other."""

from collections.abc import Sequence

import attrs

from hs.apis.web.drain import Drain
from hs.apis.web.limits import Admission
from hs.nursery.part import Part
from hs.nursery.process_base import ProcessBase
from hs.nursery.wiring.accounts import (
    AccountServices,
    SessionServices,
    wire_accounts,
    wire_sessions,
)
from hs.nursery.wiring.admin import wire_admin
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
from hs.nursery.wiring.directory import wire_user_directory
from hs.nursery.wiring.ephemeral import EphemeralServices, wire_ephemeral
from hs.nursery.wiring.federation_api import wire_federation_api
from hs.nursery.wiring.http_clients import HttpClients, wire_http_clients
from hs.nursery.wiring.login import wire_login
from hs.nursery.wiring.media import wire_media
from hs.nursery.wiring.membership import MembershipServices, wire_membership
from hs.nursery.wiring.previews import wire_previews
from hs.nursery.wiring.profiles import wire_profiles
from hs.nursery.wiring.push import PushServices, wire_push, wire_rules_writer
from hs.nursery.wiring.pushers import newcomers_mail, wire_pusher_writer, wire_pushers
from hs.nursery.wiring.retention import wire_retention
from hs.nursery.wiring.room_aliases import AliasServices, wire_room_aliases
from hs.nursery.wiring.room_creation import CreationServices, wire_room_creation
from hs.nursery.wiring.room_reading import RoomReading, wire_reading
from hs.nursery.wiring.rooms import Rooms, wire_rooms
from hs.nursery.wiring.search import wire_search
from hs.nursery.wiring.sending import wire_sending
from hs.nursery.wiring.server_info import wire_server_info
from hs.nursery.wiring.sync import sync_sources, wire_sync
from hs.nursery.wiring.threepid_servers import ThreepidServers, wire_threepid_servers
from hs.services.accounts.profiles.profiles import NoRemoteProfiles, RemoteProfiles
from hs.services.accounts.sessions.device_watchers import DeviceWatchers
from hs.services.devices.remote_devices import NoRemoteDevices, RemoteDevices
from hs.services.media.remote_media import NoRemoteMedia, RemoteMedia
from hs.services.push.pushers.pusher_cleanup import DevicePusherRemoval
from hs.services.push.pushers.pusher_table import PusherWriter
from hs.services.push.rules.push_rules import RulesWriter
from hs.services.rooms.append.policy_servers import NoPolicyServers, PolicyServers
from hs.services.rooms.membership.remote_rooms import NoRemoteRooms, RemoteRooms


@attrs.frozen(eq=False, kw_only=True)
class RemoteServers:
    """How the services ask other servers. Without federation, nobody answers."""

    rooms: RemoteRooms = attrs.Factory(NoRemoteRooms)
    profiles: RemoteProfiles = attrs.Factory(NoRemoteProfiles)
    devices: RemoteDevices = attrs.Factory(NoRemoteDevices)
    media: RemoteMedia = attrs.Factory(NoRemoteMedia)
    policies: PolicyServers = attrs.Factory(NoPolicyServers)


@attrs.frozen(eq=False, kw_only=True)
class CoreServices:
    """What most subjects are built on: HTTP clients, sessions, rooms, accounts, shared writers."""

    http: HttpClients
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
    """The services of a process by subject, and their parts in the order of starting."""

    core: CoreServices
    aliases: AliasServices
    members: MembershipServices
    creation: CreationServices
    reading: RoomReading
    ephemeral: EphemeralServices
    push: PushServices
    devices: DeviceServices
    parts: Sequence[Part]


def build_services(
    base: ProcessBase, admission: Admission, drain: Drain, remote: RemoteServers
) -> Services:
    """Build all services. Nothing starts, waits or connects here. Raises: SettingsError."""
    core = _build_core(base, remote)
    http, sessions, rooms, accounts = core.http, core.sessions, core.rooms, core.accounts
    aliases = wire_room_aliases(base, rooms, core.appservices.aliases)
    profiles = wire_profiles(base, rooms, accounts)
    members = wire_membership(
        base, rooms, accounts, profiles, aliases, core.rules_writer, core.servers
    )
    creation = wire_room_creation(base, rooms, accounts, aliases, members)
    newcomers = (creation.auto_join, *newcomers_mail(base, core.pusher_writer))
    login = wire_login(base, sessions, accounts, newcomers)
    reading = wire_reading(
        base, rooms, core.appservices.identities, accounts.account_data, accounts.erased
    )
    ephemeral = wire_ephemeral(base, accounts, rooms)
    push = wire_push(base, rooms, reading, ephemeral, core.rules_writer)
    devices = wire_devices(base, core.device_writers, rooms, sessions, accounts, remote.devices)
    parts: list[Part] = [
        base.part,
        http.part,
        rooms.part,
        accounts.part,
        login.part,
        profiles.part,
        aliases.part,
        members.part,
        creation.part,
        wire_sending(base, rooms, sessions, aliases, members),
        reading.part,
        ephemeral.part,
        push.part,
        wire_pushers(base, core.pusher_writer, rooms, push, http),
        devices.part,
        *_media_parts(base, http, remote.media, drain),
        wire_appservices(base, core.appservices, rooms, reading, aliases.public_rooms),
        wire_server_info(base, sessions, accounts, login.login),
        wire_admin_api(base, accounts, login),
        wire_federation_api(accounts, members),
        *_other_parts(base, core, reading),
    ]
    # Last, for the notifier wakes clients once all other subscribers of the feed are up to date.
    sources = sync_sources(accounts, push, ephemeral, devices)
    parts += wire_sync(base, rooms, reading, sources, devices, admission=admission, drain=drain)
    return Services(
        core=core,
        aliases=aliases,
        members=members,
        creation=creation,
        reading=reading,
        ephemeral=ephemeral,
        push=push,
        devices=devices,
        parts=parts,
    )


def _build_core(base: ProcessBase, remote: RemoteServers) -> CoreServices:
    http = wire_http_clients(base)
    device_writers = wire_device_writers(base)
    appservices = wire_appservice_clients(base, http)
    pusher_writer = wire_pusher_writer(base)
    watchers = DeviceWatchers((device_writers.updates, DevicePusherRemoval(pusher_writer)))
    servers = wire_threepid_servers(base, http)
    sessions = wire_sessions(base, watchers, appservices.identities, servers)
    rooms = wire_rooms(base, remote.rooms, remote.policies)
    accounts = wire_accounts(base, sessions, rooms.departures, appservices.queries, remote.profiles)
    return CoreServices(
        http=http,
        appservices=appservices,
        servers=servers,
        device_writers=device_writers,
        pusher_writer=pusher_writer,
        rules_writer=wire_rules_writer(base),
        sessions=sessions,
        rooms=rooms,
        accounts=accounts,
    )


def _other_parts(base: ProcessBase, core: CoreServices, reading: RoomReading) -> list[Part]:
    rooms = core.rooms
    return [
        wire_user_directory(base),
        wire_search(base, rooms, reading),
        wire_retention(base, rooms, reading),
        wire_admin(base, rooms, core.sessions, core.accounts),
    ]


def _media_parts(
    base: ProcessBase, http: HttpClients, remote: RemoteMedia, drain: Drain
) -> list[Part]:
    media = wire_media(base, remote, drain)
    return [media.part, wire_previews(base, http, media)]
