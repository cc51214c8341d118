"""The server's processes, started for a test with the command line that administrators use.

`layout` "T0": one process on SQLite. "T1": one process on PostgreSQL. "T2": main, a generic worker
and an events writer on PostgreSQL and Redis, all of which serve clients. HS_E2E_LAYOUT makes it the
whole one, with or without a load balancer (tests/support/servers/whole.py).

HS_E2E_PROXY puts a program between clients and processes (tests/support/servers/proxies.py).
"""

import os
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import attrs
import yaml

from tests.support.servers.postgres import PostgresServer
from tests.support.servers.proxies import haproxy_before, proxy_before
from tests.support.servers.redis import RedisServer
from tests.support.servers.whole import WHOLE_SETTINGS, WHOLE_WORKERS, is_balanced, is_whole

Layout = Literal["T0", "T1", "T2"]
SERVER_NAME = "hs.test"
SHARED_SECRET = "registration-secret"
START_LIMIT_S = 180.0
STOP_LIMIT_S = 120.0
PORTS = (10_000, 32_000)
MAX_TEST_RUNNERS = 4
ROOT = Path(__file__).resolve().parents[3]
_USED_PORTS: set[int] = set()
_LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d ")

MANY = {"per_second": 100_000, "burst_count": 100_000}
UNLIMITED = {
    "rc_message": MANY,
    "rc_registration": MANY,
    "rc_login": {"address": MANY, "account": MANY, "failed_attempts": MANY},
    "rc_joins": {"local": MANY, "remote": MANY},
    "rc_joins_per_room": MANY,
    "rc_invites": {"per_room": MANY, "per_user": MANY, "per_issuer": MANY},
    "rc_presence": {"per_user": MANY},
    "rc_reports": MANY,
    "rc_room_creation": MANY,
    "rc_user_directory": MANY,
    "rc_registration_token_validity": MANY,
}


