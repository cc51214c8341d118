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
    sharded_receipts,
)
from hs.services.ephemeral.sharded_presence import sharded_presence
from hs.services.ephemeral.typing_notifications import (
    LocalTypingWriter,
    TypingService,
    TypingUsers,
    TypingWriter,
)


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
    receipts = Receipts(base.database, base.feed)

    def typing_memory() -> LocalTypingWriter:
        owns = partial(base.ownership.is_mine, TYPING)
        memory = LocalTypingWriter(base.memory(TYPING), base.feed, base.database, owns)
        duties.append(Duty("typing", memory.run))
        return memory

    typing_writer = base.sharded(TypingWriter, TYPING, typing_memory)
    receipt_writer = sharded_receipts(
        base.ownership.writers(RECEIPTS),
        base.by_owner(ReceiptWriter, RECEIPTS, lambda: ReceiptTable(base.table(RECEIPTS))),
        partial(base.ownership.owner, RECEIPTS),
    )
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
        typing_users=TypingUsers(base.feed),
        reading=reading,
        receipts=receipts,
        presence=presence,
        typing_writer=typing_writer,
        receipt_writer=receipt_writer,
        part=Part(endpoints=endpoints, duties=duties),
    )


def _presence(base: ProcessBase, rooms: Rooms) -> tuple[PresenceService, list[Duty]]:
    settings, clock = base.settings.presence, base.clock
    duties: list[Duty] = []
    owns = partial(base.ownership.is_mine, PRESENCE)

    def memory() -> LocalPresenceWriter:
        writer = LocalPresenceWriter(base.memory(PRESENCE), base.database, settings, clock, owns)
        duties.append(Duty("presence", writer.run))
        return writer

    states = PresenceStates(base.database, base.feed)
    writer = sharded_presence(
        base.ownership.writers(PRESENCE),
        base.by_owner(PresenceWriter, PRESENCE, memory),
        partial(base.ownership.owner, PRESENCE),
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
