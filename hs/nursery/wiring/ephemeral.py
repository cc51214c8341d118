"""Ephemeral data: typing notifications, receipts and presence."""

from functools import partial

import attrs

from hs.apis.client.ephemeral.presence import PresenceApi
from hs.apis.client.ephemeral.receipts import ReceiptsApi
from hs.apis.client.ephemeral.typing_notifications import TypingApi
from hs.core.ids import RoomID
from hs.core.streams import PRESENCE, RECEIPTS, TYPING
from hs.lib.tasks import Duty
from hs.nursery.part import Part
from hs.nursery.process_base import ProcessBase
from hs.nursery.wiring.accounts.accounts import AccountServices
from hs.nursery.wiring.rooms.rooms import Rooms
from hs.repl.feed import Interest
from hs.repl.memory_writer import epoch_at
from hs.services.ephemeral.presence import PresenceService
from hs.services.ephemeral.presence_states import PresenceStates
from hs.services.ephemeral.presence_tracking import SyncingDevices, watch_senders
from hs.services.ephemeral.presence_writer import LocalPresenceWriter, PresenceWriter
from hs.services.ephemeral.read_markers import ReadingService
from hs.services.ephemeral.receipts import (
    Receipts,
    ReceiptTable,
    ReceiptWriter,
    ShardedReceipts,
)
from hs.services.ephemeral.sharded_presence import ShardedPresence
from hs.services.ephemeral.typing_notifications import (
    LocalTypingWriter,
    TypingService,
    TypingUsers,
    TypingWriter,
)
from hs.services.ephemeral.unsaved_presence import UnsavedPresence


@attrs.frozen(eq=False, kw_only=True)
class EphemeralServices:
    """What users send as ephemeral data, and what sync and push read of it."""

    typing: TypingService
    typing_users: TypingUsers
    reading: ReadingService
    receipts: Receipts
    presence: PresenceService
    typing_writer: TypingWriter
    receipt_writer: ReceiptWriter
    part: Part


def wire_ephemeral(base: ProcessBase, accounts: AccountServices, rooms: Rooms) -> EphemeralServices:
    """Build typing, receipts and presence."""
    presence, duties = _presence(base, rooms)
    receipts = Receipts(base.database, base.feed, base.interest_if_asked(Interest.OWN))
    typing_users = TypingUsers(base.feed, base.interest_if_read(TYPING))

    def typing_memory() -> LocalTypingWriter:
        owns = partial(base.ownership.may_finish, TYPING)
        memory = LocalTypingWriter(
            base.memory(TYPING), typing_users, base.database, owns, fence=base.key_fence(TYPING)
        )
        memory.follow(base.feed)
        base.on_gained(TYPING, memory.gain)
        base.on_lost(TYPING, memory.lose)
        duties.append(Duty("typing", memory.run))
        return memory

    typing_writer = base.sharded(TypingWriter, TYPING, typing_memory)
    receipt_writer = _receipt_writer(base)
    reading = ReadingService(
        database=base.database,
        members=rooms.memberships,
        receipts=receipts,
        writer=receipt_writer,
        markers=accounts.account_data,
        clock=base.clock,
        activity=presence.devices,
    )
    typing = TypingService(rooms.memberships, typing_writer, presence.devices)
    endpoints = [TypingApi(typing), ReceiptsApi(reading), PresenceApi(presence)]
    return EphemeralServices(
        typing=typing,
        typing_users=typing_users,
        reading=reading,
        receipts=receipts,
        presence=presence,
        typing_writer=typing_writer,
        receipt_writer=receipt_writer,
        part=Part(endpoints=endpoints, duties=duties),
    )


def _receipt_writer(base: ProcessBase) -> ReceiptWriter:
    def table() -> ReceiptTable:
        return ReceiptTable(base.table(RECEIPTS), base.key_guard(RECEIPTS))

    owners = base.owner_calls(RECEIPTS)
    if owners is None:
        return base.owned(ReceiptWriter, RECEIPTS, table)
    return ShardedReceipts(base.by_owner(ReceiptWriter, RECEIPTS, table), owners)


def _presence(base: ProcessBase, rooms: Rooms) -> tuple[PresenceService, list[Duty]]:
    settings, clock = base.settings.presence, base.clock
    duties: list[Duty] = []
    states = PresenceStates(base.database, base.feed, base.interest_if_read(PRESENCE))

    def memory() -> LocalPresenceWriter:
        may_finish = partial(base.ownership.may_finish, PRESENCE)
        guard = base.key_guard(PRESENCE)
        unsaved = UnsavedPresence(base.database, base.key_fence(PRESENCE))
        writer = LocalPresenceWriter(
            writer=base.memory(PRESENCE),
            database=base.database,
            unsaved=unsaved,
            settings=settings,
            clock=clock,
            is_local=rooms.memberships.is_local,
            may_finish=may_finish,
            shown=states.here,
            guard=guard,
        )
        base.on_gained(PRESENCE, writer.gain)
        base.on_lost(PRESENCE, writer.lose)
        if base.slots is not None:
            base.slots.table.unsaved[PRESENCE.name] = unsaved.has_some
            base.slots.table.savers[PRESENCE.name] = writer.save
        duties.append(Duty("presence", writer.run))
        return writer

    owners = base.owner_calls(PRESENCE)
    writer = (
        base.owned(PresenceWriter, PRESENCE, memory)
        if owners is None
        else ShardedPresence(base.by_owner(PresenceWriter, PRESENCE, memory), owners)
    )
    devices = SyncingDevices(
        instance=base.plan.instance,
        epoch=epoch_at(clock.now_ms()),
        writer=writer,
        states=states,
        settings=settings,
        clock=clock,
    )
    duties.append(Duty("syncing devices", devices.run))
    if base.ownership.writes(PRESENCE):
        is_local = rooms.memberships.is_local
        owns = partial(base.ownership.is_mine, PRESENCE)
        watch_senders(base.feed, devices, lambda user_id: is_local(user_id) and owns(user_id))
    service = PresenceService(
        settings=settings,
        states=states,
        memberships=rooms.memberships,
        writer=writer,
        devices=devices,
        clock=clock,
        excluded_rooms=frozenset(map(RoomID, base.settings.rooms.exclude_rooms_from_presence)),
    )
    return service, duties
