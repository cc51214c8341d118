"""`hs supervise`: all processes of a server with one command.

HS_SUPERVISE_CYCLES is the number of starts and stops of the long test.
"""

import logging
import os
import signal
from collections.abc import Iterator
from functools import partial

import pytest
import trio

from tests.support.servers.http_client import HttpClient
from tests.support.servers.matrix_user import MatrixUser, sign_up
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.supervised import (
    SupervisedServer,
    private_mib,
    supervised_server,
    wait_until,
)

pytestmark = [pytest.mark.process, pytest.mark.postgres, pytest.mark.redis]
SHORT_SHAPE, SHAPE = "event_persister,sync", "event_persister,sync:2,pusher"
CYCLES = int(os.environ.get("HS_SUPERVISE_CYCLES", "100"))
IDLE_POLL_MS = 30_000
MAX_PRIVATE_MIB = 60.0  # of a process; a process that imports by itself has 80

log = logging.getLogger(__name__)


@pytest.fixture
def server(postgres_server: PostgresServer) -> Iterator[SupervisedServer]:
    """A server of three processes that is not started yet."""
    with supervised_server(postgres_server, SHORT_SHAPE) as server:
        yield server


@pytest.fixture
def larger_server(postgres_server: PostgresServer) -> Iterator[SupervisedServer]:
    """A server of five processes that is not started yet."""
    with supervised_server(postgres_server, SHAPE) as server:
        yield server


def ports_of(server: SupervisedServer) -> list[int]:
    syncs = sum(name.startswith("sync") for name in server.shape_names())
    return [server.port, *range(server.first_port, server.first_port + syncs)]


async def talk(
    sender: MatrixUser, receiver: MatrixUser, room_id: str, stop: trio.Event
) -> list[str]:
    """Send messages, each after the last has arrived, until asked to stop; return their IDs."""
    sent: list[str] = []
    while not stop.is_set():
        event_id = await sender.say(room_id, f"message {len(sent)}")
        await receiver.wait_for_event(room_id, event_id)
        sent.append(event_id)
    return sent


async def poll(idler: MatrixUser) -> None:
    """Wait for changes that do not come, in long polls, until cancelled."""
    while True:
        await idler.sync(IDLE_POLL_MS)


async def strict_user(ports: list[int], name: str) -> MatrixUser:
    """Register a user none of whose requests may fail."""
    user = await sign_up(ports, name)
    await user.aclose()
    user.keeps_connections = False
    return user


async def meet(server: SupervisedServer) -> tuple[MatrixUser, MatrixUser, str]:
    """Register two users that are in a room."""
    ports = ports_of(server)
    alice, bob = await strict_user(ports, "alice"), await strict_user(ports, "bob")
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await bob.sync(0)
    return alice, bob, room_id


async def restart_while_talking(server: SupervisedServer, pairs: int) -> int:
    """Replace all processes while users talk and others wait; return how many messages they sent.

    No request may fail, and no connection may end without its response.
    """
    stop = trio.Event()
    users: list[MatrixUser] = []
    sent: list[str] = []

    async def converse() -> None:
        alice, bob, room_id = await meet(server)
        users.extend((alice, bob))
        sent.extend(await talk(alice, bob, room_id, stop))

    idlers = [await strict_user([port], "idler") for port in ports_of(server)]
    async with trio.open_nursery() as waiting:
        for idler in idlers:
            await idler.sync(0)
            waiting.start_soon(poll, idler)
        async with trio.open_nursery() as nursery:
            for _ in range(pairs):
                nursery.start_soon(converse)
            restarted = await trio.to_thread.run_sync(partial(server.run, "restart", "--rolling"))
            stop.set()
        waiting.cancel_scope.cancel()
    log.info(
        "%d messages, %d requests and %d idle long polls during a rolling restart",
        len(sent), sum(user.requests for user in users), sum(idler.requests for idler in idlers),
    )  # fmt: skip
    assert restarted.returncode == 0, restarted.stdout + restarted.stderr + server.output()
    assert restarted.stdout.count(" restarted in ") == len(server.shape_names())
    return len(sent)


