"""Resolve the states of many forward extremities, for events of this server; see ForkedHeads."""

from collections.abc import Sequence

import attrs

from hs.core.ids import ServerName
from hs.services.rooms.append.event_builder import head_without_redacted
from hs.services.rooms.append.hot_room import HotRoom, RoomHead, extremity
from hs.services.rooms.append.pending_events import PendingEvent
from hs.services.rooms.receive.pdu_processing import own_entry, state_changes
from hs.services.rooms.receive.received_room import ReceivedRoom, RoomStores
from hs.services.rooms.store.stored_event import EventStatus


@attrs.frozen(eq=False)
class ResolvedHeads:
    """The ForkedHeads of the process that owns the rooms."""

    _stores: RoomStores

    async def cited_head(self, room: HotRoom, server_name: ServerName) -> RoomHead:
        """Return the head with the extremities that an event cites; see ForkedHeads."""
        held = ReceivedRoom.of(room, self._stores)
        cited = room.head.cited_extremities(server_name)
        state = await held.resolve([await held.state_after(end.event_id) for end in cited])
        changes = await held.changes_to(state)
        head = room.head.with_state(changes, room.create)
        return attrs.evolve(head, snapshot=state).with_extremities(cited)

    async def joined_head(
        self, room: HotRoom, events: Sequence[PendingEvent], head: RoomHead
    ) -> RoomHead:
        """Return the head after events that cite some extremities; see ForkedHeads."""
        cited = frozenset(events[0].event.prev_events)
        uncited = tuple(end for end in room.head.extremities if end.event_id not in cited)
        ends = (*uncited, extremity(events[-1].event))
        changing = [pending for pending in events if pending.event.state_key is not None]
        if len(changing) > 1:
            # The resolver cannot read several events that are not committed. The next event that
            # arrives or is sent has the room's state resolved.
            return head.with_extremities(ends)
        held = ReceivedRoom.of(room, self._stores)
        carrier = changing[0] if changing else events[-1]
        assert carrier.state_before is not None
        after = carrier.state_before.after(
            dict.fromkeys(own_entry(carrier.event), carrier.event.event_id)
        )
        held.announce(carrier, after)
        others = [await held.state_after(end.event_id) for end in uncited]
        changes = await held.changes_to(await held.resolve([after, *others]))
        carrier.changes = state_changes(room.head, changes)
        carrier.only_own_entry = changes == own_entry(carrier.event)
        if changes and carrier.status == EventStatus.HIDDEN:
            carrier.status = EventStatus.ACCEPTED
        joined = room.head.with_state(changes, room.create)
        redacted = [pending.redacts for pending in events if pending.redacts is not None]
        for target in (await held.find_known(redacted)).values():
            joined = head_without_redacted(joined, target.event)
        return joined.with_extremities(ends)
