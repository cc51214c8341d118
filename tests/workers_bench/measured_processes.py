"""The servers that are measured: one process, and the same server split into several."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import attrs
import yaml

from tests.support.servers.postgres import PostgresServer, processes_of, running_postgres
from tests.support.servers.processes import Cluster, ServerProcess, make_cluster
from tests.support.servers.redis import RedisServer, running_redis

ALONE, SPLIT = "one process", "split"
PERSISTERS = ["persister1", "persister2"]
BESIDE = {"pusher1": "pusher_instances", "sender1": "federation_sender_instances", "media1": ""}


@attrs.frozen(eq=False)
class MeasuredCluster:
    """A running server; its users talk to `urls`."""

    label: str
    cluster: Cluster
    ports: list[int]
    postgres: PostgresServer
    redis: RedisServer | None

    @property
    def main_port(self) -> int:
        """The port of main for clients."""
        return self.cluster.processes["main"].port

    def cpu_s(self) -> dict[str, float]:
        """Return the CPU time of every process so far, in seconds."""
        times = {
            name: _cpu_s(process.process.pid)
            for name, process in self.cluster.processes.items()
            if process.process is not None
        }
        times["postgres"] = sum(_cpu_s(pid) for pid in processes_of(self.postgres))
        if self.redis is not None and self.redis.process is not None:
            times["redis"] = _cpu_s(self.redis.process.pid)
        return times

    def waits(self) -> dict[str, float]:
        """Return how often every process has waited so far."""
        return {name: _waits(pid) for name, pid in self.pids().items()}

    def pids(self) -> dict[str, int]:
        """Return the process IDs of the server's processes."""
        return {
            name: process.process.pid
            for name, process in self.cluster.processes.items()
            if process.process is not None
        }


def _cpu_s(pid: int) -> float:
    """Return the CPU time of a process and its threads, the ended ones included."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def _waits(pid: int) -> int:
    count = 0
    for path in Path(f"/proc/{pid}/task").glob("*/status"):
        count += int(path.read_text().partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return count


@contextmanager
def running_alone() -> Iterator[MeasuredCluster]:
    """Run one process on PostgreSQL."""
    with (
        TemporaryDirectory(prefix="hs-bench-") as folder,
        running_postgres() as postgres,
    ):
        cluster = make_cluster("T1", Path(folder), postgres, None, {})
        with _running(cluster):
            yield MeasuredCluster(ALONE, cluster, [cluster.processes["main"].port], postgres, None)


@contextmanager
def running_split(has_more: bool, sync_workers: int) -> Iterator[MeasuredCluster]:
    """Run main, sync workers and two persisters; with `has_more` some that serve no clients."""
    names = [f"sync{number}" for number in range(1, sync_workers + 1)]
    with (
        TemporaryDirectory(prefix="hs-bench-") as folder,
        running_postgres() as postgres,
        running_redis() as redis,
    ):
        more: dict[str, Any] = (
            {key: [name] for name, key in BESIDE.items() if key} if has_more else {}
        )
        more["stream_writers"] = {"events": PERSISTERS}
        cluster = make_cluster(
            "T2",
            Path(folder),
            postgres,
            redis,
            more,
            [*names[1:], *PERSISTERS[1:], *(BESIDE if has_more else ())],
        )
        for name in [*PERSISTERS, *(("pusher1", "sender1") if has_more else ())]:
            _serve_no_clients(cluster.processes[name])
        with _running(cluster):
            ports = [cluster.processes[name].port for name in names]
            yield MeasuredCluster(SPLIT, cluster, ports, postgres, redis)


def _serve_no_clients(process: ServerProcess) -> None:
    """Take clients and other servers from a process, as those of config/workers."""
    path = process.configs[-1]
    worker = yaml.safe_load(path.read_text("utf-8"))
    worker["worker_listeners"][0]["resources"] = [{"names": ["metrics"]}]
    path.write_text(yaml.safe_dump(worker), "utf-8")


@contextmanager
def _running(cluster: Cluster) -> Iterator[None]:
    try:
        cluster.start()
        yield
        cluster.stop()
    finally:
        cluster.kill_all()
