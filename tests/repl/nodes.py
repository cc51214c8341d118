"""Several processes in one trio run, for tests of the transport between them."""

from collections.abc import Sequence
from typing import Any

import attrs
import trio

from hs.core.stream_def import StreamDef
from hs.lib.aio import Bridge
from hs.repl.calls.client import RpcClients
from hs.repl.calls.inproc import InProcSender
from hs.repl.calls.server import RpcServer
from hs.repl.envelope import Envelopes, envelope_key
from hs.repl.feed import Batch, Feed, Interest
from hs.repl.intake import Intake
from hs.repl.memory_writer import MemoryWriter
from hs.repl.message import Message, MessageKind
from hs.repl.recent_rows import LocalRecentRows, RecentRows
from hs.repl.redis import RedisTransport
from hs.repl.redis_link import RedisAddress, RedisLink
from hs.repl.writers import TableWriter
from hs.storage.database import Database
from tests.repl.conftest import HINTS, NOTES, Note
from tests.support.servers.redis import RedisServer

STREAMS: dict[str, StreamDef[Any]] = {stream.name: stream for stream in (NOTES, HINTS)}

CHANNEL = "test/hs/streams"


@attrs.define(eq=False)
class LossyIntake(Intake):
    """An intake that loses the messages with rows whose numbers, from 1, are in `lose`."""

    lose: frozenset[int] = frozenset()
    count: int = 0

    def accept(self, *messages: Message) -> None:
        """Accept messages, or lose them."""
        super().accept(*(message for message in messages if not self._is_lost(message)))

    def _is_lost(self, message: Message) -> bool:
        if message.kind is not MessageKind.ROWS:
            return False
        self.count += 1
        return self.count in self.lose


@attrs.define(eq=False)
class Node:
    """One process: its feed, its writers, and the batches that its feed delivered."""

    name: str
    feed: Feed
    intake: LossyIntake
    transport: RedisTransport
    notes: TableWriter[Note]
    hints: MemoryWriter[Note]
    rpc: RpcServer
    seen: list[Batch[Note]] = attrs.Factory(list)
    changed: trio.Event = attrs.Factory(trio.Event)

    def on_batch(self, batch: Batch[Note]) -> None:
        """Remember a batch."""
        self.seen.append(batch)
        self.changed.set()
        self.changed = trio.Event()

    def texts(self, writer: str) -> list[str]:
        """Return the texts of the rows of a writer, in the order of delivery."""
        return [row.text for batch in self.seen if batch.writer == writer for _, row in batch.rows]

    async def until_seen(self, writer: str, texts: Sequence[str], timeout_s: float = 60) -> None:
        """Wait until exactly these rows of a writer were delivered."""
        with trio.fail_after(timeout_s):
            while len(self.texts(writer)) < len(texts):
                await self.changed.wait()
        assert self.texts(writer) == list(texts)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run RPC, the transport and the writers, in the order of a real start."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.rpc.run)
            await nursery.start(self.transport.run)
            await nursery.start(self.notes.run)
            self.hints.attach()
            task_status.started()


@attrs.define(eq=False)
class Cluster:
    """The nodes of one server, which share a database, a Redis and RPC without sockets."""

    database: Database
    bridge: Bridge
    redis: RedisServer | RedisAddress
    names: Sequence[str] = ("w1", "w2", "w3")
    sender: InProcSender = attrs.Factory(InProcSender)
    starts: int = 0
    nodes: list[Node] = attrs.Factory(list)

    def node(self, name: str, interest: Interest = Interest.ALL) -> Node:
        """Return a new process; several of one name are its lives."""
        feed = Feed()
        clients = RpcClients(self.sender, feed, STREAMS)
        intake = LossyIntake(
            feed, name, self.database, lambda writer: clients.proxy(RecentRows, writer), STREAMS
        )
        address = self.redis
        if isinstance(address, RedisServer):
            address = RedisAddress(path=address.socket)
        link = RedisLink(address, CHANNEL, name)
        expected = [(NOTES, writer) for writer in self.names if writer != name]
        self.starts += 1
        envelopes = Envelopes(envelope_key("s", "identity"), name, self.starts)

        async def make_envelopes() -> Envelopes:
            return envelopes

        transport = RedisTransport(
            feed,
            name,
            link,
            make_envelopes=make_envelopes,
            intake=intake,
            expected=expected,
        )
        notes = TableWriter(NOTES, name, self.database, transport, lambda: 1_000_000)
        hints = MemoryWriter(HINTS, name, transport, 1_000_000 * self.starts)
        server = RpcServer(lambda: transport.sources)
        server.register(RecentRows, LocalRecentRows(lambda: transport.sources))
        self.sender.connect(name, server)
        node = Node(
            name=name,
            feed=feed,
            intake=intake,
            transport=transport,
            notes=notes,
            hints=hints,
            rpc=server,
        )
        self.nodes.append(node)
        feed.subscribe(NOTES, node.on_batch, interest)
        feed.subscribe(HINTS, node.on_batch)
        return node
