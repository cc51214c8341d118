"""The servers that are measured: hs from this checkout, and an installed Synapse."""

import json
import os
import secrets
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import trio
import yaml

from hs.core.ids import ServerName, UserID
from tests.support.servers.certificates import Certificates
from tests.support.servers.http_client import HttpClient
from tests.support.servers.processes import UNLIMITED, Cluster, free_ports, make_cluster

START_S = 120.0
IDLE_S = 2.0
MAX_IDLE_TICKS = 3
SETTLE_S = 600.0
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_FEDERATION_LIMITS = {"sleep_limit": 100_000, "reject_limit": 100_000, "concurrent": 100}


@attrs.define(eq=False)
class MeasuredServer:
    """A running server with one local user; `port` serves clients and servers without TLS."""

    label: str
    name: ServerName
    port: int
    pid: int
    user_id: UserID = UserID("")
    token: str = ""

    def client(self) -> HttpClient:
        """Return a client of the local user."""
        return HttpClient(self.port, self.token)

    async def register(self) -> None:
        """Create the local user."""
        async with HttpClient(self.port) as client:
            body: dict[str, Any] = {"username": "local", "password": "bench 12345678"}
            body["auth"] = {"type": "m.login.dummy"}
            response = await client.post("/_matrix/client/v3/register", body)
            assert response.status == 200, response.json
            self.user_id = UserID(response.json["user_id"])
            self.token = response.json["access_token"]

    def cpu_s(self) -> float:
        """Return the CPU time of the process, its threads and its children, in seconds."""
        return sum(_ticks_of(pid) for pid in _with_children(self.pid)) * _TICK_S

    async def settle(self, idle_s: float = IDLE_S) -> float:
        """Wait until the server does nothing for a while; return its CPU time before that."""
        with trio.fail_after(SETTLE_S):
            while True:
                before = self.cpu_s()
                await trio.sleep(idle_s)
                after = self.cpu_s()
                if after - before <= MAX_IDLE_TICKS * _TICK_S + 1e-9:
                    return before


def _ticks_of(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return sum(int(ticks) for ticks in fields[11:15])  # with children that have ended


def _with_children(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in task.read_text().split():
                yield from _with_children(int(child))


def _settings(port: int, tls_port: int, certificates: Certificates) -> dict[str, Any]:
    """Return what both servers are configured with."""

    def listener(listener_port: int, has_tls: bool) -> dict[str, Any]:
        return {
            "port": listener_port,
            "bind_addresses": ["127.0.0.1"],
            "type": "http",
            "tls": has_tls,
            "resources": [{"names": ["client", "federation"]}],
        }

    return {
        "server_name": f"127.0.0.1:{tls_port}",
        "listeners": [listener(port, False), listener(tls_port, True)],
        "tls_certificate_path": str(certificates.certificate),
        "tls_private_key_path": str(certificates.key),
        "federation_custom_ca_list": [str(certificates.authority)],
        "ip_range_blacklist": [],
        "trusted_key_servers": [],
        "report_stats": False,
        "rc_federation": _FEDERATION_LIMITS,
        "enable_registration": True,
        "enable_registration_without_verification": True,
        **UNLIMITED,
    }


@contextmanager
def running_hs(
    label: str, folder: Path, certificates: Certificates, prefix: Sequence[str]
) -> Iterator[MeasuredServer]:
    """Run hs; `prefix` is put before its command."""
    port, tls_port = free_ports(2)
    folder.mkdir()
    settings = _settings(port, tls_port, certificates)
    cluster: Cluster = make_cluster("T0", folder, None, None, settings)
    main = cluster.processes["main"]
    main.port, main.prefix = port, prefix
    try:
        cluster.start()
        assert main.process is not None
        yield MeasuredServer(label, ServerName(settings["server_name"]), port, main.process.pid)
        cluster.stop()
    finally:
        cluster.kill_all()


@contextmanager
def running_synapse(
    python: str, label: str, folder: Path, certificates: Certificates, prefix: Sequence[str]
) -> Iterator[MeasuredServer]:
    """Run the Synapse that is installed for a Python; `prefix` is put before its command."""
    port, tls_port = free_ports(2)
    folder.mkdir()
    config = folder / "homeserver.yaml"
    log_config = folder / "log.yaml"
    log_config.write_text(json.dumps(_synapse_log(folder / "synapse.log")))
    settings = {
        **_settings(port, tls_port, certificates),
        "pid_file": str(folder / "synapse.pid"),
        "log_config": str(log_config),
        "media_store_path": str(folder / "media"),
        "signing_key_path": str(folder / "signing.key"),
        "macaroon_secret_key": secrets.token_hex(16),
        "form_secret": secrets.token_hex(16),
        "suppress_key_server_warning": True,
        "database": {"name": "sqlite3", "args": {"database": str(folder / "synapse.db")}},
    }
    config.write_text(yaml.safe_dump(settings))
    command = [python, "-m", "synapse.app.homeserver", "--config-path", str(config)]
    subprocess.run([*command, "--generate-keys"], check=True, capture_output=True, cwd=folder)
    with ExitStack() as stack:
        output = stack.enter_context((folder / "output.log").open("wb"))
        process = stack.enter_context(
            subprocess.Popen([*prefix, *command], stdout=output, stderr=output, cwd=folder)
        )
        try:
            _wait_up(f"http://127.0.0.1:{port}/_matrix/client/versions", process)
            yield MeasuredServer(label, ServerName(settings["server_name"]), port, process.pid)
        finally:
            process.send_signal(signal.SIGTERM)


def _synapse_log(path: Path) -> dict[str, Any]:
    """Return the log configuration that Synapse generates: INFO, buffered, to a file."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"lines": {"format": "%(asctime)s %(name)s %(levelname)s %(message)s"}},
        "handlers": {
            "file": {
                "class": "logging.FileHandler",
                "filename": str(path),
                "formatter": "lines",
            },
            "buffer": {
                "class": "synapse.logging.handlers.PeriodicallyFlushingMemoryHandler",
                "target": "file",
                "capacity": 10,
                "flushLevel": 30,
                "period": 5,
            },
        },
        "root": {"level": "INFO", "handlers": ["buffer"]},
    }


def _wait_up(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, "Synapse did not start; see output.log"
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(url)
