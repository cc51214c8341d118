"""The composition root: what a process starts of its services; the plan decides."""

from hs.apis.web.drain import Drain
from hs.apis.web.limits import Admission
from hs.apis.web.route import Endpoint, collect
from hs.lib.aio import Bridge
from hs.lib.caching.lru_cache import gathered_caches
from hs.lib.clock import Clock
from hs.lib.metrics import Metrics
from hs.lib.tasks import Duty, Supervision
from hs.nursery import process_metrics
from hs.nursery.plan import BACKGROUND, Plan
from hs.nursery.process import Process, Runner
from hs.nursery.process_base import lay_foundation
from hs.nursery.services import Services, build_services
from hs.nursery.wiring.appservices import appservice_apis, appservice_duties
from hs.nursery.wiring.devices import device_apis
from hs.nursery.wiring.directory import directory_apis
from hs.nursery.wiring.endpoints import account_apis, action_apis, ephemeral_apis
from hs.nursery.wiring.media import media_apis
from hs.nursery.wiring.proposals import proposal_apis
from hs.nursery.wiring.push import push_apis
from hs.nursery.wiring.pushers import pusher_apis
from hs.nursery.wiring.retention import keeping_apis
from hs.nursery.wiring.room_reading import reading_apis
from hs.nursery.wiring.rooms import room_chores
from hs.nursery.wiring.search import search_apis
from hs.nursery.wiring.sync import sync_apis
from hs.nursery.wiring.third_party_invites import wire_offers
from hs.services.accounts.sessions.server_blocking import unless_blocked
from hs.settings.settings import Settings
from hs.storage.database import Database


def compose(
    settings: Settings, plan: Plan, clock: Clock, bridge: Bridge, database: Database
) -> Process:
    """Build a process. Nothing starts, waits or connects here. Raises: SettingsError."""
    ground = lay_foundation(settings, plan, clock, bridge, database)
    drain, admission = Drain(), Admission()
    supervision, metrics = Supervision(), Metrics()
    with gathered_caches() as caches:
        services = build_services(ground, admission, drain)
        duties, lone_duties = _duties(services), _lone_duties(services)
        endpoints = _endpoints(services, drain)
    if settings.metrics.enable_metrics:
        _watch(metrics, services, admission, drain)
        process_metrics.watch_caches(metrics, caches, services)
        process_metrics.watch_duties(metrics, [*duties, *lone_duties], supervision, ground)
        duties.append(process_metrics.watch_lag(metrics))
    return Process(
        ground=ground,
        runners=_runners(services),
        duties=duties,
        lone_duties=lone_duties,
        endpoints=endpoints,
        authenticator=unless_blocked(services.identity.authenticator, settings.blocking),
        rates=services.identity.rates,
        admission=admission,
        drain=drain,
        metrics=metrics,
        supervision=supervision,
    )


def _watch(metrics: Metrics, of: Services, admission: Admission, drain: Drain) -> None:
    """Have everything looked at that metrics tell, whenever they are scraped."""
    metrics.watch_process()
    process_metrics.watch_server(metrics, admission, drain)
    process_metrics.watch_services(metrics, of)
    process_metrics.watch_streams(metrics, of.ground)
    process_metrics.watch_database(metrics, of.ground)
    if of.ground.remote is not None:
        process_metrics.watch_others(metrics, of.ground.remote)


def _runners(of: Services) -> list[tuple[str, Runner]]:
    """List what must run from the start, in the order of starting."""
    return [*of.outside.runners, *of.rooms.runners, *of.push.runners, *of.media.runners]


def _duties(of: Services) -> list[Duty]:
    """List what every process does that has it."""
    return [
        *of.ground.duties,
        *of.accounts.duties,
        *of.rooms.duties,
        *of.devices.duties,
        *of.actions.duties,
        *of.ephemeral.duties,
        *of.sync.duties,
        *of.media.duties,
        *of.keeping.duties,
    ]


def _lone_duties(of: Services) -> list[Duty]:
    """List what one process at a time does."""
    lone = [
        *of.directory.duties,
        *of.search.duties,
        *of.actions.chores,
        *of.actions.delayed.duties,
        *of.pushers.duties,
        *of.media.lone_duties,
        *appservice_duties(of.ground, of.registered, of.rooms, of.reading),
        *of.previews.lone_duties,
        *of.keeping.lone_duties,
    ]
    if BACKGROUND not in of.ground.plan.duties:
        return lone
    return [
        *lone,
        *of.accounts.chores,
        *room_chores(of.ground, of.rooms),
        *of.devices.chores,
        *of.sync.chores,
        *of.pushers.chores,
    ]


def _endpoints(of: Services, drain: Drain) -> list[Endpoint]:
    settings = of.ground.settings
    return collect(
        *account_apis(settings, of.accounts, of.arrivals, of.actions),
        *action_apis(
            settings, of.actions, wire_offers(of.ground, of.rooms, of.actions, of.servers)
        ),
        *reading_apis(of.reading, of.rooms),
        *ephemeral_apis(of.ephemeral),
        *push_apis(of.push),
        *pusher_apis(of.pushers),
        *directory_apis(of.directory),
        *search_apis(of.search),
        *keeping_apis(of.keeping),
        *device_apis(of.devices, of.accounts),
        *appservice_apis(of.ground, of.registered, of.actions.public_rooms),
        *sync_apis(of.sync),
        *media_apis(of.media, drain),
        *of.previews.apis,
        *proposal_apis(of.proposals),
    )
