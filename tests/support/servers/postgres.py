"""A private PostgreSQL server for one test run."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs

FAST = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "1d",
    "autovacuum": "off",
    "shared_buffers": "64MB",
    "max_connections": "200",
    "listen_addresses": "",
    "log_min_messages": "fatal",
}
START_LIMIT_S = 120.0
SUPERUSER = "postgres"


class PostgresMissing(RuntimeError):
    """PostgreSQL's server programs are not installed."""


@attrs.define
class PostgresServer:
    """A PostgreSQL server that listens only on a Unix socket in its own directory."""

    directory: Path
    programs: Path
    process: subprocess.Popen[bytes] | None = None
    settings: dict[str, str] = attrs.field(factory=lambda: dict(FAST))
    # The schema of the test database before a test changes it.
    shape: str | None = None
    tables: set[str] = attrs.field(factory=set)
    sequences: set[str] = attrs.field(factory=set)

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        options = [
            part for key, value in self.settings.items() for part in ("-c", f"{key}={value}")
        ]
        command = [
            str(self.programs / "postgres"), "-D", str(self.directory / "data"),
            "-k", str(self.directory), *options,
        ]  # fmt: skip
        with (self.directory / "log").open("ab") as log_file:
            self.process = subprocess.Popen(
                command, stdout=log_file, stderr=log_file, cwd=self.directory, **as_postgres()
            )
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while self.psql("SELECT 1", check=False) != "1":
            assert self.process is not None
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.directory / "log").read_text())
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop the server immediately, as a crash would."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait()
            self.process = None

    def psql(self, statement: str, *, database: str = "postgres", check: bool = True) -> str:
        """Run a statement as superuser with psql and return its output."""
        completed = subprocess.run(
            [
                self.programs / "psql", "-XqAt", "-h", self.directory, "-U", SUPERUSER,
                "-d", database, "-c", statement,
            ],
            check=check, capture_output=True, text=True,
        )  # fmt: skip
        return completed.stdout.strip()

    def arguments(self, database: str) -> dict[str, Any]:
        """Return the arguments of asyncpg.connect for a database."""
        return {"host": str(self.directory), "user": SUPERUSER, "database": database}


@contextmanager
def running_postgres(**settings: str) -> Iterator[PostgresServer]:
    """Run a private server; all its files are deleted at the end.

    With `synchronous_commit="on"` committed data survives `stop`.

    Raises: PostgresMissing.
    """
    server = PostgresServer(
        Path(tempfile.mkdtemp(prefix="hs-pg-")), find_programs(), settings={**FAST, **settings}
    )
    try:
        if os.getuid() == 0:
            shutil.chown(server.directory, SUPERUSER)
        subprocess.run(
            [
                server.programs / "initdb", "-D", server.directory / "data", "-U", SUPERUSER,
                "-A", "trust", "--no-sync", "--locale=C", "-E", "UTF8", "--no-instructions",
            ],
            check=True, capture_output=True, cwd=server.directory, **as_postgres(),
        )  # fmt: skip
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.directory, ignore_errors=True)


def processes_of(server: PostgresServer) -> list[int]:
    """Return the process IDs of the server, the parent first."""
    assert server.process is not None
    parent = server.process.pid
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [parent, *map(int, children)]


@contextmanager
def stopped(server: PostgresServer) -> Iterator[None]:
    """Stop all processes of the server for the block."""
    pids = processes_of(server)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            # Once the first ones go on, they may end others, whose clients are gone.
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def find_programs() -> Path:
    """Return the folder of the newest server programs, which Debian keeps off the PATH."""
    on_path = shutil.which("initdb")
    candidates = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3])
    )
    if not candidates and on_path is None:
        raise PostgresMissing("install PostgreSQL's server (initdb, postgres) to run these tests")
    return candidates[-1].parent if candidates else Path(str(on_path)).resolve().parent


def as_postgres() -> dict[str, Any]:
    """Return arguments of Popen that drop root privileges, as PostgreSQL refuses to run as root."""
    return {"user": SUPERUSER, "group": SUPERUSER} if os.getuid() == 0 else {}
