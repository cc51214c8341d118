"""A private Redis server for one test run."""

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

START_LIMIT_S = 60.0


class RedisMissing(RuntimeError):
    """redis-server is not installed."""


@attrs.define
class RedisServer:
    """A Redis server that listens on a Unix socket in its own directory."""

    directory: Path
    program: str
    options: Sequence[str] = ()
    password: str = ""
    process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> str:
        """The path of its Unix socket."""
        return str(self.directory / "redis.sock")

    def start(self) -> None:
        """Start the server and wait until it responds."""
        command = [
            self.program, "--port", "0", "--unixsocket", self.socket, "--save", "",
            "--appendonly", "no", "--dir", str(self.directory), "--logfile", "log", *self.options,
        ]  # fmt: skip
        if self.password:
            command += ["--requirepass", self.password]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + START_LIMIT_S
        while self.cli("PING") != "PONG":
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.directory / "log").read_text())
            time.sleep(0.02)

    def stop(self) -> None:
        """Kill the server; its data is lost."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def pause(self) -> None:
        """Suspend the server, so that connections stay open but nothing responds."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Resume the server after `pause`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def cli(self, *command: str) -> str:
        """Run a command with redis-cli and return its output."""
        return self._run_cli(command, b"")

    def publish(self, channel: str, payload: bytes) -> None:
        """Publish a message on a channel."""
        self._run_cli(("-x", "PUBLISH", channel), payload)

    def _run_cli(self, arguments: Sequence[str], given: bytes) -> str:
        secret = ["-a", self.password, "--no-auth-warning"] if self.password else []
        command = ["redis-cli", "-s", self.socket, *secret, *arguments]
        completed = subprocess.run(command, input=given, capture_output=True, check=False)
        return completed.stdout.decode().strip()


@contextmanager
def running_redis(*options: str, password: str = "") -> Iterator[RedisServer]:
    """Run a private server; all its files are deleted at the end.

    Raises: RedisMissing.
    """
    program = shutil.which("redis-server")
    if program is None:
        raise RedisMissing("install redis-server to run these tests")
    folder = Path(tempfile.mkdtemp(prefix="hs-redis-"))
    server = RedisServer(folder, program, options, password)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.directory, ignore_errors=True)
