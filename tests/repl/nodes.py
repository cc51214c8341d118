"""Several processes in one trio run, for tests of the transports between them."""

from collections.abc import Sequence
from typing import Any

import attrs
import trio

from hs.lib.aio import Bridge
from hs.repl.feed import Batch, Feed
from hs.repl.inproc_rpc import InProcSender
from hs.repl.intake import Intake
from hs.repl.memory_writer import MemoryWriter
from hs.repl.message import Message, Saying
from hs.repl.recent_rows import LocalRecentRows, RecentRows
from hs.repl.redis import RedisAddress, RedisLink, RedisTransport
from hs.repl.rpc_client import RpcClients
from hs.repl.rpc_http import RpcEndpoint
from hs.repl.rpc_server import RpcServer
from hs.repl.streams import StreamDef
from hs.repl.writers import TableWriter
from hs.storage.database import Database
from tests.repl.conftest import HINTS, NOTES, Note
from tests.support.redis import RedisServer

STREAMS: dict[str, StreamDef[Any]] = {stream.name: stream for stream in (NOTES, HINTS)}

CHANNEL = "test/hs/streams"


@attrs.define(eq=False)
class LossyIntake(Intake):
    """Loses messages with rows, by their number."""

    lose: frozenset[int] = frozenset()
    count: int = 0

    def accept(self, message: Message) -> None:
        """Take a message, or lose it."""
        if message.saying is Saying.ROWS:
            self.count += 1
            if self.count in self.lose:
                return
        super().accept(message)


@attrs.define(eq=False)
class Node:
    """One process: its feed, what it has seen, and its writers."""

    name: str
    feed: Feed
    intake: LossyIntake
    transport: RedisTransport
    notes: TableWriter[Note]
    hints: MemoryWriter[Note]
    rpc: RpcServer
    seen: list[Batch[Note]] = attrs.Factory(list)
    changed: trio.Event = attrs.Factory(trio.Event)

    def note(self, batch: Batch[Note]) -> None:
        """Remember a batch."""
        self.seen.append(batch)
        self.changed.set()
        self.changed = trio.Event()

    def texts(self, writer: str) -> list[str]:
        """List what was seen of a writer, in order."""
        return [row.text for batch in self.seen if batch.writer == writer for _, row in batch.rows]

    async def until_seen(self, writer: str, texts: Sequence[str], timeout_s: float = 60) -> None:
        """Wait until exactly these were seen of a writer."""
        with trio.fail_after(timeout_s):
            while len(self.texts(writer)) < len(texts):
                await self.changed.wait()
        assert self.texts(writer) == list(texts)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run transport, RPC and writers, in the order of a start."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.rpc.run)
            await nursery.start(self.transport.run)
            await nursery.start(self.notes.run)
            self.hints.attach()
            task_status.started()


@attrs.define(eq=False)
class Cluster:
    """Makes nodes that share a database, a Redis and RPC without sockets."""

    database: Database
    bridge: Bridge
    redis: RedisServer | RedisAddress
    names: Sequence[str] = ("w1", "w2", "w3")
    sender: InProcSender = attrs.Factory(InProcSender)
    starts: int = 0
    made: list[Node] = attrs.Factory(list)

    def node(self, name: str) -> Node:
        """Make a process."""
        feed = Feed()
        clients = RpcClients(self.sender, "s", feed, STREAMS)
        intake = LossyIntake(
            feed, name, self.database, lambda other: clients.proxy(RecentRows, other), STREAMS
        )
        address = self.redis
        if isinstance(address, RedisServer):
            address = RedisAddress(path=address.socket)
        link = RedisLink(address, CHANNEL, name, self.bridge)
        expected = [(NOTES, other) for other in self.names if other != name]
        transport = RedisTransport(feed, name, link, self.bridge, intake, expected)
        self.starts += 1
        notes = TableWriter(NOTES, name, self.database, transport, lambda: 1_000_000)
        hints = MemoryWriter(HINTS, name, transport, 1_000_000 * self.starts)
        server = RpcServer(lambda: transport.sources)
        server.register(RecentRows, LocalRecentRows(lambda: transport.sources))
        self.sender.connect(name, RpcEndpoint(server, "s"))
        node = Node(name, feed, intake, transport, notes, hints, server)
        self.made.append(node)
        feed.subscribe(NOTES, node.note)
        feed.subscribe(HINTS, node.note)
        return node
