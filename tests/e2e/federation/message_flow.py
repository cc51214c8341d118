"""Messages that flow between servers while their processes are killed or restarted.

Every acknowledged message must be seen exactly once by a client on each server, and be once in the
history of each, in the order of its sender; then all servers must agree on the rooms.
"""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator

import attrs
import trio

from tests.support.ledger import Ledger, Reader, faults_of, send_text
from tests.support.servers.federated_accounts import (
    Account,
    is_message,
    register_everywhere,
    rotations,
    until_agreed,
)
from tests.support.servers.processes import Cluster, ServerProcess

PROGRESS_S = 120.0
CATCH_UP_S = 180.0
MEAN_PAUSE_S = 0.1
WIDE_TIMELINE = 500

log = logging.getLogger(__name__)


@attrs.define
class MessageFlow:
    """People on each server who talk in a room of each server.

    `mean_pause_s` is the mean of the time between two messages of a person in a room.
    """

    servers: dict[str, Cluster]
    mean_pause_s: float = MEAN_PAUSE_S
    accounts: list[Account] = attrs.Factory(list)
    rooms: list[str] = attrs.Factory(list)
    ledger: Ledger = attrs.Factory(Ledger)
    readers: list[Reader] = attrs.Factory(list)
    done: list[str] = attrs.Factory(list)
    _acknowledged: trio.Event = attrs.Factory(trio.Event)

    async def run(self, disturb: Callable[[], Awaitable[None]]) -> None:
        """Send and read while `disturb` runs, then check what everybody has got."""
        await self._open_rooms()
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            for reader in self.readers:
                nursery.start_soon(reader.read_until, stop)
            for account in self.accounts:
                for room_id in self.rooms:
                    nursery.start_soon(self._send_until, stop, account, room_id)
            await self.progress()
            await disturb()
            await self.progress()
            stop.set()
        await self._check()

    async def _open_rooms(self) -> None:
        self.accounts = await register_everywhere(self.servers)
        for owner, *others in rotations(self.accounts):
            room_id = await owner.create_room()
            for other in others:
                await other.join(room_id, owner.server)
            self.rooms.append(room_id)
        self.readers = [Reader(account, WIDE_TIMELINE, reads_all=True) for account in self.accounts]

    async def _send_until(self, stop: trio.Event, account: Account, room_id: str) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            await send_text(account, room_id, f"{account.user_id}|{room_id}|{number}", self.ledger)
            self._acknowledged.set()
            with trio.move_on_after(account.rng.expovariate(1 / self.mean_pause_s)):
                await stop.wait()

    # Disturbances

    async def progress(self) -> None:
        """Wait until every person has sent something new in every room."""
        counts = {key: len(sent) for key, sent in self.ledger.in_order.items()}
        waiting = {(room_id, each.user_id) for room_id in self.rooms for each in self.accounts}
        with trio.fail_after(PROGRESS_S):
            while waiting:
                self._acknowledged = trio.Event()
                await self._acknowledged.wait()
                in_order = self.ledger.in_order
                waiting -= {
                    key for key in waiting if len(in_order.get(key, ())) > counts.get(key, 0)
                }

    def processes(self) -> Iterator[tuple[str, ServerProcess]]:
        """Yield the processes of all servers, with the names of their servers."""
        for name, cluster in self.servers.items():
            for process in cluster.processes.values():
                yield name, process

    async def kill_each(self) -> None:
        """Kill each process as a power failure would, and start it again."""
        for server, process in list(self.processes()):
            await trio.to_thread.run_sync(process.kill)
            await trio.to_thread.run_sync(process.start)
            self.done.append(f"killed {process.name} of {server}")
            await self.progress()

    async def restart_each(self) -> None:
        """Stop each process gracefully, and start it again."""
        for server, process in list(self.processes()):
            status = await trio.to_thread.run_sync(process.stop)
            assert status == 0, f"{process.name} of {server} ended with {status}"
            await trio.to_thread.run_sync(process.start)
            self.done.append(f"restarted {process.name} of {server}")
            await self.progress()

    # Checks

    async def _check(self) -> None:
        acknowledged = set(self.ledger.acknowledged.values())
        faults: list[str] = []
        await self._catch_up(acknowledged)
        for reader in self.readers:
            faults += faults_of(reader, self.ledger)
        for room_id in self.rooms:
            for account in self.accounts:
                faults += await self._faults_of_history(account, room_id)
            if not faults:
                # What a server was told late may be a further extremity, until it cites it.
                for account in self.accounts:
                    await account.send(room_id, f"that is all of {account.user_id} in {room_id}")
                await until_agreed(self.servers, room_id, self.accounts)
        assert not faults, "\n".join([self.summary(), f"{len(faults)} faults", *faults[:50]])
        log.info("%s", self.summary())

    async def _catch_up(self, event_ids: set[str]) -> None:
        """Sync until everybody has seen all the given events, or nobody anything for long."""

        async def read_all() -> None:
            async with trio.open_nursery() as each:
                for reader in self.readers:
                    each.start_soon(reader.catch_up, event_ids)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_all)
            before = -1
            while (seen := sum(len(reader.seen()) for reader in self.readers)) > before:
                before = seen
                await trio.sleep(CATCH_UP_S)
            nursery.cancel_scope.cancel()

    async def _faults_of_history(self, account: Account, room_id: str) -> list[str]:
        """Return the differences between a room's history and the acknowledged messages."""
        events = await account.history(room_id)
        counts = Counter(event["event_id"] for event in events)
        faults = [
            f"{account.server} has {event_id} {count} times"
            for event_id, count in counts.items()
            if count > 1
        ]
        texts = Counter(event["content"]["body"] for event in events if is_message(event))
        faults += [
            f"{account.server} has the message {text} {count} times"
            for text, count in texts.items()
            if count > 1
        ]
        order = {event["event_id"]: number for number, event in enumerate(events)}
        for (room, sender), sent in self.ledger.in_order.items():
            if room == room_id:
                faults += [f"{account.server} lacks {each}" for each in sent if each not in counts]
                numbers = [order[event_id] for event_id in sent if event_id in order]
                if numbers != sorted(numbers):
                    faults.append(f"{account.server} has {sender} out of order in {room}")
        return faults

    def summary(self) -> str:
        """Return what was done."""
        gaps = [reader.gaps for reader in self.readers]
        return f"{len(self.ledger.acknowledged)} messages, gaps: {gaps}, {', '.join(self.done)}"

    def logs(self) -> str:
        """Return the ends of the logs of all servers."""
        return "\n".join(f"=== {name}\n{each.logs()}" for name, each in self.servers.items())
