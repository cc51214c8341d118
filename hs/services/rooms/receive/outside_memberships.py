"""Memberships of local users in rooms that this server is not in: invites, knocks, and their ends.

Rules:

- The member event is stored as an outlier, and only the user's own membership changes: this server
  has no state of the room, or one from a time when local users were in it.
- If a local user is in the room, nothing is stored: the event arrives with the others of the room.
- An event that is stored already changes nothing, so an invite that was rejected stays rejected
  when it is sent again.
- The owner of the room ID commits the change while it holds the room's lock, so that a join of the
  room comes before or after it.
"""

from typing import Protocol

import attrs
import orjson

from hs.core.events.event import Event
from hs.core.events.format import parse_pdu
from hs.core.ids import EventID, RoomID
from hs.core.versions import room_version
from hs.repl.rpc import rpc
from hs.services.rooms.append.committer import Committer
from hs.services.rooms.append.hot_rooms import HotRooms
from hs.services.rooms.append.pending_events import EventBatch, NewRoomRow, PendingEvent
from hs.services.rooms.store.memberships import Memberships
from hs.services.rooms.store.stored_event import EventStatus
from hs.storage.database import Database, Tx
from hs.storage.rooms import events, memberships


@attrs.frozen
class OutsideMembership:
    """A checked member event of a local user, and the stripped state of the room as a JSON array.

    `replaces` is the member event that must still be the user's current one; None, if any may be.
    """

    room_version: str
    pdu: bytes
    stripped_state: bytes | None = None
    replaces: EventID | None = None


class OutsideMemberships(Protocol):
    """Stores memberships in rooms that this server is not in."""

    @rpc
    async def store(self, room_id: RoomID, membership: OutsideMembership) -> bool:
        """Store the membership of a local user; return False if nothing changes.

        When the call returns, the change is committed and delivered by this process's feed.
        Raises: MatrixError 503, may be retried.
        """


@attrs.frozen(eq=False)
class OwnedOutsideMemberships:
    """The OutsideMemberships of the process that owns the rooms."""

    _database: Database
    _memberships: Memberships
    _rooms: HotRooms
    _committer: Committer

    async def store(self, room_id: RoomID, membership: OutsideMembership) -> bool:
        """Store a membership; see OutsideMemberships."""
        event = parse_pdu(orjson.loads(membership.pdu), room_version(membership.room_version))
        async with self._rooms.exclusive(room_id):
            if (await self._memberships.present(room_id)).local:
                return False
            if not await self._database.read(_may_store, event, membership.replaces):
                return False
            pending = PendingEvent(
                event,
                None,
                status=EventStatus.OUTLIER,
                outside=True,
                stripped_state=membership.stripped_state,
            )
            self._committer.check_open()
            row = NewRoomRow(membership.room_version, "", is_outside=True)
            batch = EventBatch(room_id, [pending], None, row)
            self._committer.submit(batch)
            await batch.wait()
        return True


async def _may_store(tx: Tx, event: Event, replaces: EventID | None) -> bool:
    if await events.stream_ids_of(tx, [event.event_id]):
        return False
    if replaces is None:
        return True
    own = await memberships.find_of_user(tx, event.room_id, event.state_key or "")
    return own is not None and own.event_id == replaces
