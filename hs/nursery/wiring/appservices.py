"""Application services: registrations, queries, and the duty that sends events to them."""

import attrs

from hs.apis.client.appservices.appservice import AppserviceApi
from hs.apis.client.appservices.thirdparty import ThirdPartyApi
from hs.core.streams import CACHES
from hs.lib.tasks import Duty
from hs.nursery.part import Part
from hs.nursery.plan import APPSERVICES
from hs.nursery.process_base import ProcessBase
from hs.nursery.wiring.http_clients import HttpClients
from hs.nursery.wiring.rooms.reading import RoomReading
from hs.nursery.wiring.rooms.rooms import Rooms
from hs.services.appservices.alias_namespaces import AppserviceAliases
from hs.services.appservices.appservice_client import AppserviceClient
from hs.services.appservices.appservice_identities import AppserviceIdentities
from hs.services.appservices.appservice_registry import AppserviceRegistry
from hs.services.appservices.appservice_sender import AppserviceSender
from hs.services.appservices.event_interest import EventInterest
from hs.services.appservices.key_requests import AppserviceKeyRequests
from hs.services.appservices.network_directory import NetworkRoomLists
from hs.services.appservices.ping import AppservicePing
from hs.services.appservices.previous_memberships import PreviousMembershipReader
from hs.services.appservices.queries import AppserviceQueries
from hs.services.appservices.third_party_networks import ThirdPartyNetworks
from hs.services.appservices.transactions import TransactionMaker
from hs.services.directory.public_rooms import PublicRooms
from hs.services.rooms.read.invite_state import InviteStates
from hs.services.rooms.read.stripped_state import StrippedState


@attrs.frozen(eq=False, kw_only=True)
class AppserviceClients:
    """The registered services, as requesters and as servers to query; built before accounts."""

    registry: AppserviceRegistry
    identities: AppserviceIdentities
    calls: AppserviceClient
    queries: AppserviceQueries
    aliases: AppserviceAliases
    keys: AppserviceKeyRequests


def wire_appservice_clients(base: ProcessBase, http: HttpClients) -> AppserviceClients:
    """Build the registry of services and the clients that query them."""
    settings, database = base.settings.appservices, base.database
    registry = AppserviceRegistry(settings.registrations, base.settings.server.server_name)
    calls = AppserviceClient(http.trusted, settings.legacy_authorization)
    queries = AppserviceQueries(registry, calls, database)
    experiments = base.settings.proposals.experimental_features
    return AppserviceClients(
        registry=registry,
        identities=AppserviceIdentities(registry, database, base.feed, base.is_connected),
        calls=calls,
        queries=queries,
        aliases=AppserviceAliases(registry, queries, base.memory(CACHES)),
        keys=AppserviceKeyRequests(
            registry,
            calls,
            base.clock,
            experiments.appservice_key_claims,
            experiments.appservice_key_queries,
        ),
    )


def wire_appservices(
    base: ProcessBase,
    clients: AppserviceClients,
    rooms: Rooms,
    reading: RoomReading,
    directory: PublicRooms,
) -> Part:
    """Build the endpoints of services, and the duty that sends events to them."""
    registry, calls = clients.registry, clients.calls
    sending = base.planned(APPSERVICES, lambda: _sending(base, clients, rooms, reading))
    return Part(
        endpoints=[
            ThirdPartyApi(ThirdPartyNetworks(registry, calls)),
            AppserviceApi(
                AppservicePing(registry, calls, base.memory(CACHES)),
                NetworkRoomLists(registry, directory),
            ),
        ],
        duties=[] if sending is None else [sending],
    )


def _sending(
    base: ProcessBase, clients: AppserviceClients, rooms: Rooms, reading: RoomReading
) -> Duty:
    database = base.database
    stripped = StrippedState(database, rooms.events, rooms.states)
    maker = TransactionMaker(
        database=database,
        clock=base.clock,
        events=rooms.events,
        rendering=reading.rendering,
        invites=InviteStates(rooms.memberships, stripped),
    )
    sender = AppserviceSender(
        database=database,
        feed=base.feed,
        interest=EventInterest(clients.registry, database),
        rooms=rooms.memberships,
        past=PreviousMembershipReader(rooms.events, rooms.states),
        maker=maker,
        calls=clients.calls,
    )
    return Duty("application services", sender.run, lambda: sender.waiting, plan_duty=APPSERVICES)
