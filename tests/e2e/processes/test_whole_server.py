"""A server of nineteen processes, started by one command, while each of them fails in turn.

HS_WHOLE_PROCESSES names the processes to strike (all of them otherwise), HS_WHOLE_READS is the
number of events to read at another process than the one that they were sent through.
"""

import logging
import os
import random
import signal
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import attrs
import pytest
import trio

from tests.support.ledger import CLIENT, Ledger, Person
from tests.support.servers.http_client import HttpClient
from tests.support.servers.ledger_run import (
    PEOPLE,
    ROOMS,
    differences,
    send_and_read,
    stored_in_postgres,
)
from tests.support.servers.postgres import PostgresMissing, PostgresServer, running_postgres
from tests.support.servers.redis import RedisServer
from tests.support.servers.supervised import SupervisedServer, supervised_server
from tests.support.servers.waiting import wait_until

pytestmark = [pytest.mark.process, pytest.mark.postgres, pytest.mark.redis, pytest.mark.long]

SHAPE = (
    "sync:2,event_persister:2,typing,to_device,account_data,receipts,presence,background,"
    "user_directory,appservice,pusher:2,federation_sender:2,media:2"
)
SUSPENDED_S = 20.0
REDIS_DOWN_S = 30.0
HEALED_S = 90.0
READS = int(os.environ.get("HS_WHOLE_READS", "10000"))
READERS = 8

log = logging.getLogger(__name__)


@attrs.define
class Stage:
    """The server, and what it depends on."""

    server: SupervisedServer
    postgres: PostgresServer
    redis: RedisServer

    @property
    def ports(self) -> list[int]:
        """The ports of main and of the two workers for clients."""
        return [self.server.port, self.server.first_port, self.server.first_port + 1]


@pytest.fixture(scope="module")
def stage(redis_server: RedisServer) -> Iterator[Stage]:
    """A running server, with a PostgreSQL server that the test may restart."""
    redis = {"enabled": True, "path": redis_server.socket}
    try:
        with (
            running_postgres(synchronous_commit="on") as postgres,
            supervised_server(postgres, SHAPE, redis=redis) as server,
        ):
            server.start()
            assert len(server.status()) == 19
            yield Stage(server, postgres, redis_server)
            assert server.stop() == 0, server.output()[-20_000:]
            assert not server.left_over()
    except PostgresMissing as error:
        pytest.skip(str(error))


async def test_event_is_read_by_its_id_at_another_process_at_once(stage: Stage) -> None:
    alice = Person(stage.ports, random.Random(1))
    await alice.register("reader")
    left = iter(range(READS))
    missed: list[str] = []

    async def send_and_look(number: int) -> None:
        rng = random.Random(number)
        created = await alice.request("POST", f"{CLIENT}/createRoom", {"preset": "public_chat"})
        room = f"{CLIENT}/rooms/{created.json['room_id']}"
        clients = [HttpClient(port, alice.token) for port in stage.ports]
        for count in left:
            sender, reader = rng.sample(clients, 2)
            sent = await sender.put(
                f"{room}/send/m.room.message/r{count}", {"msgtype": "m.text", "body": "x"}
            )
            assert sent.status == 200, sent.body
            found = await reader.get(f"{room}/event/{sent.json['event_id']}")
            if found.status != 200:
                missed.append(f"{sent.json['event_id']}: {found.status} {found.body!r}")
        for client in clients:
            await client.aclose()

    async with trio.open_nursery() as nursery:
        for number in range(READERS):
            nursery.start_soon(send_and_look, number)

    assert missed == []


async def kill(stage: Stage, name: str) -> None:
    """Kill a process; the supervisor starts it again."""
    killed = stage.server.status()[name][1]
    os.kill(killed, signal.SIGKILL)
    await wait_until(lambda: stage.server.status()[name][1] not in (killed, 0), HEALED_S)


async def suspend(stage: Stage, name: str) -> None:
    """Stop a process for a while."""
    pid = stage.server.status()[name][1]
    os.kill(pid, signal.SIGSTOP)
    try:
        await trio.sleep(SUSPENDED_S)
    finally:
        os.kill(pid, signal.SIGCONT)


async def restart(stage: Stage, name: str) -> None:
    """Restart a process by command."""
    restarted = await trio.to_thread.run_sync(partial(stage.server.run, "restart", name))
    assert restarted.returncode == 0, restarted.stdout + restarted.stderr


async def stop_redis(stage: Stage) -> None:
    """Stop Redis for a while."""
    stage.redis.stop()
    try:
        await trio.sleep(REDIS_DOWN_S)
    finally:
        await trio.to_thread.run_sync(stage.redis.start)


async def flush_redis(stage: Stage) -> None:
    """Empty Redis."""
    stage.redis.cli("FLUSHALL")


async def kill_subscribers(stage: Stage) -> None:
    """End all connections that subscribe to channels of Redis."""
    assert int(stage.redis.cli("CLIENT", "KILL", "TYPE", "pubsub")) > 0


async def restart_postgres(stage: Stage) -> None:
    """Crash PostgreSQL, and start it again."""
    await trio.to_thread.run_sync(stage.postgres.stop)
    await trio.to_thread.run_sync(stage.postgres.start)


Fault = Callable[[Stage], Awaitable[None]]


def faults_of_server(stage: Stage) -> dict[str, Fault]:
    """Return the faults to cause, by what is logged about them."""
    chosen = os.environ.get("HS_WHOLE_PROCESSES", "").replace(",", " ").split()
    names = chosen or list(stage.server.status())
    of_processes: dict[str, Fault] = {
        f"{fault.__name__} {name}": partial(fault, name=name)
        for name in names
        for fault in (kill, suspend, restart)
    }
    others = (stop_redis, flush_redis, kill_subscribers, restart_postgres)
    return {**of_processes, **{fault.__name__: fault for fault in others}}


async def wait_healed(stage: Stage, ledger: Ledger) -> float:
    """Wait until all processes are ready, and each sender was acknowledged; return the time."""
    began = trio.current_time()
    counts = {sender: len(sent) for sender, sent in ledger.in_order.items()}
    # The request that was under way may be acknowledged without anything having healed.
    await wait_until(
        lambda: (
            stage.server.is_whole()
            and all(len(ledger.in_order[sender]) > count + 1 for sender, count in counts.items())
        ),
        HEALED_S,
    )
    return trio.current_time() - began


async def test_nothing_is_lost_while_each_process_fails_in_turn(stage: Stage) -> None:
    async def cause_failures(ledger: Ledger) -> None:
        await wait_until(lambda: len(ledger.in_order) == PEOPLE * ROOMS, HEALED_S)
        for label, fault in faults_of_server(stage).items():
            await fault(stage)
            log.info("%s: healed after %.1f s", label, await wait_healed(stage, ledger))

    ledger, readers = await send_and_read(stage.ports, random.Random(1), cause_failures)

    stored = stored_in_postgres(stage.postgres, stage.server.database)
    del stored["x"]  # of the test above
    log.info(
        "%d messages, %d to devices",
        len(ledger.acknowledged), sum(map(len, ledger.to_devices.values())),
    )  # fmt: skip
    assert differences(ledger, readers, stored) == []
