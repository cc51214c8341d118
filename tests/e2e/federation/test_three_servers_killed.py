"""Three real servers whose processes are restarted, killed and cut off for minutes."""

import os
import random

import pytest
import trio

from hs.services.federation.outbound.delivery import KEEP_S
from tests.e2e.federation.message_flow import MessageFlow
from tests.support.servers.processes import Cluster

pytestmark = [
    pytest.mark.process, pytest.mark.postgres, pytest.mark.redis, pytest.mark.long,
]  # fmt: skip

ROUNDS = int(os.environ.get("HS_KILL_ROUNDS", "3"))
SEED = int(os.environ.get("HS_KILL_SEED", random.randrange(10**6)))


async def test_no_message_is_lost_over_graceful_restarts(
    three_servers: dict[str, Cluster],
) -> None:
    flow = MessageFlow(three_servers)
    await flow.run(flow.restart_each)


async def test_no_message_is_lost_over_kills_in_random_order(
    three_servers: dict[str, Cluster],
) -> None:
    rng = random.Random(SEED)
    flow = MessageFlow(three_servers)

    async def kill_several() -> None:
        processes = [process for _, process in flow.processes()]
        for _ in range(ROUNDS):
            rng.shuffle(processes)
            for first, second in zip(processes, [*processes[1:], processes[0]], strict=True):
                for process in (first, second):
                    await trio.to_thread.run_sync(process.kill)
                await trio.sleep(rng.uniform(0, 3))
                for process in (first, second):
                    process.begin()
                for process in (first, second):
                    await trio.to_thread.run_sync(process.wait_ready)
                flow.done.append(f"killed {first.name} and {second.name}")
                await flow.progress()

    try:
        await flow.run(kill_several)
    except BaseException as error:
        error.add_note(f"seed {SEED}")
        raise


async def test_server_that_was_away_for_long_gets_all_messages(
    three_servers: dict[str, Cluster],
) -> None:
    flow = MessageFlow(three_servers)

    async def cut_off() -> None:
        for cluster in three_servers.values():
            cluster.kill_all()
            await trio.sleep(KEEP_S + 10)  # the others give up its queue
            await trio.to_thread.run_sync(cluster.start)
            flow.done.append("cut off a server")
            await flow.progress()

    await flow.run(cut_off)


async def test_no_message_is_lost_at_full_speed(three_servers: dict[str, Cluster]) -> None:
    flow = MessageFlow(three_servers, mean_pause_s=0.001)
    await flow.run(flow.kill_each)
