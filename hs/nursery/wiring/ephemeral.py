"""What passes: who types, who has read what, who is online."""

import attrs

from hs.core.ids import RoomID
from hs.lib.tasks import Duty
from hs.nursery.process_base import Foundation
from hs.nursery.wiring.accounts import Accounts
from hs.nursery.wiring.rooms import Rooms
from hs.repl.memory_writer import epoch_at
from hs.repl.streams import PRESENCE, RECEIPTS, TYPING
from hs.services.ephemeral.presence import PresenceService
from hs.services.ephemeral.presence_states import PresenceStates
from hs.services.ephemeral.presence_tracking import SyncingDevices, watch_senders
from hs.services.ephemeral.presence_writer import PresenceMemory, PresenceWriter
from hs.services.ephemeral.read_markers import ReadingService
from hs.services.ephemeral.receipts import Receipts, ReceiptTable, ReceiptWriter
from hs.services.ephemeral.typing_notifications import (
    TypingMemory,
    TypingService,
    TypingUsers,
    TypingWriter,
)


@attrs.frozen(eq=False, kw_only=True)
class Ephemeral:
    """Readers and services of what passes; `duties` run in this process."""

    typing_users: TypingUsers
    typing: TypingService
    receipts: Receipts
    reading: ReadingService
    presence_states: PresenceStates
    presence: PresenceService
    duties: list[Duty]


def wire_ephemeral(ground: Foundation, accounts: Accounts, rooms: Rooms) -> Ephemeral:
    """Build typing, receipts and presence."""
    presence_states, presence, duties = _presence(ground, rooms)
    receipts = Receipts(ground.database, ground.feed)

    def typing_memory() -> TypingMemory:
        memory = TypingMemory(ground.memory(TYPING), ground.feed, ground.database)
        duties.append(Duty("typing", memory.run))
        return memory

    typing_writer = ground.owned(TypingWriter, TYPING, typing_memory)
    receipt_writer = ground.owned(
        ReceiptWriter, RECEIPTS, lambda: ReceiptTable(ground.table(RECEIPTS))
    )
    return Ephemeral(
        typing_users=TypingUsers(ground.feed),
        typing=TypingService(rooms.memberships, typing_writer, presence.devices),
        receipts=receipts,
        reading=ReadingService(
            database=ground.database,
            members=rooms.memberships,
            receipts=receipts,
            writer=receipt_writer,
            markers=accounts.account_data,
            clock=ground.clock,
            activity=presence.devices,
        ),
        presence_states=presence_states,
        presence=presence,
        duties=duties,
    )


def _presence(
    ground: Foundation, rooms: Rooms
) -> tuple[PresenceStates, PresenceService, list[Duty]]:
    settings, clock = ground.settings.presence, ground.clock
    duties: list[Duty] = []

    def memory() -> PresenceMemory:
        made = PresenceMemory(ground.memory(PRESENCE), ground.database, settings, clock)
        duties.append(Duty("presence", made.run))
        return made

    states = PresenceStates(ground.database, ground.feed)
    writer = ground.owned(PresenceWriter, PRESENCE, memory)
    devices = SyncingDevices(
        ground.plan.instance, epoch_at(clock.now_ms()), writer, states, settings, clock
    )
    duties.append(Duty("syncing devices", devices.run))
    if ground.ownership.writes(PRESENCE):
        watch_senders(ground.feed, devices, rooms.memberships.is_local)
    service = PresenceService(
        settings=settings,
        states=states,
        neighbours=rooms.memberships,
        writer=writer,
        devices=devices,
        clock=clock,
        apart=frozenset(map(RoomID, ground.settings.rooms.exclude_rooms_from_presence)),
    )
    return states, service, duties
