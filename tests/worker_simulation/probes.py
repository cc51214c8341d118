"""Whether a message that is sent at one process reaches clients that wait at every other one."""

import math
from typing import Final

import attrs
import trio

from tests.worker_simulation.processes import SimulatedCluster
from tests.worker_simulation.users import Room, User

ARRIVAL_S: Final = 3.0
WAIT_MS: Final = 30_000


@attrs.define(eq=False)
class _Waiter:
    """A client that waits at a process."""

    user: User
    process: str
    since: str
    arrived_at: float = math.inf

    async def wait(self) -> None:
        await self.user.ask_sync(self.since, WAIT_MS, at=self.process)
        self.arrived_at = trio.current_time()


async def probe(
    name: str, cluster: SimulatedCluster, sender: User, reader: User, room: Room
) -> list[str]:
    """Send a message at a process; return what is wrong there, and where it is late."""
    waiters = []
    for process in cluster.serving:
        answer = await reader.ask_sync("", at=process)
        waiters.append(_Waiter(reader, process, (answer or {}).get("next_batch", "")))
    async with trio.open_nursery() as nursery:
        for waiter in waiters:
            nursery.start_soon(waiter.wait)
        await trio.sleep(ARRIVAL_S)  # what remained is over by then
        text = f"probe {sender.requests.number()}"
        path = ("rooms", room.room_id, "send", "m.room.message", text)
        since = (await sender.ask_sync("", at=name) or {}).get("next_batch", "")
        await sender.ask("PUT", *path, at=name, json={"msgtype": "m.text", "body": text})
        sent_at = trio.current_time()
        own = await sender.ask_sync(since, at=name)
    problems = [] if text in str(own) else [f"{name} does not know {text}, which it acknowledged"]
    return problems + [
        f"a message from {name} reached {waiter.process} {waiter.arrived_at - sent_at:.1f} s late"
        for waiter in waiters
        # It may arrive before it is acknowledged, if the reply of its owner is lost.
        if waiter.arrived_at - sent_at > ARRIVAL_S
    ]
