"""The federation senders."""

from functools import lru_cache, partial

from hs.core.ids import RoomID, ServerName
from hs.core.streams import FEDERATION
from hs.lib.tasks import Duty
from hs.nursery.part import Part
from hs.nursery.plan import BACKGROUND
from hs.nursery.plan import FEDERATION as FEDERATION_DUTY
from hs.nursery.process_base import ProcessBase
from hs.nursery.wiring.rooms.rooms import Rooms
from hs.repl.slots.assignment import shard_of
from hs.services.devices.user_keys import UserKeysReader
from hs.services.ephemeral.presence_states import PresenceStates
from hs.services.federation.outbound.delivery import DestinationDelivery
from hs.services.federation.outbound.destinations import Destinations
from hs.services.federation.outbound.device_edus import DeviceEdus
from hs.services.federation.outbound.event_routing import EventRouting
from hs.services.federation.outbound.federation_sender import FederationSender, Routing
from hs.services.federation.outbound.memory_rows import MemoryRows, PresenceRules
from hs.services.federation.outbound.outgoing import TransactionEncoder
from hs.services.federation.outbound.outgoing_messages import CLEANUP_PERIOD_S, OutgoingMessages
from hs.services.federation.outbound.sender_metrics import watch_sender
from hs.services.federation.outbound.sender_positions import SenderPositions
from hs.services.federation.outbound.table_rows import (
    DeviceRouting,
    ReceiptRouting,
    ServersOfUsers,
)
from hs.services.federation_client.client import FederationClient
from hs.services.federation_client.retry_intervals import RetryIntervals


def wire_outgoing_messages(base: ProcessBase) -> OutgoingMessages:
    """Build the encoder of to-device messages for other servers, which any process has."""
    return OutgoingMessages(base.database, base.memory(FEDERATION), base.clock)


def wire_outbound(
    base: ProcessBase, client: FederationClient, rooms: Rooms, states: PresenceStates
) -> Part:
    """Build the federation sender, if this process is one."""
    messages = wire_outgoing_messages(base)
    cleanup = Duty(
        "outgoing message cleanup",
        messages.clean_up,
        plan_duty=BACKGROUND,
        period_s=CLEANUP_PERIOD_S,
        at_start=False,
    )
    sender = base.planned(FEDERATION_DUTY, lambda: _sender(base, client, rooms, states))
    if sender is None:
        return Part(duties=[cleanup])
    senders = base.settings.workers.federation_senders
    number = senders.index(base.plan.instance) + 1
    sending = Duty(
        f"federation sender {number} of {len(senders)}",
        sender.run,
        lambda: sender.waiting,
        plan_duty=FEDERATION_DUTY,
    )
    return Part(duties=[cleanup, sending], metrics=[partial(watch_sender, sender=sender)])


def _sender(
    base: ProcessBase, client: FederationClient, rooms: Rooms, states: PresenceStates
) -> FederationSender:
    database, server_name = base.database, base.settings.server.server_name
    senders = base.settings.workers.federation_senders
    share, shares = senders.index(base.plan.instance), len(senders)

    @lru_cache(maxsize=20_000)
    def is_mine(server: ServerName) -> bool:
        return server != server_name and shard_of(server, shares) == share

    destinations = Destinations(is_mine, base.clock)
    sharing = ServersOfUsers(rooms.memberships, rooms.servers)
    shows_names = base.settings.federation.allow_device_name_lookup_over_federation
    keys = UserKeysReader(database, base.feed, is_owner=False)
    devices = DeviceEdus(database, keys, shows_names)
    routing = Routing(
        events=EventRouting(database, rooms.servers, destinations, server_name),
        receipts=_receipts(base, rooms, destinations),
        devices=DeviceRouting(
            database, base.feed, sharing, destinations, edus=devices, server_name=server_name
        ),
        memory=MemoryRows(
            rooms=rooms.servers,
            sharing=sharing,
            destinations=destinations,
            server_name=server_name,
            clock=base.clock,
            memberships=rooms.memberships,
            states=states,
            presence=_presence_rules(base),
        ),
    )
    delivery = DestinationDelivery(
        database=database,
        client=client,
        encoder=TransactionEncoder(server_name, base.clock),
        destinations=destinations,
        devices=devices,
        intervals=RetryIntervals.of(base.settings.peer_requests),
    )
    positions = SenderPositions(database, base.plan.instance, senders)
    return FederationSender(
        database=database,
        feed=base.feed,
        destinations=destinations,
        routing=routing,
        delivery=delivery,
        positions=positions,
    )


def _receipts(base: ProcessBase, rooms: Rooms, destinations: Destinations) -> ReceiptRouting:
    per_s = base.settings.federation.federation_rr_transactions_per_room_per_second
    return ReceiptRouting(
        database=base.database,
        feed=base.feed,
        rooms=rooms.servers,
        destinations=destinations,
        server_name=base.settings.server.server_name,
        transactions_per_s=max(1, per_s),
    )


def _presence_rules(base: ProcessBase) -> PresenceRules:
    return PresenceRules(
        is_sent=base.settings.presence.enabled is True,
        excluded_rooms=frozenset(map(RoomID, base.settings.rooms.exclude_rooms_from_presence)),
    )
