"""Rooms that a server shares with scripted peers, and what these are sent.

async with open_servers(NEAR) as (near,):
    peer = ReceivingPeer(FAR, near.network)
    room_id = await shared_room(near, peer)
"""

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import trio

from hs.core.events.event import Event
from hs.core.ids import RoomID, ServerName, UserID
from hs.core.streams import DESTINATIONS, DestinationRow
from hs.repl.shared_writer import SharedStreamIds
from hs.repl.writers import Rows
from hs.services.federation_client.peer_transport import PeerRequest
from hs.services.rooms.receive.event_receiver import PduOutcome
from hs.storage.database import Tx
from hs.storage.federation import outbound
from tests.support.federation import FederatedServer, ScriptedPeer
from tests.support.peers import History

SEND = "PUT /_matrix/federation/v1/send/"
JOIN = {"membership": "join"}
FOUNDER = ServerName("one.example")  # of the user who creates the rooms
SENDER_DUTY = "federation sender 1 of 1"


_numbers = itertools.count()


class ReceivingPeer(ScriptedPeer):
    """A peer that accepts transactions, or answers with `status`."""

    def __attrs_post_init__(self) -> None:
        ScriptedPeer.__attrs_post_init__(self)
        self.status = 200
        self.transactions: list[dict[str, Any]] = []
        self.txn_ids: list[str] = []
        self.responses[SEND] = self._accept

    @property
    def user(self) -> UserID:
        """A user of the peer."""
        return UserID(f"@user:{self.name}")

    def _accept(self, request: PeerRequest) -> tuple[int, Any]:
        if self.status == 200:
            self.transactions.append(orjson.loads(request.body or b""))
            self.txn_ids.append(request.uri.rpartition("/")[2])
        return self.status, {"pdus": {}}

    def pdus(self) -> list[dict[str, Any]]:
        """Return all PDUs that were accepted, in order."""
        return [pdu for transaction in self.transactions for pdu in transaction["pdus"]]

    def bodies(self) -> list[str]:
        """Return the bodies of the messages among the PDUs."""
        return [pdu["content"]["body"] for pdu in self.pdus() if pdu["type"] == "m.room.message"]

    def edus(self, edu_type: str | None = None) -> list[dict[str, Any]]:
        """Return the contents of EDUs of a type that were accepted, in order."""
        return [
            edu["content"]
            for transaction in self.transactions
            for edu in transaction.get("edus", ())
            if edu_type is None or edu["edu_type"] == edu_type
        ]


async def shared_room(
    server: FederatedServer, *peers: ScriptedPeer, local: str = "ann", version: str = "11"
) -> tuple[RoomID, History]:
    """Import a room in which a local user and a user of each peer are joined."""
    ReceivingPeer(FOUNDER, server.network)
    history = History(version)
    history.room_id = RoomID(f"!shared{next(_numbers)}:one.example")
    history.begin(levels={f"@{local}:{server.name}": 100})
    for peer in peers:
        user = UserID(f"@user:{peer.name}")
        history.add(user, "m.room.member", JOIN, user)
    user = UserID(f"@{local}:{server.name}")
    history.first = history.add(user, "m.room.member", JOIN, user).event_id
    receiver = server.process.services.core.rooms.receiver
    result = await receiver.seed_room(history.room_id, version, *history.seed())
    assert [verdict.outcome for verdict in result.verdicts] == [PduOutcome.ACCEPTED]
    return history.room_id, history


async def receive(server: FederatedServer, event: Event, *, relay: bool = False) -> None:
    """Have a server receive an event of another one."""
    receiver = server.process.services.core.rooms.receiver
    result = await receiver.receive(event.room_id, [event.canonical], [], {}, relay)
    assert [verdict.outcome for verdict in result.verdicts] == [PduOutcome.ACCEPTED]


def have_pdus(count: int, *peers: ReceivingPeer) -> Callable[[], bool]:
    """Return the condition that each peer has accepted so many PDUs."""
    return lambda: all(len(peer.pdus()) >= count for peer in peers)


async def announce_heard(server: FederatedServer, peer: ServerName) -> None:
    """Let all processes know that a peer can be reached again."""

    async def write(tx: Tx, ids: SharedStreamIds) -> tuple[None, Rows[DestinationRow]]:
        return None, [(await ids.next_id(), DestinationRow(peer))]

    await server.process.base.shared(DESTINATIONS).write(write)


async def wait_until(condition: Callable[[], object], within_s: float = 60.0) -> None:
    """Wait until a condition holds. Raises: TooSlowError."""
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110  # virtual time passes only while all wait
            await trio.sleep(0.01)


@asynccontextmanager
async def sending(server: FederatedServer, duty: str = SENDER_DUTY) -> AsyncIterator[None]:
    """Run the federation sender of a server."""
    async with server.process.duties(duty):
        await _wait_until_begun(server)
        yield


async def _wait_until_begun(server: FederatedServer) -> None:
    """Wait until the sender has stored its position, from which on it misses nothing."""
    base = server.process.base
    with trio.fail_after(60):
        while True:
            positions = await base.database.read(outbound.list_positions)
            if any(row.sender == base.plan.instance for row in positions):
                return
            await trio.sleep(0.01)
