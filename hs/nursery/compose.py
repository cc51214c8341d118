"""The composition root: builds every service of a process; the plan decides what is started."""

from hs.apis.web.drain import Drain
from hs.apis.web.limits import Admission
from hs.apis.web.route import collect
from hs.lib.aio import Bridge
from hs.lib.clock import Clock
from hs.lib.metrics import Metrics
from hs.nursery.foundation import lay_foundation
from hs.nursery.plan import BACKGROUND, Plan
from hs.nursery.process import Process, Runner
from hs.nursery.wiring.accounts import wire_accounts, wire_identity
from hs.nursery.wiring.actions import wire_actions
from hs.nursery.wiring.appservices import (
    appservice_apis,
    appservice_duties,
    wire_registered,
)
from hs.nursery.wiring.arrivals import wire_arrivals
from hs.nursery.wiring.devices import device_apis, wire_device_writers, wire_devices
from hs.nursery.wiring.directory import directory_apis, wire_directory
from hs.nursery.wiring.endpoints import account_apis, action_apis, ephemeral_apis
from hs.nursery.wiring.ephemeral import wire_ephemeral
from hs.nursery.wiring.identity_servers import wire_address_servers
from hs.nursery.wiring.offers import wire_offers
from hs.nursery.wiring.keeping import keeping_apis, wire_keeping
from hs.nursery.wiring.media import media_apis, wire_media
from hs.nursery.wiring.outside import wire_outside
from hs.nursery.wiring.previews import wire_previews
from hs.nursery.wiring.proposals import proposal_apis, wire_proposals
from hs.nursery.wiring.push import push_apis, wire_push, wire_rules_writer
from hs.nursery.wiring.pushers import (
    newcomers_mail,
    pusher_apis,
    wire_pusher_writer,
    wire_pushers,
)
from hs.nursery.wiring.reading import reading_apis, wire_reading
from hs.nursery.wiring.rooms import room_chores, wire_rooms
from hs.nursery.wiring.search import search_apis, wire_search
from hs.nursery.wiring.sync import sync_apis, wire_sync
from hs.services.accounts.blocking import unless_blocked
from hs.services.accounts.watching import DeviceWatchers
from hs.services.devices.remote import NoRemoteDevices
from hs.services.media.remote import NoRemoteMedia
from hs.services.push.pusher_upkeep import PushersOfDevices
from hs.services.sync.assembly import Sources
from hs.settings.settings import Settings
from hs.storage.database import Database


def compose(
    settings: Settings, plan: Plan, clock: Clock, bridge: Bridge, database: Database
) -> Process:
    """Build a process. Nothing starts, waits or connects here. Raises: SettingsError."""
    ground = lay_foundation(settings, plan, clock, bridge, database)
    drain, admission, metrics = Drain(), Admission(), Metrics()
    metrics.watch_process()
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
    reading = wire_reading(ground, rooms, accounts.account_data, accounts.erased)
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
    sources = Sources(
        account_data=accounts.account_data,
        push_rules=push.rules,
        filters=accounts.filters,
        receipts=ephemeral.receipts,
        typing=ephemeral.typing_users,
        presence=ephemeral.presence,
        counts=push.counts,
        extensions=(devices.encryption,),
    )
    sync = wire_sync(
        ground, rooms, reading, sources, devices.encryption, admission, drain, proposals.threads
    )
    runners: list[tuple[str, Runner]] = [*outside.runners, *rooms.runners, *push.runners]
    runners = [*runners, *media.runners]
    duties = [*accounts.duties, *rooms.duties, *actions.duties, *ephemeral.duties, *sync.duties]
    duties = [*ground.duties, *duties, *media.duties, *keeping.duties]
    lone = [
        *directory.duties,
        *search.duties,
        *actions.delayed.duties,
        *pushers.duties,
    ]
    lone = [*lone, *media.lone_duties, *appservice_duties(ground, registered, rooms, reading)]
    lone = [*lone, *previews.lone_duties]
    lone = [*lone, *keeping.lone_duties]
    if BACKGROUND in plan.duties:
        lone = [
            *lone,
            *accounts.chores,
            *room_chores(ground, rooms),
            *devices.chores,
            *sync.chores,
            *pushers.chores,
        ]
    return Process(
        ground=ground,
        runners=runners,
        duties=duties,
        lone_duties=lone,
        endpoints=collect(
            *account_apis(settings, accounts, arrivals, actions),
            *action_apis(settings, actions, wire_offers(ground, rooms, actions, servers)),
            *reading_apis(reading, rooms),
            *ephemeral_apis(ephemeral),
            *push_apis(push),
            *pusher_apis(pushers),
            *directory_apis(directory),
            *search_apis(search),
            *keeping_apis(keeping),
            *device_apis(devices, accounts),
            *appservice_apis(ground, registered, actions.public_rooms),
            *sync_apis(sync),
            *media_apis(media, drain),
            *previews.apis,
            *proposal_apis(proposals),
        ),
        authenticator=unless_blocked(identity.authenticator, settings.blocking),
        rates=identity.rates,
        admission=admission,
        drain=drain,
        metrics=metrics,
    )