def free_ports(count: int) -> list[int]:
    """Return ports that are free and will not be assigned by the system before they are used.

    They are below the range of ephemeral ports. No port is returned twice, nor to two of the pytest
    processes that run in parallel.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = random.SystemRandom().randrange(*PORTS)
        if port in _USED_PORTS or port % MAX_TEST_RUNNERS != _test_runner():
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _USED_PORTS.add(port)
        ports.append(port)
    return ports


def _test_runner() -> int:
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % MAX_TEST_RUNNERS


@attrs.define
class ServerProcess:
    """A server process; `port` serves clients, `more` are further command-line options.

    `prefix` is put before its command.
    """

    name: str
    port: int
    configs: list[Path]
    log: Path
    more: Sequence[str] = ()
    prefix: Sequence[str] = ()
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        """The URL for clients."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the process and wait until it is ready."""
        self.begin()
        self.wait_ready()

    def begin(self) -> None:
        """Start the process without waiting."""
        options = [part for path in self.configs for part in ("--config", str(path))]
        program = [sys.executable, "-c", "from hs.cli.main import run; run()", "serve"]
        command = [*self.prefix, *program]
        command += [*options, *self.more]
        with self.log.open("ab") as log_file:
            self.process = subprocess.Popen(
                command,
                stderr=subprocess.PIPE,
                stdout=log_file,
                cwd=self.log.parent,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )

    def wait_ready(self) -> None:
        """Wait for the line that reports that the process is ready."""
        assert self.process is not None
        assert self.process.stderr is not None
        output = b""
        deadline = time.monotonic() + START_LIMIT_S
        while b" ready" not in output:
            remaining_s = deadline - time.monotonic()
            readable, _, _ = select.select([self.process.stderr], [], [], max(remaining_s, 0))
            part = os.read(self.process.stderr.fileno(), 65536) if readable else b""
            if not part:
                raise RuntimeError(f"{self.name} did not start:\n{output.decode()}{self.tail()}")
            output += part
        # The pipe is not read any further; logs go to the file.
        with self.log.open("ab") as log_file:
            log_file.write(output)

    def tail(self) -> str:
        """Return the end of the log."""
        return self.log.read_text("utf-8", "replace")[-4000:] if self.log.exists() else ""

    def errors(self) -> str:
        """Return the errors in the log, with their tracebacks."""
        lines = self.log.read_text("utf-8", "replace").splitlines() if self.log.exists() else []
        error_lines, is_error = [], False
        for line in lines:
            if _LOG_LINE.match(line):
                is_error = " ERROR " in line or " CRITICAL " in line
            if is_error:
                error_lines.append(line)
        return "\n".join(error_lines)[-20_000:]

    def kill(self) -> None:
        """Kill the process, as a power failure would."""
        assert self.process is not None
        self.process.kill()
        self._wait_ended()

    def stop(self) -> int:
        """Ask the process to stop and return its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self._wait_ended()

    def _wait_ended(self) -> int:
        process, self.process = self.process, None
        assert process is not None
        assert process.stderr is not None
        try:
            return process.wait(STOP_LIMIT_S)
        finally:
            process.stderr.close()
            if process.poll() is None:
                process.kill()
                process.wait()


@attrs.define
class Cluster:
    """The processes of one server; `database` is its PostgreSQL database.

    `balancer` is the port of a load balancer.
    """

    layout: Layout
    folder: Path
    processes: dict[str, ServerProcess]
    database: str = ""
    rng: random.Random = attrs.Factory(lambda: random.Random(1))
    balancer: int | None = None

    @property
    def ports(self) -> list[int]:
        """The ports for clients: that of the load balancer, or those of all processes."""
        if self.balancer is not None:
            return [self.balancer]
        return [process.port for process in self.processes.values()]

    @property
    def urls(self) -> list[str]:
        """The URLs for clients."""
        return [f"http://127.0.0.1:{port}" for port in self.ports]

    def any_port(self) -> int:
        """Return the port of a random process: every process serves every request."""
        return self.rng.choice(self.ports)

    def any_url(self) -> str:
        """Return the URL of a random process."""
        return self.rng.choice(self.urls)

    def start(self) -> None:
        """Start all processes, beginning with main, which migrates the schema."""
        for process in self.processes.values():
            process.begin()
        for process in self.processes.values():
            process.wait_ready()

    def stop(self) -> None:
        """Stop all running processes; each must exit with status 0."""
        statuses = {
            process.name: process.stop()
            for process in reversed(self.processes.values())
            if process.process is not None
        }
        assert set(statuses.values()) <= {0}, statuses

    def kill_all(self) -> None:
        """Kill the processes that a failed test left running."""
        for process in self.processes.values():
            if process.process is not None:
                process.kill()

    def logs(self) -> str:
        """Return the errors and the end of each log."""
        return "\n".join(
            f"--- {process.name}\n{process.errors()}\n...\n{process.tail()}"
            for process in self.processes.values()
        )


@contextmanager
def running_cluster(
    layout: Layout,
    postgres: PostgresServer | None,
    redis: RedisServer | None,
    **settings: Any,
) -> Iterator[Cluster]:
    """Run a server in its own directory; `settings` are added to homeserver.yaml."""
    folder = Path(tempfile.mkdtemp(prefix="hs-e2e-"))
    workers: Sequence[str] = ()
    if layout == "T2" and is_whole():
        workers, settings = WHOLE_WORKERS, {**WHOLE_SETTINGS, **settings}
    with running(make_cluster(layout, folder, postgres, redis, settings, workers)) as cluster:
        yield cluster


@contextmanager
def running_large_cluster(
    workers: Sequence[str], postgres: PostgresServer, redis: RedisServer
) -> Iterator[Cluster]:
    """Run a server of layout T2 with additional generic workers."""
    folder = Path(tempfile.mkdtemp(prefix="hs-e2e-"))
    with running(make_cluster("T2", folder, postgres, redis, {}, workers)) as cluster:
        yield cluster


@contextmanager
def running(cluster: Cluster) -> Iterator[Cluster]:
    """Run the processes of a server until the block ends."""
    with ExitStack() as proxies:
        try:
            cluster.start()
            if "HS_E2E_PROXY" in os.environ:
                for process in cluster.processes.values():
                    (listen,) = free_ports(1)
                    proxies.enter_context(proxy_before(process.url, listen))
                    process.port = listen
            if cluster.layout == "T2" and is_balanced():
                (listen,) = free_ports(1)
                proxies.enter_context(haproxy_before(cluster.ports, listen, cluster.folder))
                cluster.balancer = listen
            yield cluster
            cluster.stop()
        finally:
            cluster.kill_all()
            shutil.rmtree(cluster.folder, ignore_errors=True)


def make_cluster(
    layout: Layout,
    folder: Path,
    postgres: PostgresServer | None,
    redis: RedisServer | None,
    settings: dict[str, Any],
    more_workers: Sequence[str] = (),
) -> Cluster:
    """Write the configuration of a server without starting it."""
    names = ["main", "sync1", "persister1", *more_workers] if layout == "T2" else ["main"]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    internal = dict(zip(names, free_ports(len(names)), strict=True))
    (folder / "signing.key").write_text(f"ed25519 a_test {'A' * 43}\n")
    shared: dict[str, Any] = {
        "server_name": SERVER_NAME,
        "report_stats": False,
        "signing_key_path": str(folder / "signing.key"),
        "macaroon_secret_key": "macaroon-secret",
        "registration_shared_secret": SHARED_SECRET,
        "enable_registration": True,
        "enable_registration_without_verification": True,
        "bcrypt_rounds": 4,
        "enable_metrics": True,
        "database": _database(layout, folder, postgres),
        "listeners": _listeners(ports["main"], internal["main"], layout),
        **UNLIMITED,
    }
    if layout == "T2":
        assert redis is not None
        writers = {"events": "persister1", **settings.get("stream_writers", {})}
        shared |= {
            "redis": {"enabled": True, "path": redis.socket},
            "worker_replication_secret": "replication-secret",
            "stream_writers": writers,
            # Processes that write no stream receive no RPC calls and need no entry.
            "instance_map": {
                name: {"host": "127.0.0.1", "port": internal[name]}
                for name in names
                if name in {"main", *_names(writers)}
            },
        }
        settings = {key: value for key, value in settings.items() if key != "stream_writers"}
    shared |= settings
    main_config = _write(folder / "homeserver.yaml", shared)
    processes = {}
    for name in names:
        configs = [main_config]
        if name != "main":
            worker = {
                "worker_app": "synapse.app.generic_worker",
                "worker_name": name,
                "worker_listeners": _listeners(ports[name], internal[name], layout),
            }
            configs.append(_write(folder / f"{name}.yaml", worker))
        process = ServerProcess(name, ports[name], configs, folder / f"{name}.log")
        processes[name] = process
        _log_to(process, shared, folder)
    return Cluster(layout, folder, processes, shared["database"]["args"]["database"])


def _names(writers: dict[str, str | list[str]]) -> Iterator[str]:
    for listed in writers.values():
        yield from [listed] if isinstance(listed, str) else listed


def _database(layout: Layout, folder: Path, postgres: PostgresServer | None) -> dict[str, Any]:
    if layout == "T0":
        return {"name": "sqlite3", "args": {"database": str(folder / "homeserver.db")}}
    assert postgres is not None
    return fresh_database(postgres)


def fresh_database(postgres: PostgresServer) -> dict[str, Any]:
    """Create an empty database; return the setting `database` for it."""
    name = f"hs_e2e_{os.getpid()}_{random.randrange(10**9)}"
    postgres.psql(f"CREATE DATABASE {name} TEMPLATE template0")
    return {"name": "psycopg2", "args": {**postgres.arguments(name), "cp_min": 1, "cp_max": 5}}


def _listeners(port: int, internal: int, layout: Layout) -> list[dict[str, Any]]:
    public = {
        "port": port,
        "bind_addresses": ["127.0.0.1"],
        "type": "http",
        "resources": [{"names": ["client", "federation", "metrics"]}],
    }
    replication = {
        "port": internal,
        "bind_addresses": ["127.0.0.1"],
        "type": "http",
        "resources": [{"names": ["replication"]}],
    }
    return [public, replication] if layout == "T2" else [public]


def _log_to(process: ServerProcess, shared: dict[str, Any], folder: Path) -> None:
    """Configure a process to write its log to its file."""
    log_config = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"lines": {"()": "hs.lib.log.TextFormatter"}},
        "handlers": {
            "file": {
                "class": "logging.FileHandler",
                "filename": str(process.log),
                "formatter": "lines",
            }
        },
        "root": {"level": os.environ.get("HS_TEST_LOG_LEVEL", "INFO"), "handlers": ["file"]},
    }
    path = _write(folder / f"{process.name}.log.yaml", log_config)
    key = "log_config" if process.name == "main" else "worker_log_config"
    config = process.configs[-1]
    _write(config, {**yaml.safe_load(config.read_text()), key: str(path)})


def _write(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path
