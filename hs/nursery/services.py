"""Every service of a process, built in the order in which they depend on each other."""

import attrs

from hs.apis.web.drain import Drain
from hs.apis.web.limits import Admission
from hs.nursery.process_base import Foundation
from hs.nursery.wiring.accounts import Accounts, Identity, wire_accounts, wire_identity
from hs.nursery.wiring.appservices import Registered, wire_registered
from hs.nursery.wiring.devices import Devices, wire_device_writers, wire_devices
from hs.nursery.wiring.directory import Directory, wire_directory
from hs.nursery.wiring.ephemeral import Ephemeral, wire_ephemeral
from hs.nursery.wiring.http_clients import Outside, wire_outside
from hs.nursery.wiring.identity_servers import AddressServers, wire_address_servers
from hs.nursery.wiring.login import Arrivals, wire_arrivals
from hs.nursery.wiring.media import MediaServices, wire_media
from hs.nursery.wiring.previews import PreviewParts, wire_previews
from hs.nursery.wiring.proposals import Proposals, wire_proposals
from hs.nursery.wiring.push import Push, wire_push, wire_rules_writer
from hs.nursery.wiring.pushers import (
    PusherServices,
    newcomers_mail,
    wire_pusher_writer,
    wire_pushers,
)
from hs.nursery.wiring.retention import Keeping, wire_keeping
from hs.nursery.wiring.room_actions import RoomActions, wire_actions
from hs.nursery.wiring.room_reading import Reading, wire_reading
from hs.nursery.wiring.rooms import Rooms, wire_rooms
from hs.nursery.wiring.search import Search, wire_search
from hs.nursery.wiring.sync import Sync, wire_sync
from hs.services.accounts.sessions.device_watchers import DeviceWatchers
from hs.services.devices.remote_devices import NoRemoteDevices
from hs.services.media.remote_media import NoRemoteMedia
from hs.services.push.pushers.pusher_cleanup import PushersOfDevices
from hs.services.sync.assembly import Sources


@attrs.frozen(eq=False)
class Services:
    """What a process is made of."""

    ground: Foundation
    outside: Outside
    servers: AddressServers
    registered: Registered
    identity: Identity
    rooms: Rooms
    accounts: Accounts
    actions: RoomActions
    arrivals: Arrivals
    reading: Reading
    proposals: Proposals
    ephemeral: Ephemeral
    push: Push
    pushers: PusherServices
    directory: Directory
    search: Search
    devices: Devices
    media: MediaServices
    previews: PreviewParts
    keeping: Keeping
    sync: Sync


def build_services(ground: Foundation, admission: Admission, drain: Drain) -> Services:
    """Build them. Nothing starts, waits or connects here."""
    outside = wire_outside(ground)
    device_writers = wire_device_writers(ground)
    registered = wire_registered(ground, outside)
    pusher_writer = wire_pusher_writer(ground)
    watchers = DeviceWatchers((device_writers.updates, PushersOfDevices(pusher_writer)))
    servers = wire_address_servers(ground, outside)
    identity = wire_identity(ground, watchers, registered.identities, servers)
    rooms = wire_rooms(ground)
    accounts = wire_accounts(ground, identity, rooms.departures, registered.queries)
    rules_writer = wire_rules_writer(ground)
    actions = wire_actions(ground, rooms, accounts, rules_writer, registered.aliases)
    welcomes = newcomers_mail(ground, pusher_writer)
    arrivals = wire_arrivals(ground, rooms, accounts, actions, welcomes)
    service_users = registered.identities
    reading = wire_reading(ground, rooms, service_users, accounts.account_data, accounts.erased)
    proposals = wire_proposals(ground, reading)
    ephemeral = wire_ephemeral(ground, accounts, rooms)
    push = wire_push(ground, rooms, ephemeral, rules_writer)
    pushers = wire_pushers(ground, pusher_writer, rooms, push, outside)
    directory = wire_directory(ground, rooms, reading, push)
    search = wire_search(ground, rooms, reading)
    devices = wire_devices(ground, device_writers, rooms, NoRemoteDevices())
    media = wire_media(ground, NoRemoteMedia())
    previews = wire_previews(ground, outside, media)
    keeping = wire_keeping(ground, rooms, reading, accounts, actions)
    sources = _sources(accounts, push, ephemeral, devices)
    sync = wire_sync(
        ground, rooms, reading, sources, devices.encryption, admission, drain, proposals.threads
    )
    # fmt: off
    return Services(
        ground, outside, servers, registered, identity, rooms, accounts, actions, arrivals,
        reading, proposals, ephemeral, push, pushers, directory, search, devices, media,
        previews, keeping, sync,
    )
    # fmt: on


def _sources(accounts: Accounts, push: Push, ephemeral: Ephemeral, devices: Devices) -> Sources:
    return Sources(
        account_data=accounts.account_data,
        push_rules=push.rules,
        filters=accounts.filters,
        receipts=ephemeral.receipts,
        typing=ephemeral.typing_users,
        presence=ephemeral.presence,
        counts=push.counts,
        extensions=(devices.encryption,),
    )
