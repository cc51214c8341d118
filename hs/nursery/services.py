"""All services of a process, built in the order in which they depend on each other."""

from collections.abc import Sequence

import attrs

from hs.apis.web.drain import Drain
from hs.apis.web.limits import Admission
from hs.nursery.part import Part
from hs.nursery.process_base import ProcessBase
from hs.nursery.wiring.accounts import SessionServices, wire_accounts, wire_sessions
from hs.nursery.wiring.admin import wire_admin
from hs.nursery.wiring.admin_api import wire_admin_api
from hs.nursery.wiring.appservices import wire_appservice_clients, wire_appservices
from hs.nursery.wiring.devices import wire_device_writers, wire_devices
from hs.nursery.wiring.directory import wire_user_directory
from hs.nursery.wiring.ephemeral import wire_ephemeral
from hs.nursery.wiring.federation_api import wire_federation_api
from hs.nursery.wiring.http_clients import HttpClients, wire_http_clients
from hs.nursery.wiring.login import wire_login
from hs.nursery.wiring.media import wire_media
from hs.nursery.wiring.membership import wire_membership
from hs.nursery.wiring.previews import wire_previews
from hs.nursery.wiring.profiles import wire_profiles
from hs.nursery.wiring.push import wire_push, wire_rules_writer
from hs.nursery.wiring.pushers import newcomers_mail, wire_pusher_writer, wire_pushers
from hs.nursery.wiring.retention import wire_retention
from hs.nursery.wiring.room_aliases import wire_room_aliases
from hs.nursery.wiring.room_creation import wire_room_creation
from hs.nursery.wiring.room_reading import wire_reading
from hs.nursery.wiring.rooms import Rooms, wire_rooms
from hs.nursery.wiring.search import wire_search
from hs.nursery.wiring.sending import wire_sending
from hs.nursery.wiring.server_info import wire_server_info
from hs.nursery.wiring.sync import sync_sources, wire_sync
from hs.nursery.wiring.threepid_servers import wire_threepid_servers
from hs.services.accounts.sessions.device_watchers import DeviceWatchers
from hs.services.devices.remote_devices import NoRemoteDevices
from hs.services.media.remote_media import NoRemoteMedia
from hs.services.push.pushers.pusher_cleanup import PushersOfDevices


@attrs.frozen(eq=False, kw_only=True)
class Services:
    """The parts of a process, in the order of starting, and what every request needs of them."""

    rooms: Rooms
    sessions: SessionServices
    parts: Sequence[Part]


def build_services(base: ProcessBase, admission: Admission, drain: Drain) -> Services:
    """Build all services. Nothing starts, waits or connects here. Raises: SettingsError."""
    http = wire_http_clients(base)
    device_writers = wire_device_writers(base)
    appservices = wire_appservice_clients(base, http)
    pusher_writer = wire_pusher_writer(base)
    watchers = DeviceWatchers((device_writers.updates, PushersOfDevices(pusher_writer)))
    servers = wire_threepid_servers(base, http)
    sessions = wire_sessions(base, watchers, appservices.identities, servers)
    rooms = wire_rooms(base)
    accounts = wire_accounts(base, sessions, rooms.departures, appservices.queries)
    rules_writer = wire_rules_writer(base)
    aliases = wire_room_aliases(base, rooms, appservices.aliases)
    profiles = wire_profiles(base, rooms, accounts)
    members = wire_membership(base, rooms, accounts, profiles, aliases, rules_writer, servers)
    creation = wire_room_creation(base, rooms, accounts, aliases, members)
    newcomers = (creation.auto_join, *newcomers_mail(base, pusher_writer))
    login = wire_login(base, sessions, accounts, newcomers)
    reading = wire_reading(
        base, rooms, appservices.identities, accounts.account_data, accounts.erased
    )
    ephemeral = wire_ephemeral(base, accounts, rooms)
    push = wire_push(base, rooms, reading, ephemeral, rules_writer)
    devices = wire_devices(base, device_writers, rooms, sessions, accounts, NoRemoteDevices())
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
        wire_pushers(base, pusher_writer, rooms, push, http),
        wire_user_directory(base),
        wire_search(base, rooms, reading),
        devices.part,
        *_media_parts(base, http, drain),
        wire_retention(base, rooms, reading),
        wire_admin(base, rooms, sessions, accounts),
        wire_appservices(base, appservices, rooms, reading, aliases.public_rooms),
        wire_server_info(base, sessions, accounts, login.login),
        wire_federation_api(accounts, members),
        wire_admin_api(base, accounts, login),
    ]
    # Last, for the notifier wakes clients once all other subscribers of the feed are up to date.
    sources = sync_sources(accounts, push, ephemeral, devices)
    parts += wire_sync(base, rooms, reading, sources, devices, admission=admission, drain=drain)
    return Services(rooms=rooms, sessions=sessions, parts=parts)


def _media_parts(base: ProcessBase, http: HttpClients, drain: Drain) -> list[Part]:
    media = wire_media(base, NoRemoteMedia(), drain)
    return [media.part, wire_previews(base, http, media)]