async def test_server_runs_restarts_and_stops_as_one(server: SupervisedServer) -> None:
    await trio.to_thread.run_sync(server.start)
    first = server.pids()
    assert max(private_mib(first[name]) for name in server.shape_names()) < MAX_PRIVATE_MIB

    # Commands about a running server know what the supervisor generated.
    topology = await trio.to_thread.run_sync(server.run, "topology")
    assert topology.returncode == 0, topology.stdout + topology.stderr
    assert all(name in topology.stdout for name in server.status())

    # A process that is killed comes back, and nobody is refused meanwhile.
    os.kill(first["sync1"], signal.SIGKILL)
    async with HttpClient(server.first_port) as client:
        response = await client.get("/_matrix/client/versions")
    assert response.status == 200
    server.wait_for_line("sync1 ended, signal 9")

    # So does the private Redis.
    os.kill(first["redis-server"], signal.SIGKILL)
    server.wait_for_line("redis ended, signal 9")
    wait_until(lambda: server.pids().get("redis-server") not in (None, first["redis-server"]))

    assert await restart_while_talking(server, 3) > 3
    second = server.pids()
    assert all(first[name] != second[name] for name in server.shape_names())

    assert server.stop() == 0, server.output()
    assert server.left_over() == set()


def test_processes_end_when_the_supervisor_is_killed(server: SupervisedServer) -> None:
    kill_supervisor_while_it_starts(server)

    wait_until(lambda: not server.left_over(), 60.0)


def test_mistakes_in_all_files_are_told_before_anything_starts(server: SupervisedServer) -> None:
    config = server.folder / "homeserver.yaml"
    config.write_text(config.read_text() + "\nmax_upload_size: many\nserver_nam: x\n")
    server.begin()
    assert server.process is not None

    assert server.process.wait(60.0) == 2
    server.wait_for_line("max_upload_size")
    assert "ready" not in server.output()


def stop_in_order(server: SupervisedServer) -> None:
    server.start()
    assert server.stop(signal.SIGTERM) == 0


def kill_supervisor(server: SupervisedServer) -> None:
    server.start()
    server.stop(signal.SIGKILL)


def kill_supervisor_while_it_starts(server: SupervisedServer) -> None:
    server.begin()
    wait_until(lambda: "main" in server.pids())
    server.stop(signal.SIGKILL)


def kill_fork_server(server: SupervisedServer) -> None:
    server.start()
    os.kill(server.pids()["fork-server"], signal.SIGKILL)
    assert server.process is not None
    assert server.process.wait(60.0) == 1


def kill_children_and_supervisor(server: SupervisedServer) -> None:
    server.start()
    pids = server.pids()
    for name in ("main", "sync1", "event_persi"):
        os.kill(next(pid for found, pid in pids.items() if found.startswith(name)), signal.SIGKILL)
    server.wait_for_line("main ended, signal 9")
    server.stop(signal.SIGKILL)


ENDS = (
    stop_in_order,
    kill_supervisor,
    kill_supervisor_while_it_starts,
    kill_fork_server,
    kill_children_and_supervisor,
)


@pytest.mark.long
def test_nothing_is_left_after_a_hundred_cycles(larger_server: SupervisedServer) -> None:
    for cycle in range(CYCLES):
        ENDS[cycle % len(ENDS)](larger_server)
        wait_until(lambda: not larger_server.left_over(), 60.0)
        log.info("cycle %d: nothing is left", cycle + 1)


@pytest.mark.long
async def test_rolling_restart_under_load_fails_no_request(
    larger_server: SupervisedServer,
) -> None:
    await trio.to_thread.run_sync(larger_server.start)

    for _ in range(3):
        assert await restart_while_talking(larger_server, 12) > 12

    # A process that is restarted alone shares the memory of the others again.
    before = larger_server.pids()
    restarted = await trio.to_thread.run_sync(larger_server.run, "restart", "sync1")
    assert restarted.returncode == 0, restarted.stdout + restarted.stderr
    after = larger_server.pids()
    assert (after["fork-server"], after["main"]) == (before["fork-server"], before["main"])
    assert after["sync1"] != before["sync1"]

    assert larger_server.stop() == 0
