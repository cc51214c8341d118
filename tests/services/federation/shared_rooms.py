"""Rooms that several composed servers are in, without the requests by which servers join."""

from collections.abc import Mapping
from typing import Any

from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.ids import EventID, RoomID, UserID
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.append.event_builder import EventBuilder
from hs.services.rooms.receive.event_receiver import PduOutcome
from tests.support.federation import FederatedServer, ScriptedPeer
from tests.support.peers import signer_of


async def build_remotely(
    resident: FederatedServer,
    sender: FederatedServer | ScriptedPeer,
    room_id: RoomID,
    draft: Draft,
) -> Event:
    """Return the next event of a room at `resident`, signed by another server."""
    builder = EventBuilder(signer_of(sender.name), resident.world.clock)
    async with resident.world.rooms.hold(room_id) as room:
        pending, _ = builder.build_event(room, room.head, draft)
    return pending.event


async def join_through(
    resident: FederatedServer,
    joining: FederatedServer,
    room_id: RoomID,
    user_id: UserID,
    content: Mapping[str, Any] | None = None,
) -> Event:
    """Let a user of one server join a room of another; return the join."""
    member = {"membership": event_types.JOIN, **(content or {})}
    draft = Draft(event_types.MEMBER, user_id, member, user_id)
    join = await build_remotely(resident, joining, room_id, draft)
    await receive(resident, room_id, join)
    rooms = resident.process.services.core.rooms
    stored = await rooms.events.get_one(join.event_id)
    assert stored is not None
    state = list((await rooms.states.at_snapshot(stored.snapshot_id or 0)).values())
    chain = await rooms.graph.chain_of(state)
    pdus = {
        event_id: each.event.canonical
        for event_id, each in (await rooms.events.get({*state, *chain})).items()
    }
    imported = await joining.process.services.core.rooms.receiver.seed_room(
        room_id,
        join.rules.identifier,
        [pdus[event_id] for event_id in state],
        [pdus[event_id] for event_id in chain],
        join.canonical,
    )
    assert imported.verdicts[0].outcome is PduOutcome.ACCEPTED, imported.verdicts
    return join


async def pass_on(
    sender: FederatedServer, receiving: FederatedServer, room_id: RoomID, *event_ids: EventID
) -> None:
    """Have a server receive events that another one has stored."""
    stored = await sender.process.services.core.rooms.events.get(event_ids)
    await receive(receiving, room_id, *(each.event for each in stored.values()))


async def receive(server: FederatedServer, room_id: RoomID, *events: Event) -> None:
    """Have a server receive events, and accept all of them."""
    receiver = server.process.services.core.rooms.receiver
    received = await receiver.receive(room_id, [each.canonical for each in events], [], {})
    for verdict in received.verdicts:
        assert verdict.outcome is PduOutcome.ACCEPTED, verdict
