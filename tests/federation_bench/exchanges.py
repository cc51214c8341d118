"""What is measured between servers: transactions that arrive, events that leave, joins."""

from collections.abc import Callable, Sequence
from urllib.parse import quote

import attrs
import trio

from hs.core.canonical_json import JsonObject
from hs.core.events.event import Event
from hs.core.ids import RoomID, UserID
from tests.federation_bench.figures import Figures
from tests.federation_bench.measured_servers import MeasuredServer
from tests.federation_bench.prepared_rooms import PreparedRoom, prepare_room, users_of
from tests.federation_bench.stand_ins import (
    SignedTransaction,
    StandIns,
    signed_transaction,
)
from tests.support.servers.http_client import HttpClient

ROOM_VERSION = "11"
PDUS_PER_TRANSACTION = 50
SENDERS = 20
SHOWN_S = 600.0
SHORTLY_IDLE_S = 0.3
CLIENT = "/_matrix/client/v3"


@attrs.define(eq=False)
class Bench:
    """The servers and the figures; each scenario measures all of `servers` in turn."""

    servers: Sequence[MeasuredServer]
    stand_ins: StandIns
    figures: Figures
    report: Callable[[str], None]
    rounds: int = attrs.field(default=3, kw_only=True)
    transactions: int = attrs.field(default=10, kw_only=True)
    _transactions_sent: int = attrs.field(default=0, init=False)

    def record(self, operation: str, server: MeasuredServer, cpu_s: float, count: int = 1) -> None:
        """Record the CPU time of a number of operations."""
        self.report(self.figures.add(operation, server.label, cpu_s * 1000 / count))

    async def inbound(self, members: int) -> None:
        """Measure transactions in a room of many members, one of which is local."""
        users = users_of(self.stand_ins.names[0], members - 1)
        rooms = {}
        for server in self.servers:
            room = prepare_room(ROOM_VERSION, users)
            await self.join(server, self.stand_ins.serve_room(room), self.stand_ins.names[0])
            await self._send_messages(server, room, users, 2)
            rooms[server.label] = room
        for _ in range(self.rounds):
            for server in self.servers:
                room = rooms[server.label]
                before = await server.settle()
                await self._send_messages(server, room, users, self.transactions)
                used = await server.settle() - before
                count = self.transactions * PDUS_PER_TRANSACTION
                self.record(f"receive a PDU, room of {members:,} members", server, used, count)

    async def outbound(self, destinations: int, events: int) -> None:
        """Measure events of a local user in a room of many servers."""
        users = [UserID(f"@member:{name}") for name in self.stand_ins.names[:destinations]]
        room_ids = {}
        for server in self.servers:
            room = prepare_room(ROOM_VERSION, users)
            room_ids[server.label] = self.stand_ins.serve_room(room)
            await self.join(server, room_ids[server.label], self.stand_ins.names[0])
            await self._send_to_all(server, room_ids[server.label], destinations, 2)
        where = f"room of {destinations} servers"
        for _ in range(self.rounds):
            for server in self.servers:
                before = await server.settle()
                room_id = room_ids[server.label]
                await self._send_to_all(server, room_id, destinations, events)
                used = await server.settle() - before
                self.record(f"send an event, {where}", server, used, events)

    async def join_of_stand_in(self, members: int) -> None:
        """Measure joins of a prepared room: what the other side does is not counted."""
        name = self.stand_ins.names[0]
        for _ in range(self.rounds):
            for server in self.servers:
                room_id = self.stand_ins.serve_room(
                    prepare_room(ROOM_VERSION, users_of(name, members))
                )
                await self._measure_join(
                    f"join a room of {members:,} members", server, room_id, name
                )

    async def join_of_server(self, resident: MeasuredServer, members: int) -> None:
        """Measure joins through another server, which has joined a prepared room."""
        name = self.stand_ins.names[0]
        for _ in range(self.rounds):
            for server in self.servers:
                room = prepare_room(ROOM_VERSION, users_of(name, members))
                room_id = self.stand_ins.serve_room(room)
                await self.join(resident, room_id, name)
                await resident.settle()
                await self._measure_join(
                    f"join a room of {members:,} members that {resident.label} serves",
                    server,
                    room_id,
                    resident.name,
                )

    async def _measure_join(
        self, operation: str, server: MeasuredServer, room_id: RoomID, through: str
    ) -> None:
        before = await server.settle()
        await self.join(server, room_id, through)
        answered = server.cpu_s() - before
        used = await server.settle() - before
        self.record(f"{operation}, until it is answered", server, answered)
        self.record(operation, server, used)
        async with server.client() as client:
            await self._check_members(client, room_id)

    async def join(self, server: MeasuredServer, room_id: RoomID, through: str) -> None:
        """Let the local user join a room."""
        async with server.client() as client:
            target = f"{CLIENT}/join/{quote(room_id)}?via={quote(through)}"
            response = await client.post(target, {})
            assert response.status == 200, response.json

    async def _check_members(self, client: HttpClient, room_id: RoomID) -> None:
        response = await client.get(f"{CLIENT}/rooms/{quote(room_id)}/joined_members")
        expected = sum(key[0] == "m.room.member" for key in self.stand_ins.rooms[room_id].state)
        assert len(response.json["joined"]) >= expected, (len(response.json["joined"]), expected)

    async def _wait_for(self, server: MeasuredServer, event: Event) -> None:
        """Wait until a server has an event, asking seldom."""
        target = f"{CLIENT}/rooms/{quote(event.room_id)}/event/{quote(event.event_id)}"
        with trio.fail_after(SHOWN_S):
            async with server.client() as client:
                while True:
                    await server.settle(SHORTLY_IDLE_S)
                    if (await client.get(target)).status == 200:
                        return

    async def _send_messages(
        self, server: MeasuredServer, room: PreparedRoom, users: Sequence[UserID], count: int
    ) -> None:
        """Send transactions of messages to a server, each once it has the one before.

        Servers may go on with PDUs after they have acknowledged them, and Synapse drops some of
        those that wait if they are more than a hundred.
        """
        prepared = []
        for _ in range(count):
            self._transactions_sent += 1
            events = [
                room.add(users[number % min(len(users), SENDERS)], "m.room.message", _message())
                for number in range(PDUS_PER_TRANSACTION)
            ]
            content = {"pdus": [event.pdu for event in events], "edus": []}
            prepared.append((events[-1], self._sign(server, content)))
        async with HttpClient(server.port) as client:
            for last, (uri, body, headers) in prepared:
                response = await client.put(uri, body=body, headers=headers)
                assert response.status == 200, response.json
                results = response.json["pdus"]
                assert len(results) == PDUS_PER_TRANSACTION, response.json
                assert not any(results.values()), response.json
                await self._wait_for(server, last)

    def _sign(self, server: MeasuredServer, content: JsonObject) -> SignedTransaction:
        origin = self.stand_ins.names[0]
        return signed_transaction(origin, server.name, self._transactions_sent, content)

    async def _send_to_all(
        self, server: MeasuredServer, room_id: RoomID, destinations: int, events: int
    ) -> None:
        """Send events, each once the one before has arrived at all destinations."""
        async with server.client() as client:
            for _ in range(events):
                self._transactions_sent += 1
                expected = self.stand_ins.arrived.total() + destinations
                target = (
                    f"{CLIENT}/rooms/{quote(room_id)}/send/m.room.message"
                    f"/bench{self._transactions_sent}"
                )
                response = await client.put(target, _message())
                assert response.status == 200, response.json
                await self.stand_ins.wait_for_arrivals(expected)


def _message() -> dict[str, str]:
    return {"msgtype": "m.text", "body": "The quick brown fox jumps over the lazy dog"}
