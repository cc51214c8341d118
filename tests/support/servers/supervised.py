"""A server under `hs supervise`, started for a test with the command that administrators use."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import yaml

from hs.nursery.supervision.control_client import ask_supervisor
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.processes import (
    ROOT,
    SERVER_NAME,
    SHARED_SECRET,
    START_LIMIT_S,
    UNLIMITED,
    free_ports,
)

PROGRAM = [sys.executable, "-c", "from hs.cli.main import run; run()"]
WAIT_S = 150.0
_MAX_NAME = 12  # of a process, without hs-


@attrs.define(eq=False)
class SupervisedServer:
    """A supervisor, its data directory, and what it has written.

    Without `shape`, the directory has the files of workers.
    """

    folder: Path
    port: int
    first_port: int
    shape: str
    database: str = ""
    process: "subprocess.Popen[str] | None" = None
    lines: list[str] = attrs.field(factory=list)
    seen: set[int] = attrs.field(factory=set)

    def start(self) -> None:
        """Start the supervisor and wait until all processes are ready."""
        self.begin()
        self.wait_for_line("processes are ready")

    def begin(self) -> None:
        """Start the supervisor without waiting."""
        self.lines = []
        options = ["--config", str(self.folder)]
        options += ["--workers", self.shape] if self.shape else []
        self.process = subprocess.Popen(
            [*PROGRAM, "supervise", *options, "--first-port", str(self.first_port)],
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=environment(),
        )
        threading.Thread(target=self._read, args=(self.process,), daemon=True).start()

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stderr is not None
        with process.stderr:
            self.lines.extend(iter(process.stderr.readline, ""))

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run another command of hs with this server's configuration."""
        options = ["-c", str(self.folder / "homeserver.yaml")]
        return subprocess.run(
            [*PROGRAM, *command, *options],
            capture_output=True, text=True, check=False, env=environment(), timeout=WAIT_S,
        )  # fmt: skip

    def wait_for_line(self, text: str) -> str:
        """Wait for a line that contains a text, and return it."""
        wait_until(lambda: any(text in line for line in self.lines) or self._has_ended())
        found = [line for line in self.lines if text in line]
        assert found, self.output()
        return found[-1]

    def _has_ended(self) -> bool:
        assert self.process is not None
        return self.process.poll() is not None

    def shape_names(self) -> list[str]:
        """Return the names of the processes, as the kernel shortens them."""
        parts = [part.partition(":") for part in self.shape.split(",")]
        names = [
            f"{kind}{number}"
            for kind, _, count in parts
            for number in range(1, int(count or 1) + 1)
        ]
        return [name[:_MAX_NAME] for name in ("main", *names)]

    def pids(self) -> dict[str, int]:
        """Return the process IDs by name, of the children of the fork server."""
        assert self.process is not None
        found = {
            (Path("/proc") / str(pid) / "comm").read_text().strip().removeprefix("hs-"): pid
            for fork_server in children_of(self.process.pid)
            for pid in [fork_server, *children_of(fork_server)]
        }
        self.seen |= set(found.values())
        return found

    def status(self) -> dict[str, tuple[str, int]]:
        """Return the state and the process ID of each process, by its whole name."""
        lines = ask_supervisor(self.folder / "run", "status")
        found = (re.match(r"(\S+) +(.*?)(?:, process (\d+) for |, |:|$)", line) for line in lines)
        return {m[1]: (m[2], int(m[3] or 0)) for m in found if m and m[1] != "="}

    def is_whole(self) -> bool:
        """Return whether all processes are ready."""
        return all(state == "ready" for state, _ in self.status().values())

    def stop(self, number: int = signal.SIGINT) -> int:
        """Stop the supervisor with a signal, and return its exit status."""
        self.pids()
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(WAIT_S)

    def left_over(self) -> set[int]:
        """Return the processes of this server that still run, also those never seen before."""
        self.seen |= {pid for pid in map(int, _all_pids()) if _works_in(pid, self.folder)}
        return {pid for pid in self.seen if is_running(pid)}

    def output(self) -> str:
        """Return what the supervisor and the processes have written."""
        return "".join(self.lines)


@contextmanager
def supervised_server(
    postgres: PostgresServer, shape: str, **settings: Any
) -> Iterator[SupervisedServer]:
    """Prepare a server in a directory of its own; nothing is left of it after the block."""
    folder = Path(tempfile.mkdtemp(prefix="hs-sup-"))
    database = f"hs_supervised_{os.getpid()}_{folder.name.rpartition('-')[2]}".lower()
    postgres.psql(f"CREATE DATABASE {database} TEMPLATE template0")
    port, first_port = free_ports(2)
    arguments = {**postgres.arguments(database), "cp_min": 1, "cp_max": 5}
    shared = {
        "server_name": SERVER_NAME,
        "signing_key_path": str(folder / "signing.key"),
        "macaroon_secret_key": "macaroon-secret",
        "registration_shared_secret": SHARED_SECRET,
        "enable_registration": True,
        "enable_registration_without_verification": True,
        "bcrypt_rounds": 4,
        "database": {"name": "psycopg2", "args": arguments},
        "listeners": [
            {
                "port": port,
                "bind_addresses": ["127.0.0.1"],
                "type": "http",
                "resources": [{"names": ["client", "federation"]}],
            }
        ],
        **UNLIMITED,
        **settings,
    }
    (folder / "signing.key").write_text(f"ed25519 a_test {'A' * 43}\n")
    (folder / "homeserver.yaml").write_text(yaml.safe_dump(shared))
    server = SupervisedServer(folder, port, first_port, shape, database)
    try:
        yield server
    finally:
        if server.process is not None and server.process.poll() is None:
            server.stop(signal.SIGTERM)
        for pid in server.left_over():
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def environment() -> dict[str, str]:
    """Return the environment for commands of hs."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def children_of(pid: int) -> list[int]:
    """Return the children of a process."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return list(map(int, text.split()))


def _all_pids() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdigit()]


def _works_in(pid: int, folder: Path) -> bool:
    """Return whether the working directory of a process is in a folder."""
    try:
        return Path(os.readlink(f"/proc/{pid}/cwd")).is_relative_to(folder)
    except OSError:
        return False


def is_running(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def private_mib(pid: int) -> float:
    """Return the memory that a process shares with no other, in MiB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    sizes = re.findall(r"^Private_\w+: +(\d+) kB", text, re.MULTILINE)
    return sum(map(int, sizes)) / 1024


def wait_until(holds: Callable[[], bool], limit_s: float = START_LIMIT_S) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
