"""Processes that are added to a running server and removed from it, with nobody noticing.

HS_CHANGES is how often a writer of events is removed and added.
"""

import logging
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import yaml

from hs.nursery.supervision.shape import parse_shape, write_files
from tests.support.ledger import Ledger
from tests.support.servers.http_client import HttpClient
from tests.support.servers.ledger_run import (
    PEOPLE,
    ROOMS,
    differences,
    send_and_read,
    stored_in_postgres,
)
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.redis import RedisServer
from tests.support.servers.supervised import SupervisedServer, supervised_server
from tests.support.servers.waiting import wait_until

pytestmark = [pytest.mark.process, pytest.mark.postgres, pytest.mark.redis, pytest.mark.long]

WRITER = "event_persister2"
CHANGES = int(os.environ.get("HS_CHANGES", "20"))
LIMIT_S = 60.0

log = logging.getLogger(__name__)


@attrs.define
class ChangingServer:
    """A server whose files are in a directory, with the second writer of events and without."""

    server: SupervisedServer
    postgres: PostgresServer
    shared: dict[str, Any]
    worker: str

    @property
    def _worker_file(self) -> Path:
        return self.server.folder / "workers" / f"{WRITER}.yaml"

    def remove(self) -> None:
        """Remove the writer from all files, and have the supervisor use them."""
        writers = {"events": ["event_persister1"]}
        addresses = {k: v for k, v in self.shared["instance_map"].items() if k != WRITER}
        self._worker_file.unlink()
        self._use({**self.shared, "stream_writers": writers, "instance_map": addresses})

    def add(self) -> None:
        """Add the writer to all files, and have the supervisor use them."""
        self._worker_file.write_text(self.worker)
        self._use(self.shared)

    def _use(self, shared: dict[str, Any]) -> None:
        (self.server.folder / "homeserver.yaml").write_text(yaml.safe_dump(shared))
        restarted = self.server.run("restart", "--rolling")
        assert restarted.returncode == 0, restarted.stdout + restarted.stderr

    def holders(self) -> set[str]:
        """Return the processes that hold slots."""
        statement = "SELECT DISTINCT holder FROM stream_slots"
        return set(self.postgres.psql(statement, database=self.server.database).split())


@pytest.fixture
def changing(
    postgres_server: PostgresServer, redis_server: RedisServer
) -> Iterator[ChangingServer]:
    """A running server with two writers of events."""
    redis = {"enabled": True, "path": redis_server.socket}
    with supervised_server(postgres_server, "", redis=redis) as server:
        folder = server.folder / "etc"
        shape = parse_shape("sync,event_persister:2")
        write_files(server.folder / "homeserver.yaml", shape, server.first_port, folder)
        server.folder = folder
        server.start()
        shared = yaml.safe_load((folder / "homeserver.yaml").read_text())
        worker = (folder / "workers" / f"{WRITER}.yaml").read_text()
        yield ChangingServer(server, postgres_server, shared, worker)
        assert server.stop() == 0


async def test_new_worker_answers_at_the_port_of_a_removed_one_after_one_restart(
    changing: ChangingServer,
) -> None:
    workers = changing.server.folder / "workers"
    settings = yaml.safe_load((workers / "sync1.yaml").read_text())
    (workers / "sync1.yaml").unlink()
    (workers / "reader1.yaml").write_text(yaml.safe_dump({**settings, "worker_name": "reader1"}))
    restarted, answers = trio.Event(), list[int]()

    async def ask() -> None:
        while not restarted.is_set():
            async with HttpClient(changing.server.first_port) as client:
                response = await client.get("/_matrix/client/versions")
            answers.append(response.status)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        refused = await trio.to_thread.run_sync(changing.server.run, "restart", "sync1")
        output = await trio.to_thread.run_sync(changing.server.run, "restart", "--rolling")
        restarted.set()

    assert "sync1: no file names this process any more" in refused.stdout, (
        refused.stdout + refused.stderr
    )
    assert "sync1 stopped" in output.stdout, output.stdout + output.stderr
    assert "reader1 restarted" in output.stdout
    assert set(answers) == {200}
    assert "sync1" not in changing.server.status()
    assert changing.server.is_whole()


async def test_nothing_is_lost_while_a_writer_is_added_and_removed(
    changing: ChangingServer,
) -> None:
    async def change(ledger: Ledger) -> None:
        await wait_until(lambda: len(ledger.in_order) == PEOPLE * ROOMS, LIMIT_S)
        for _ in range(CHANGES):
            await trio.to_thread.run_sync(changing.remove)
            await wait_until(lambda: changing.holders() == {"event_persister1"}, LIMIT_S)
            await trio.to_thread.run_sync(changing.add)
            await wait_until(lambda: changing.holders() == {"event_persister1", WRITER}, LIMIT_S)
            log.info("removed and added, %d messages so far", len(ledger.acknowledged))

    ports = [changing.server.port, changing.server.first_port]
    ledger, readers = await send_and_read(ports, random.Random(1), change)

    stored = stored_in_postgres(changing.postgres, changing.server.database)
    assert differences(ledger, readers, stored) == []
