"""Application services: who they are, what they are told, and what they are asked."""

import attrs

from hs.apis.client.appservices.appservice import AppserviceApi
from hs.apis.client.appservices.thirdparty import ThirdPartyApi
from hs.lib.tasks import Duty
from hs.nursery.plan import APPSERVICES
from hs.nursery.process_base import Foundation
from hs.nursery.wiring.http_clients import Outside
from hs.nursery.wiring.room_reading import Reading
from hs.nursery.wiring.rooms import Rooms
from hs.repl.streams import CACHES
from hs.services.appservices.alias_namespaces import ServiceAliases
from hs.services.appservices.appservice_client import ServiceCalls
from hs.services.appservices.appservice_identities import ServiceIdentities
from hs.services.appservices.appservice_registry import ServiceRegistry
from hs.services.appservices.appservice_sender import AppserviceSender
from hs.services.appservices.event_interest import Interest
from hs.services.appservices.invite_state import InviteStates
from hs.services.appservices.network_directory import NetworkDirectory, NetworkLists
from hs.services.appservices.ping import ServicePing
from hs.services.appservices.previous_memberships import PastMembers
from hs.services.appservices.queries import ServiceQueries
from hs.services.appservices.third_party_networks import ThirdPartyNetworks
from hs.services.appservices.transactions import TransactionMaker
from hs.services.rooms.read.stripped_state import StrippedState


@attrs.frozen(eq=False, kw_only=True)
class Registered:
    """The services as requesters and as those who are asked; built before accounts."""

    registry: ServiceRegistry
    identities: ServiceIdentities
    calls: ServiceCalls
    queries: ServiceQueries
    aliases: ServiceAliases


def wire_registered(ground: Foundation, outside: Outside) -> Registered:
    """Build what knows the services."""
    settings, database = ground.settings.appservices, ground.database
    registry = ServiceRegistry(settings.registrations, ground.settings.server.server_name)
    calls = ServiceCalls(outside.trusted, settings.legacy_authorization)
    queries = ServiceQueries(registry, calls, database)
    return Registered(
        registry=registry,
        identities=ServiceIdentities(registry, database, ground.feed, ground.hears_others),
        calls=calls,
        queries=queries,
        aliases=ServiceAliases(registry, queries, ground.memory(CACHES)),
    )


def appservice_apis(
    ground: Foundation, registered: Registered, directory: NetworkDirectory
) -> list[object]:
    """Give the endpoints."""
    registry, calls = registered.registry, registered.calls
    return [
        ThirdPartyApi(ThirdPartyNetworks(registry, calls)),
        AppserviceApi(
            ServicePing(registry, calls, ground.memory(CACHES)),
            NetworkLists(registry, directory),
        ),
    ]


def appservice_duties(
    ground: Foundation, registered: Registered, rooms: Rooms, reading: Reading
) -> list[Duty]:
    """Give the duty of sending, where this process may hold it."""
    if APPSERVICES not in ground.plan.duties:
        return []
    database = ground.database
    maker = TransactionMaker(
        database=database,
        clock=ground.clock,
        events=rooms.events,
        rendering=reading.rendering,
        invites=InviteStates(
            rooms.memberships, StrippedState(database, rooms.events, rooms.states)
        ),
    )
    sender = AppserviceSender(
        database,
        ground.feed,
        Interest(registered.registry, database),
        rooms.memberships,
        PastMembers(rooms.events, rooms.states),
        maker,
        registered.calls,
    )
    return [Duty("application services", sender.run, lambda: sender.waiting)]
