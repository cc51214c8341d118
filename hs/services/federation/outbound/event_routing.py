"""Which events are sent to which servers.

An event goes to the servers that are in its room after it, and to those that were in it before. The
latter are the servers that left with it, and the server of a user who was removed by it even if
that user was only invited (`left_servers` of the row). The servers in the room are taken from
memory while the feed delivers the event. If the room is not in memory, or if servers have joined or
left since the event, those at the event are read: a server that joins afterwards is not sent what
it may not see.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import attrs

from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, ServerName, UserID, server_of
from hs.core.positions import VectorPosition
from hs.core.streams import EventRow
from hs.repl.feed import Batch
from hs.services.federation.outbound.destinations import Destinations
from hs.services.federation.outbound.outgoing import OutgoingPdu
from hs.services.rooms.store.room_servers import RoomServers, Servers
from hs.storage.database import Database
from hs.storage.federation import outbound as storage
from hs.storage.federation.outbound import SentEventRecord
from hs.storage.rooms import events

PAGE: Final = 500


@attrs.frozen(eq=False)
class SentEvent:
    """An event to send; `servers` or `pdu` are None if they have yet to be read.

    `removed` are servers that get it although they may not be in the room; `known_to` has it
    already.
    """

    writer: str
    stream_id: int
    event_id: EventID
    room_id: RoomID
    known_to: ServerName
    pdu: bytes | None
    removed: frozenset[ServerName]
    servers: Servers | None = None


@attrs.frozen(eq=False)
class EventRouting:
    """Queues events for the servers that get them."""

    _database: Database
    _rooms: RoomServers
    _destinations: Destinations
    _server_name: ServerName

    def select(self, batch: Batch[EventRow]) -> Iterator[SentEvent]:
        """Select the events of a batch that some server gets."""
        suffix = f":{self._server_name}"
        for stream_id, row in batch.rows:
            if row.distributed or not (row.relay or row.sender.endswith(suffix)):
                continue
            # Each server joins its own forward extremities: the dummy events of all, which are
            # hidden, would be new ones.
            if not row.is_shown:
                continue
            room_id = RoomID(row.room_id)
            servers = self._rooms.servers_after_nowait(room_id, stream_id)
            removed = frozenset(map(ServerName, row.left_servers))
            if servers is None or servers or removed:
                yield SentEvent(
                    writer=batch.writer,
                    stream_id=stream_id,
                    event_id=EventID(row.event_id),
                    room_id=room_id,
                    known_to=self._server_that_knows(row.sender, row.state_key),
                    pdu=row.pdu,
                    removed=removed,
                    servers=servers,
                )

    async def route(self, sent: Sequence[SentEvent]) -> None:
        """Queue events, in their order."""
        rooms = dict.fromkeys(event.room_id for event in sent if event.servers is None)
        if rooms:
            await self._rooms.servers_of_rooms(rooms)
        lacking = [event.event_id for event in sent if event.pdu is None]
        pdus = await self._load(lacking) if lacking else {}
        for event in sent:
            servers = event.servers
            if servers is None:
                servers = await self._rooms.servers_at(event.room_id, event.stream_id)
            pdu = pdus.get(event.event_id) if event.pdu is None else event.pdu
            if pdu is not None:
                self._send(event, servers | event.removed, pdu)
            self._destinations.note_delivered(event.stream_id)

    async def catch_up(self, after: VectorPosition, start: VectorPosition) -> None:
        """Route the events that were stored after a position, up to the start of the queue."""
        await self._catch_up_own(after, start)
        position = after.floor
        while True:
            relayed = await self._database.read(storage.list_relayed_events, position, PAGE)
            await self._route_records(relayed, after, start)
            if len(relayed) < PAGE:
                return
            position = relayed[-1].stream_id

    async def _catch_up_own(self, after: VectorPosition, start: VectorPosition) -> None:
        position = after.floor
        while True:
            own = await self._database.read(
                storage.list_own_events, self._server_name, position, PAGE
            )
            await self._route_records(own, after, start)
            if len(own) < PAGE:
                return
            position = own[-1].stream_id

    async def _route_records(
        self, records: Iterable[SentEventRecord], after: VectorPosition, start: VectorPosition
    ) -> None:
        sent = [
            SentEvent(
                writer=record.writer,
                stream_id=record.stream_id,
                event_id=EventID(record.event_id),
                room_id=RoomID(record.room_id),
                known_to=self._server_that_knows(record.sender, record.state_key),
                pdu=record.pdu,
                removed=self._server_of_member(record.type, record.state_key),
            )
            for record in records
            if not after.covers(record.writer, record.stream_id)
            and start.covers(record.writer, record.stream_id)
        ]
        await self.route(sent)

    async def _load(self, event_ids: list[EventID]) -> dict[str, bytes]:
        found = await self._database.read(events.find, event_ids)
        return {loaded.event_id: loaded.pdu for loaded in found}

    def _send(self, event: SentEvent, servers: frozenset[ServerName], pdu: bytes) -> None:
        if event.known_to in servers:
            servers = servers - {event.known_to}
        if servers:
            self._destinations.send_pdu(servers, OutgoingPdu(event.stream_id, event.event_id, pdu))

    def _server_that_knows(self, sender: str, state_key: str | None) -> ServerName:
        # The inviter's server has not seen the invite that follows a third-party invite.
        if state_key is not None and state_key.endswith(f":{self._server_name}"):
            return self._server_name
        return server_of(UserID(sender))

    def _server_of_member(self, event_type: str, state_key: str | None) -> frozenset[ServerName]:
        if event_type != event_types.MEMBER or state_key is None:
            return frozenset()
        server = ServerName(state_key.partition(":")[2])
        return frozenset() if server == self._server_name else frozenset((server,))
