"""Transactions of other servers, and the queues of events that lack others."""

from collections.abc import Callable
from functools import partial

import attrs

from hs.apis.federation.transactions import TransactionsApi
from hs.core.streams import EVENTS
from hs.lib.metrics import Metrics
from hs.lib.tasks import Duty
from hs.nursery.part import Part
from hs.nursery.process_base import ProcessBase
from hs.nursery.wiring.devices import DeviceServices
from hs.nursery.wiring.ephemeral import EphemeralServices
from hs.nursery.wiring.federation.client import FederationClientServices
from hs.nursery.wiring.rooms.rooms import RoomOwner, Rooms
from hs.services.federation.access.event_admission import EventAdmission
from hs.services.federation.access.server_access import ServerAccess
from hs.services.federation.history.state_fetcher import StateFetcher
from hs.services.federation.inbound.device_messages import InboundDeviceMessages
from hs.services.federation.inbound.early_presence import EarlyPresence
from hs.services.federation.inbound.edus import InboundEdus, RemoteDeviceLists
from hs.services.federation.inbound.ephemeral_edus import (
    InboundPresence,
    InboundReceipts,
    InboundTyping,
    SharedRoomChecks,
)
from hs.services.federation.inbound.extremity_limits import ExtremityLimits
from hs.services.federation.inbound.inbound_metrics import watch_edus, watch_pdus
from hs.services.federation.inbound.inbound_pdus import InboundPdus, OwnedInboundPdus
from hs.services.federation.inbound.missing_events import MissingEventFetcher
from hs.services.federation.inbound.pdu_queues import PduQueues
from hs.services.federation.inbound.transactions import InboundTransactions


@attrs.frozen(eq=False)
class _OwnedRooms:
    pdus: OwnedInboundPdus
    queues: PduQueues
    limits: ExtremityLimits


def wire_inbound(
    base: ProcessBase,
    client: FederationClientServices,
    rooms: Rooms,
    devices: DeviceServices,
    ephemeral: EphemeralServices,
    admission: EventAdmission,
    *,
    lists: RemoteDeviceLists | None,
) -> Part:
    """Build the endpoint, and in processes that own rooms the receiver of PDUs and its queues."""
    owned = None if rooms.owner is None else _owned(base, client, rooms, rooms.owner)

    def pdus() -> OwnedInboundPdus:
        assert owned is not None
        return owned.pdus

    early = _early_presence(base, ephemeral)
    edus = _edus(base, rooms, devices, ephemeral, lists, early)
    transactions = InboundTransactions(base.sharded(InboundPdus, EVENTS, pdus), edus, admission)
    endpoints = [TransactionsApi(transactions)]
    metrics: list[Callable[[Metrics], None]] = [partial(watch_edus, edus=edus)]
    duties = [] if early is None else [Duty("early presence", early.run)]
    if owned is None:
        return Part(endpoints=endpoints, duties=duties, metrics=metrics)
    queues = owned.queues
    return Part(
        endpoints=endpoints,
        duties=[
            *duties,
            Duty("incomplete PDUs", queues.run, lambda: queues.length),
            Duty("forward extremities", owned.limits.run),
        ],
        metrics=[*metrics, partial(watch_pdus, pdus=owned.pdus, queues=queues)],
    )


def _early_presence(base: ProcessBase, ephemeral: EphemeralServices) -> EarlyPresence | None:
    presence = ephemeral.presence
    if not presence.is_enabled:
        return None
    server_name = base.settings.server.server_name
    early = EarlyPresence(base.database, presence.writer, base.clock, server_name)
    early.follow(base.feed)
    return early


def _edus(
    base: ProcessBase,
    rooms: Rooms,
    devices: DeviceServices,
    ephemeral: EphemeralServices,
    lists: RemoteDeviceLists | None,
    early: EarlyPresence | None,
) -> InboundEdus:
    checks = SharedRoomChecks(rooms.memberships, rooms.acls)
    presence = ephemeral.presence
    return InboundEdus(
        InboundTyping(checks, ephemeral.typing_writer),
        InboundReceipts(checks, base.database, ephemeral.receipt_writer, base.clock),
        InboundPresence(base.database, presence.writer, base.clock, early),
        InboundDeviceMessages(devices.messages, base.settings.server.server_name),
        lists,
    )


def _owned(
    base: ProcessBase, client: FederationClientServices, rooms: Rooms, owner: RoomOwner
) -> _OwnedRooms:
    limits = ExtremityLimits(
        owner.hot,
        rooms.appender,
        rooms.memberships,
        rooms.auth_states,
        base.settings.rooms.dummy_events_threshold,
    )
    queues = PduQueues(
        base.database,
        owner.receiver,
        owner.hot,
        MissingEventFetcher(
            client.client, rooms.events, StateFetcher(client.client, base.database)
        ),
        rooms.memberships,
        limits=limits,
        clock=base.clock,
        owns=lambda room_id: base.ownership.is_mine(EVENTS, room_id),
        server_name=base.settings.server.server_name,
        acls=rooms.acls,
        expected=owner.receiver.expected,
    )
    queues.follow(base.feed)
    if base.ownership.slots is not None:
        base.ownership.slots.on_gained.append(lambda stream, matches: queues.look_again())
        base.ownership.slots.on_lost.append(lambda stream, matches: queues.look_again())
    pdus = OwnedInboundPdus(
        base.database,
        owner.receiver,
        ServerAccess(base.settings.server.server_name, rooms.acls, rooms.servers),
        rooms.acls,
        queues,
        limits=limits,
        withdrawals=rooms.withdrawals,
        expected=owner.receiver.expected,
        checker=rooms.checker,
        keys=client.keys,
    )
    return _OwnedRooms(pdus, queues, limits)
